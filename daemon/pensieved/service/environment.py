"""What of the user's shell goes into the agent's environment.

launchd starts agents with PATH=/usr/bin:/bin:/usr/sbin:/sbin and little else: a proxy, a mirror or a Hub cache
that the shell knows would be unknown to the daemon. So `install` writes what matters into the plist. Not
secrets: anybody may read a plist. A Hub token belongs into the Hub's own file (`hf auth login`), which the
daemon finds without any variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pensieved.service.secrecy import is_secret
from pensieved.settings.paths import LABEL_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_CARRIED = re.compile(
    r"HF_.+|HUGGINGFACE_.+|PENSIEVED_.+|PIP_.+|XDG_(?:CACHE|CONFIG|DATA|STATE)_HOME"
    r"|(?:HTTPS?|ALL|NO)_PROXY|(?:https?|all|no)_proxy"
    r"|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_OURS = frozenset({"PENSIEVED_CONFIG", "PENSIEVED_LAUNCHCTL", LABEL_VARIABLE})  # said by other means
_SYSTEM_PATH = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class AgentEnvironment:
    """`variables` for the plist, and the names of the `withheld` ones, which are secrets."""

    variables: dict[str, str]
    withheld: tuple[str, ...]


def agent_environment(
    shell: Mapping[str, str], label: str, *, overruled: Collection[str] = ()
) -> AgentEnvironment:
    """The environment of the agent `label`.

    Args:
        shell: the environment of the command that installs.
        label: the agent's.
        overruled: variables that a flag of the same command contradicts; they stay out.
    """
    matter = {name: value for name, value in sorted(shell.items()) if _CARRIED.fullmatch(name) and value}
    names = [name for name in matter if name not in _OURS and name not in overruled]
    withheld = tuple(name for name in names if is_secret(name, matter[name]))
    return AgentEnvironment(
        {
            "PATH": _search_path(shell.get("PATH", "")),
            LABEL_VARIABLE: label,
            "PYTHONSAFEPATH": "1",  # a json.py in the home folder must not stand in for the module
            **{name: matter[name] for name in names if name not in withheld},
        },
        withheld,
    )


def _search_path(path: str) -> str:
    """The shell's PATH: absolute folders only, each once, and the system's in any case."""
    usable = [part for part in path.split(":") if Path(part).is_absolute() and not set(part) & set("~$")]
    return ":".join(dict.fromkeys([*usable, *_SYSTEM_PATH]))
