"""Which TOML counts, whether it is right, and what it lets others do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pensieved.cli.checks.finding import Finding, Level
from pensieved.cli.declare import guarded
from pensieved.errors import PensievedError
from pensieved.http.door import check_exposure, is_loopback
from pensieved.models.source import FolderSource, GgufSource, parse_source
from pensieved.settings.paths import default_config_file

MACOS = sys.platform == "darwin"

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pensieved.cli.checks.scene import Scene
    from pensieved.settings import Settings


def configuration(scene: Scene) -> Iterator[Finding]:
    """Which file wins, and everything that is wrong in it: syntax, unknown keys, values, modes of files with keys."""
    if scene.config is None and scene.config_error is None:
        words = f"There is no TOML; the defaults count ({default_config_file()} would be read)."
        yield Finding("configuration", Level.OK, words)
    elif scene.config_error is None:
        yield Finding(
            "configuration", Level.OK, f"{scene.config} is valid.", f"It counts because {scene.wins}."
        )
    if scene.config_error is not None:
        yield from _errors(scene, scene.config_error)
    yield from _others(scene)
    yield from _trust(scene.settings)


def access(scene: Scene) -> Iterator[Finding]:
    """Who may come in."""
    server = scene.settings.server
    try:
        check_exposure(server)
    except PensievedError as error:
        yield Finding("access", Level.PROBLEM, error.what, "A daemon does not start like this.", error.hint)
        return
    keys = bool(server.api_keys or server.api_keys_file)
    if is_loopback(server.host):
        words = f"Only this machine may connect ({server.host}), {'with' if keys else 'without'} a key."
        yield Finding("access", Level.OK, words)
    else:
        yield Finding(
            "access",
            Level.NOTE,
            f"Other machines may connect ({server.host}), with a key.",
            "HTTP is not encrypted: whoever sees the traffic sees keys and prompts.",
            "Put a proxy that speaks TLS in front, where the network is not yours alone.",
        )


def folders(scene: Scene) -> Iterator[Finding]:
    """Places that macOS guards from programs without a window."""
    if not MACOS:
        return
    caught = guarded(paths(scene))
    for path in caught:
        yield Finding(
            "folders",
            Level.WARNING,
            f"macOS guards {path}.",
            "An agent that may not read it fails, or waits for a question on the screen that nobody sees.",
            "Move it, or allow python in System Settings > Privacy & Security > Files and Folders.",
        )
    if not caught:
        yield Finding("folders", Level.OK, "Nothing that is configured lies in a folder that macOS guards.")


def paths(scene: Scene) -> list[Path]:
    """Everything that the configuration makes the daemon read or write."""
    settings = scene.settings
    named = [scene.config, settings.cache.dir, settings.logging.file, settings.server.api_keys_file]
    try:
        source = parse_source(settings.model.url, settings.model.revision)
    except PensievedError:
        source = None
    if isinstance(source, FolderSource | GgufSource):
        named.append(Path(source.path))
    return [path for path in named if path is not None]


def _errors(scene: Scene, error: PensievedError) -> Iterator[Finding]:
    """One for each line: each names its file, line and key."""
    why = f"{scene.config or 'The environment'} counts ({scene.wins}); a daemon does not start with it."
    todo = error.hint or "`pensieved config edit` opens it, and takes it only once it is valid."
    for line in error.what.splitlines():
        yield Finding("configuration", Level.PROBLEM, line, why, todo)


def _others(scene: Scene) -> Iterator[Finding]:
    """A file in the default place that does not count is a trap for whoever edits it."""
    default = default_config_file()
    if scene.config is not None and scene.config != default.absolute() and default.exists():
        yield Finding(
            "configuration",
            Level.NOTE,
            f"{default} exists and does not count.",
            f"{scene.config} does: {scene.wins}.",
        )


def _trust(settings: Settings) -> Iterator[Finding]:
    if settings.model.trust_remote_code:
        yield Finding(
            "configuration",
            Level.NOTE,
            "model.trust_remote_code is on.",
            "Python code from the model's repository runs with your rights.",
            "Switch it off where the model does not need it.",
        )
