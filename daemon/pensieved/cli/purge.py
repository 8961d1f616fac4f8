"""What `uninstall --purge` removes, which is only what pensieved itself has made."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from pensieved.cli.agents import agent_settings
from pensieved.cli.logs import log_file
from pensieved.errors import ConfigError, PensievedError
from pensieved.models.cache import ModelCache
from pensieved.service.agent import find_agent, installed_plist
from pensieved.settings.paths import PROMPTS, launch_agents_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pensieved.service.agent import Agent


def purge_agent(agent: Agent) -> Callable[[], Iterator[str]]:
    """Note now what belongs to the agent; the result removes it, and yields a line for each thing removed.

    Two steps, because where things are stands in the plist and the TOML, which go in between.
    """
    files = [agent.config, *log_file(agent).generations(), agent.output, agent.loaded_note]
    cache = _cache_dir(agent)

    def remove() -> Iterator[str]:
        if cache is not None and (sharer := _shared_with(cache, agent)):
            yield f"kept     {cache}, which {sharer} uses too"
        elif cache is not None:
            yield from _remove_models(cache)
        for path in files:
            if path.is_file():
                path.unlink()
                yield f"removed  {path}"

    return remove


def _cache_dir(agent: Agent) -> Path | None:
    try:
        return agent_settings(agent).cache.dir
    except ConfigError:
        return None


def _shared_with(cache: Path, agent: Agent) -> str | None:
    """Another installed agent with the same folder of models, or None."""
    for path in sorted(launch_agents_dir().glob("*.plist")):
        with contextlib.suppress(PensievedError):
            other = find_agent(path.stem)
            arguments = (installed_plist(other) or {}).get("ProgramArguments", [])
            if other.label != agent.label and "pensieved" in arguments and _cache_dir(other) == cache:
                return other.label
    return None


def _remove_models(folder: Path) -> Iterator[str]:
    """The models one by one: the folder may be anybody's, and hold other things."""
    cache = ModelCache(folder)
    for entry in cache.entries():
        try:
            cache.remove(entry.key)
        except PensievedError as error:
            yield f"kept     {entry.key}: {error}"
        else:
            yield f"removed  {folder}: {entry.key}"
    cache.collect_garbage()
    if (prompts := folder / PROMPTS).is_dir():
        shutil.rmtree(prompts, ignore_errors=True)
        yield f"removed  {prompts}"
