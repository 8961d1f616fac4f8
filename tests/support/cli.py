"""The `pensieved` command in a child process."""

from __future__ import annotations

import os
import subprocess
import sys


def pensieved(*args, timeout=180, stdin="", **env) -> subprocess.CompletedProcess[str]:
    """Run it in this process's environment, with `env` on top."""
    return subprocess.run(
        [sys.executable, "-m", "pensieved", *map(str, args)],
        capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, **env}, input=stdin,
    )  # fmt: skip


def expect(code: int, *args, **options) -> subprocess.CompletedProcess[str]:
    """Run it, and show everything where the exit code is another."""
    done = pensieved(*args, **options)
    assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
