"""Part `port`: how soon the daemon's port answers, against importing what no such daemon can do without."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from bench.figures import rounded
from bench.process import Child, ContestantError, memory
from bench.servers import Server, port_up

if TYPE_CHECKING:
    from pathlib import Path

    from bench.contestants import Contestant, Setup
    from bench.result import Result

IMPORTS = "import falcon, waitress, pydantic_settings, structlog"
_BARE = "import mlx_lm.generate, mlx_lm.utils, sys; print(flush=True); sys.stdin.read()"


async def measure_port(contestant: Contestant, setup: Setup, result: Result, log: Path, rounds: int) -> None:
    """In turn: a process that imports and ends, and a daemon up to its first response, whatever it says."""
    for round_ in range(rounds):
        started = time.perf_counter()
        imported = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORTS)
        if await imported.wait():
            raise ContestantError(f"the interpreter could not {IMPORTS}")
        imports = time.perf_counter() - started
        child = Child(
            contestant.command(setup, 0), setup.environment(contestant.name, blas=contestant.blas), log
        )
        try:
            await port_up(Server(contestant, child, 0))
            up = time.perf_counter() - child.begun
        finally:
            child.end()
        result.add("port", contestant.name, round_, imports=rounded(imports), port_up=rounded(up))


def bare_interpreter(setup: Setup) -> dict[str, Any]:
    """Memory of a Python that has imported mlx-lm and nothing else: what an engine cannot go below."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BARE],
        env=setup.environment("bare", blas=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        return {"memory": memory(psutil.Process(process.pid))}
