"""launchctl, spoken to: always by its full path, with a timeout, its words captured and its code understood."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pensieved.errors import ServiceError
from pensieved.service.exitcodes import Code, explain

LAUNCHCTL = "/bin/launchctl"
VARIABLE = "PENSIEVED_LAUNCHCTL"
_TIMEOUT = 15.0
_FIELD = re.compile(r"\t([a-z][a-z ]*) = (.+)")
_DISABLED_BLOCK = re.compile(r"disabled services = \{(.*?)^\s*\}", re.DOTALL | re.MULTILINE)
_DISABLED = re.compile(r'^\s*"(.+)" => (\w+)$', re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What one call of launchctl came to."""

    verb: str
    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.code == Code.OK

    def error(self) -> ServiceError:
        """The outcome as an error with its reason and what to do."""
        meaning = explain(self.code, self.stderr)
        return ServiceError(f"launchctl {self.verb}: {meaning.what}", hint=meaning.hint)


@dataclass(frozen=True)
class Job:
    """A loaded agent as `launchctl print` shows it; what cannot be read there is None.

    Args:
        domain: where it is loaded, ``gui/501`` or ``user/501``.
        state: launchd's word: running, not running, spawn scheduled, …
        pid: of the running daemon.
        runs: how often launchd has started it since it was loaded.
        last_exit: code or signal of the last end, in launchd's words.
    """

    domain: str
    state: str | None = None
    pid: int | None = None
    runs: int | None = None
    last_exit: str | None = None

    @property
    def ending(self) -> bool:
        """Whether it was told to go and has not gone yet; launchd's state is then the signal it sent."""
        return self.state is not None and self.state.startswith("SIG")


class Launchctl:
    """One launchctl executable, for one user.

    Args:
        path: the executable; by default $PENSIEVED_LAUNCHCTL, else /bin/launchctl.
        timeout: seconds for a call.
    """

    def __init__(self, path: str | None = None, timeout: float = _TIMEOUT) -> None:
        self._path = path or os.environ.get(VARIABLE) or LAUNCHCTL
        self._timeout = timeout

    @property
    def exists(self) -> bool:
        """Whether this system has it."""
        return Path(self._path).exists()

    def run(self, verb: str, *arguments: str, timeout: float | None = None) -> Outcome:
        """Call it.

        Raises:
            ServiceError: it is not there or does not answer in time.
        """
        seconds = self._timeout if timeout is None else timeout
        try:
            done = subprocess.run(
                [self._path, verb, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(
                f"launchctl {verb} did not answer within {seconds:.0f} s.",
                hint="Try again; if it stays so, log in anew.",
            ) from None
        except OSError as error:
            raise ServiceError(
                f"{self._path} cannot be run: {error.strerror}.",
                hint="Agents are for launchd, which is macOS's. Elsewhere, let your service manager call `pensieved run`.",
            ) from error
        return Outcome(verb, done.returncode, _text(done.stdout), _text(done.stderr))

    def job(self, domain: str, label: str) -> Job | None:
        """The agent as loaded in `domain`, or None. Whether it is loaded comes from the exit code alone.

        Raises:
            ServiceError: launchctl says neither yes nor no.
        """
        printed = self.run("print", f"{domain}/{label}")
        if printed.ok:
            return parse_job(domain, printed.stdout)
        if printed.code in {Code.NO_SERVICE, Code.NO_DOMAIN, Code.NO_SESSION, Code.NO_SUCH_PROCESS}:
            return None
        raise printed.error()

    def is_disabled(self, domain: str, label: str) -> bool:
        """Whether the store of overrides has the agent switched off; False where it cannot be read."""
        return parse_disabled(self.run("print-disabled", domain).stdout).get(label, False)


def parse_job(domain: str, printed: str) -> Job:
    """Read `launchctl print`: the format is not stable, and nested blocks repeat the names.

    Only lines with exactly one leading tab count; the last of equal ones would be a later section's, so the
    first wins.
    """
    fields: dict[str, str] = {}
    for line in printed.splitlines():
        if match := _FIELD.fullmatch(line):
            fields.setdefault(match[1], match[2].strip())
    return Job(
        domain=domain,
        state=fields.get("state"),
        pid=_number(fields.get("pid")),
        runs=_number(fields.get("runs")),
        last_exit=_last_exit(fields),
    )


def parse_disabled(printed: str) -> dict[str, bool]:
    """Labels and whether each is switched off; newer systems say disabled/enabled, older ones true/false."""
    block = _DISABLED_BLOCK.search(printed)
    found = _DISABLED.findall(block[1]) if block else []
    words = {"disabled": True, "true": True, "enabled": False, "false": False}
    return {label: words[word] for label, word in found if word in words}


def _last_exit(fields: dict[str, str]) -> str | None:
    if signal := fields.get("last terminating signal"):
        return f"signal {signal}"
    code = fields.get("last exit code")
    return None if code is None or code.startswith("(") else f"code {code}"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
