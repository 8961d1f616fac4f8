"""What launchctl's exit codes mean: mostly errno, then launchd's own from 107 on."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Code(IntEnum):
    """The exit codes that decide what happens next."""

    OK = 0
    NO_SUCH_PROCESS = 3  # bootout of what is not loaded
    IO = 5  # bootstrap: still draining after a bootout, already loaded, or disabled
    IN_PROGRESS = 36  # bootout: it has been asked to end and has not yet
    ALREADY = 37
    NO_DOMAIN = 112
    NO_SERVICE = 113
    DISABLED = 119
    NO_SESSION = 125  # the gui domain of somebody who is not logged in at the screen


class Meaning(NamedTuple):
    """One sentence for the user, and what to do."""

    what: str
    hint: str


_REINSTALL = "`pensieved install` writes the agent anew."
_SCREEN = "Log in at the screen as this user, or install over ssh alone: pensieved then uses user/UID."

MEANINGS: dict[int, Meaning] = {
    3: Meaning("There is no such process: the agent is not loaded.", "`pensieved start` loads it."),
    5: Meaning(
        "launchd answers with an input/output error: the agent is still ending, is loaded already, or is switched off.",
        "Wait half a minute and try again. `launchctl print-disabled gui/$UID` shows what is switched off.",
    ),
    36: Meaning("launchd is still at it.", "Wait half a minute and try again."),
    37: Meaning("launchd is at it already.", "Wait half a minute and try again."),
    64: Meaning(
        "launchctl does not know these arguments.", "This macOS is too old: 10.11 is the first that does."
    ),
    109: Meaning("launchd cannot read the property list.", _REINSTALL),
    110: Meaning("launchd refuses the label in the property list.", _REINSTALL),
    111: Meaning("launchd refuses the program in the property list.", _REINSTALL),
    112: Meaning("This user has no such launchd domain.", _SCREEN),
    113: Meaning("launchd does not know the agent: it is not loaded.", "`pensieved start` loads it."),
    119: Meaning(
        "The agent is switched off.",
        "Switch it on in System Settings > General > Login Items & Extensions > Allow in the Background "
        "(it is listed as python or pensieved), then `pensieved start`.",
    ),
    122: Meaning(
        "launchd refuses the property list for its owner or permissions.",
        "It must belong to you and be writable by you alone: chown it, chmod 644 it, and install again.",
    ),
    124: Meaning(
        "The launchd domain is going down: the session is ending.", "Try again after the next login."
    ),
    125: Meaning("The launchd domain does not support this: there is no graphical session.", _SCREEN),
    133: Meaning("More than one launchd session fits.", _SCREEN),
    134: Meaning("This is the wrong launchd session for the agent.", _SCREEN),
}


def explain(code: int, stderr: str) -> Meaning:
    """The meaning of a code, with launchctl's own words where the code alone says too little."""
    own = " ".join(stderr.split())
    if code in MEANINGS:
        return MEANINGS[code]
    return Meaning(
        f"launchctl failed with code {code}{f': {own}' if own else ''}.",
        "The system log may say more: log show --last 5m --predicate 'process == \"launchd\"'",
    )
