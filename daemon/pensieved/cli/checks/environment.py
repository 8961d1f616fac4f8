"""Variables that change what the daemon does, and the Hub's token: that it is there, never what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.checks.storage import configured_key
from pensieved.errors import PensievedError
from pensieved.models.cache import ModelCache
from pensieved.models.source import HubSource, parse_source
from pensieved.service.secrecy import is_secret
from pensieved.settings.load import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pensieved.cli.checks.scene import Scene

_PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_BARE_PATH = {"/usr/bin", "/bin", "/usr/sbin", "/sbin"}
_TRUE = {"1", "on", "yes", "true"}


def environment(scene: Scene) -> Iterator[Finding]:
    """The Hub's variables, proxies, overrides of the TOML, and a PATH that is launchd's."""
    variables = scene.environment
    found = [*_hub(scene, variables), *_proxies(variables), *_overrides(variables), *_path(variables)]
    yield from found or [Finding("environment", Level.OK, "No variable changes what the TOML says.")]


def token(scene: Scene) -> Iterator[Finding]:
    """Whether the daemon finds a token for gated models."""
    variables = scene.environment
    named = next((name for name in _TOKENS if variables.get(name)), None)
    file = Path(variables.get("HF_TOKEN_PATH") or _hub_home(variables) / "token").expanduser()
    if named:
        yield Finding("token", Level.OK, f"The Hub's token is in ${named}; it is not shown.")
    elif file.is_file() and file.stat().st_size:
        yield Finding("token", Level.OK, f"The Hub's token is in {file}; it is not shown.")
    else:
        yield Finding(
            "token",
            Level.NOTE,
            "There is no token of the Hub's.",
            "Only gated and private models need one.",
            "`hf auth login` stores one where the daemon finds it.",
        )


def _hub(scene: Scene, variables: Mapping[str, str]) -> Iterator[Finding]:
    if home := variables.get("HF_HOME"):
        there = Path(home).expanduser().is_dir()
        words = f"The Hub's files are in {home} ($HF_HOME){'' if there else ', which is not there yet'}."
        yield Finding("environment", Level.NOTE, words)
    if endpoint := variables.get("HF_ENDPOINT"):
        words = f"Models come from {_without_login(endpoint)} instead of the Hub ($HF_ENDPOINT)."
        yield Finding("environment", Level.NOTE, words)
    if variables.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        yield _offline(scene)


def _offline(scene: Scene) -> Finding:
    words = "Nothing is fetched from the Hub ($HF_HUB_OFFLINE)."
    if not _from_hub(scene) or _prepared(scene):
        return Finding("environment", Level.NOTE, words)
    return Finding(
        "environment",
        Level.PROBLEM,
        words,
        f"{scene.settings.model.url} is not prepared, and cannot be as long as that is set.",
        "Unset HF_HUB_OFFLINE; for an agent, `pensieved install` takes the shell's variables over.",
    )


def _from_hub(scene: Scene) -> bool:
    model = scene.settings.model
    try:
        return isinstance(parse_source(model.url, model.revision), HubSource)
    except PensievedError:
        return False


def _prepared(scene: Scene) -> bool:
    key = configured_key(scene.settings)
    return any(entry.key == key for entry in ModelCache(scene.settings.cache.dir).entries())


def _proxies(variables: Mapping[str, str]) -> Iterator[Finding]:
    found = {name: value for name, value in variables.items() if name.lower() in _PROXIES and value}
    if found:
        words = ", ".join(f"{name}={_without_login(value)}" for name, value in sorted(found.items()))
        yield Finding("environment", Level.NOTE, f"Downloads go through proxies: {words}.")


def _overrides(variables: Mapping[str, str]) -> Iterator[Finding]:
    """``PENSIEVED_SECTION__KEY``: they win over the TOML, which surprises whoever edits that."""
    found = {name: value for name, value in variables.items() if name.startswith(ENV_PREFIX) and "__" in name}
    for name, value in sorted(found.items()):
        shown = "(not shown)" if is_secret(name, value) else repr(value)
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        yield Finding(
            "environment", Level.NOTE, f"{name} is {shown}.", f"It wins over {section}.{key} in the TOML."
        )


def _path(variables: Mapping[str, str]) -> Iterator[Finding]:
    if set(variables.get("PATH", "").split(":")) <= _BARE_PATH | {""}:
        yield Finding(
            "environment",
            Level.NOTE,
            "PATH is launchd's bare one.",
            "Programs from Homebrew or a virtual environment are not found.",
            "`pensieved install` from a shell takes that shell's PATH over.",
        )


def _hub_home(variables: Mapping[str, str]) -> Path:
    cache = variables.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(variables.get("HF_HOME") or f"{cache}/huggingface")


def _without_login(url: str) -> str:
    """A URL without the name and password that may stand in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "…@", 1) if "@" in parts.netloc else url
