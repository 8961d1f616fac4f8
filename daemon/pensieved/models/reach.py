"""Whether a path answers at all.

A dead network volume hangs whoever asks it, and macOS lets a program that runs in the background wait for ever for a
question on the screen that nobody sees (Desktop, Documents, Downloads, external volumes), or refuses it. So a child asks.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

from pensieved.errors import PermanentError

if TYPE_CHECKING:
    from pathlib import Path

_PROBE = """
import os, sys
try:
    os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1]) else open(sys.argv[1], "rb").read(1)
except OSError as error:
    sys.exit(error.errno)
"""
_SECONDS = 10.0
_SETTING = "System Settings > Privacy & Security > Files and Folders"


def check_reachable(path: Path) -> None:
    """Refuse a path that does not answer, or that this program may not read; what is missing is for others to tell.

    Raises:
        PermanentError: says what to do.
    """
    command = [sys.executable, "-I", "-S", "-c", _PROBE, str(path)]
    try:
        code = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        raise PermanentError(
            f"{path} does not answer within {_SECONDS:.0f} s.",
            hint=f"Is the volume still there? On macOS, may python read it ({_SETTING})?",
        ) from None
    if code in {errno.EPERM, errno.EACCES}:
        raise PermanentError(
            f"{path} may not be read by this program.",
            hint=f"Check its owner and mode; on macOS also {_SETTING} > python, or move it elsewhere.",
        )
