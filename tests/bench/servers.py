"""A contestant under way: started, awaited, asked, looked at, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench.dialects import DIALECTS, Request
from bench.figures import rounded
from bench.load import Target, ask, fetch, measured, stories
from bench.process import Child, ContestantError, StartError, gpu_memory, look
from bench.prompts import story
from bench.wire import WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.contestants import Contestant, Setup

_START_SECONDS = 900.0
_LOOK_SECONDS = 0.005
_FIRST_TOKENS = 4
_URL = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Server:
    """A server that answers."""

    def __init__(self, contestant: Contestant, child: Child, port: int) -> None:
        self.contestant = contestant
        self.child = child
        self.port = port
        self.started: dict[str, Any] = {}

    def target(self, dialect: str = "openai") -> Target:
        """Where the load goes."""
        return Target(self.port, self.contestant.model, DIALECTS[dialect])

    async def begin(self, seed: str) -> None:
        """Returns when it has answered and is ready; `started` says how long that and its port took."""
        await first_answer(self, seed)
        if self.contestant.ready:
            await until_ready(self)

    async def level(
        self, seed: str, *, concurrency: int, requests: int, tokens: int, dialect: str = "openai"
    ) -> dict[str, Any]:
        """One closed loop. Raises ContestantError where nothing at all was answered."""
        figures = await measured(self.target(dialect), stories(seed, requests, tokens), concurrency)
        if figures["faults"] == figures["requests"]:
            self.child.check()
            raise ContestantError(f"no request was answered: {figures['first_fault']}")
        return figures

    def processes(self) -> list[dict[str, Any]]:
        """As `process.look` has them."""
        return look(self.child.tree())


class CeilingProcess(Server):
    """The ceiling behind the same face."""

    async def begin(self, seed: str) -> None:
        del seed
        await asyncio.to_thread(self._exchange, {})
        self.started = {"loaded": rounded(time.perf_counter() - self.child.begun)}

    async def level(
        self, seed: str, *, concurrency: int, requests: int, tokens: int, dialect: str = "openai"
    ) -> dict[str, Any]:
        del dialect
        wanted = {"seed": seed, "concurrency": concurrency, "requests": requests, "tokens": tokens}
        return await asyncio.to_thread(self._exchange, wanted)

    def _exchange(self, wanted: dict[str, Any]) -> dict[str, Any]:
        pipe_in, pipe_out = self.child.process.stdin, self.child.process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        if wanted:
            pipe_in.write(json.dumps(wanted) + "\n")
            pipe_in.flush()
        line = pipe_out.readline()
        if not line:
            self.child.process.wait()
            self.child.check()
        return dict(json.loads(line))


@contextlib.asynccontextmanager
async def running(contestant: Contestant, setup: Setup, log: Path, seed: str) -> AsyncIterator[Server]:
    """The contestant, once it has answered a first time; ended with all its processes afterwards."""
    port = 0 if contestant.chooses_port else free_port()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    is_ceiling = contestant.name == "ceiling"
    before, kept = gpu_memory(), setup.has_kernels(contestant.name)
    command = contestant.command(setup, port)
    environment = setup.environment(contestant.name, blas=contestant.blas)
    child = Child(command, environment, log, **(pipes if is_ceiling else {}))
    server = (CeilingProcess if is_ceiling else Server)(contestant, child, port)
    try:
        try:
            await server.begin(seed)
        except ContestantError as error:
            raise StartError(str(error)) from None
        server.started |= {**resident(server, before), **({"kept": True} if kept else {})}
        yield server
    finally:
        child.end()


async def first_answer(server: Server, seed: str) -> None:
    """Waits for the port, then asks until there is an answer; the times since the start are the server's `started`."""
    await port_up(server)
    child, request = server.child, Request(messages=(story(f"{seed}/first"),), tokens=_FIRST_TOKENS)
    up = time.perf_counter() - child.begun
    while True:
        sent = time.perf_counter() - child.begun
        answer = await ask(server.target(), request)
        if not answer.fault():
            break
        child.check()
        if sent > _START_SECONDS:
            raise ContestantError(f"no answer in {_START_SECONDS:.0f} s: {answer.fault()}")
        await asyncio.sleep(_LOOK_SECONDS)
    token = sent + (answer.ttft if answer.ttft is not None else answer.seconds)
    server.started = {"port_up": rounded(up), "first_token": rounded(token)}


async def until_ready(server: Server) -> None:
    """Waits for the contestant's own word that nothing is left to compile."""
    while await fetch(server.port, server.contestant.ready) != 200:
        server.child.check()
        await asyncio.sleep(_LOOK_SECONDS)
    server.started["ready"] = rounded(time.perf_counter() - server.child.begun)


async def port_up(server: Server) -> None:
    """Returns when an HTTP request gets any response at all."""
    deadline = server.child.begun + _START_SECONDS
    while time.perf_counter() < deadline:
        server.child.check()
        if server.port == 0:
            found = _URL.search(server.child.log.read_text(errors="replace"))
            server.port = int(found[1]) if found else 0
        if server.port:
            with contextlib.suppress(OSError, WireError):
                await fetch(server.port, "/health")
                return
        await asyncio.sleep(_LOOK_SECONDS)
    raise ContestantError(f"its port was not up in {_START_SECONDS:.0f} s: {server.child.last_words()}")


def resident(server: Server, gpu_before: int | None) -> dict[str, Any]:
    """Memory by process, and what more of the GPU's is in use than before it was started."""
    gpu = gpu_memory()
    more = {"gpu_memory": gpu - gpu_before} if gpu is not None and gpu_before is not None else {}
    return {"processes": server.processes(), **more}


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
