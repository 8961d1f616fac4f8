"""`python -m bench`: measure, and keep it as JSON. `--help` lists the options; bench.report makes the page."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from bench import caches, contestants, fair, levels, machine, soak, startup, tables
from bench.plan import WORK, Plan, parse, told
from bench.prepare import prepared, set_up
from bench.process import ContestantError, StartError
from bench.result import Result
from bench.servers import running
from bench.shapes import MADE_BY

if TYPE_CHECKING:
    from bench.contestants import Contestant, Setup
    from bench.servers import Server
    from pensieved.models.manifest import Manifest

RESULTS = Path("docs", "benchmarks")
_ALWAYS = frozenset({"ceiling", "daemon", "mlx_lm.server"})
_TOLD = ("levels", "requests", "tokens", "rounds", "parts", "soak", "seed", "quick")
_LEAST_SLOTS = 9  # `fair` has as many clients


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, setup: Setup, manifest: Manifest) -> None:
        self.plan, self.setup = plan, setup
        self.entered, told = _who(setup, plan.only)
        self.result = Result({**_facts(plan, setup, manifest), **told}, path=_out(plan, manifest))
        self.tokenizer = Tokenizer.from_file(str(setup.folder / "tokenizer.json"))
        self.failed: set[str] = set()
        self.dead: set[str] = set()

    async def measure(self) -> bool:
        """Everything asked for; whether all that must work did."""
        self.result.facts["bare_interpreter"] = startup.bare_interpreter(self.setup)
        self.result.save()
        if "levels" in self.plan.parts:
            for round_ in range(self.plan.rounds):
                for each in self.entered[:: -1 if round_ % 2 else 1]:
                    await self._guarded("levels", each, self._levels(each, round_))
        for each in self.entered:
            if each.name not in {"ceiling", "stock"}:
                await self._parts(each)
        self.result.complete = True
        self.result.save()
        return not self.failed & _ALWAYS

    async def _levels(self, each: Contestant, round_: int) -> None:
        if each.levels and round_:
            return  # too slow for more than one
        async with running(each, self.setup, self._log(each), f"{self.plan.seed}/{round_}") as server:
            self.result.add("start", each.name, round_, **server.started)
            await levels.measure_levels(server, self.plan, self.result, round_)

    async def _parts(self, each: Contestant) -> None:
        plan, result, log = self.plan, self.result, self._log(each)
        if "waves" in plan.parts:
            for round_ in range(plan.rounds):
                measure = partial(levels.measure_waves, plan=plan, result=result, round_=round_)
                await self._served("waves", each, measure, round_=round_)
        if "fair" in plan.parts:
            context = self.setup.context
            await self._served(
                "fair", each, lambda server: fair.measure_fair(server, plan, result, self.tokenizer, context)
            )
        for part, measure in (("turns", caches.measure_turns), ("prefix", caches.measure_prefix)):
            if part in plan.parts:
                await self._served(
                    part, each, lambda server, measure=measure: measure(server, plan, result, self.tokenizer)
                )
        if each.name == "daemon":
            await self._daemon_parts(each, log)

    async def _daemon_parts(self, each: Contestant, log: Path) -> None:
        plan, result = self.plan, self.result
        if "restart" in plan.parts:
            for round_ in range(plan.rounds):
                measured = caches.measure_restart(
                    each, self.setup, plan, result, tokenizer=self.tokenizer, log=log, round_=round_
                )
                await self._guarded("restart", each, measured)
        if "port" in plan.parts:
            measured = startup.measure_port(each, self.setup, result, log, plan.port_rounds)
            await self._guarded("port", each, measured)
        if plan.soak:
            await self._served("soak", each, self._soak, soak.with_full_cache(self.setup))

    async def _soak(self, server: Server) -> None:
        ceiling = next((each for each in self.entered if each.name == "ceiling"), None)
        if ceiling is None:
            await soak.measure_soak(server, self.plan, self.result)
            return
        async with running(ceiling, self.setup, self._log(ceiling), f"{self.plan.seed}/soak") as beside:
            await soak.measure_soak(server, self.plan, self.result, beside)

    async def _served(
        self, part: str, each: Contestant, measure: Any, setup: Setup | None = None, round_: int = 0
    ) -> None:
        """A part on a server of its own: what one part leaves in caches is nothing to the next."""

        async def whole() -> None:
            seed = f"{self.plan.seed}/{round_}/{part}"
            async with running(each, setup or self.setup, self._log(each), seed) as server:
                self.result.add("again", each.name, round_, at=part, **server.started)
                await measure(server)

        await self._guarded(part, each, whole())

    async def _guarded(self, part: str, each: Contestant, measuring: Any) -> None:
        """One contestant's failure is a line in the result, and the run goes on; one that cannot start is left out."""
        if each.name in self.dead:
            measuring.close()
            return
        print(f"{part:8} {each.name}", flush=True)
        try:
            await measuring
        except ContestantError as error:
            print(f"{part:8} {each.name} failed: {error}", file=sys.stderr, flush=True)
            self.failed.add(each.name)
            if isinstance(error, StartError):
                self.dead.add(each.name)
            self.result.add("failure", each.name, 0, where=part, reason=str(error)[:300])

    def _log(self, each: Contestant) -> Path:
        return WORK.resolve() / "logs" / f"{each.name}.log"


def _facts(plan: Plan, setup: Setup, manifest: Manifest) -> dict[str, Any]:
    """All that a reader must know besides the measurements and who took part."""
    blas = Path(setup.blas["LD_PRELOAD"].partition(":")[0]).name if setup.blas else ""
    made_by = json.loads((setup.folder / "config.json").read_text(encoding="utf-8")).get(MADE_BY)
    return {
        "made": dt.datetime.now(dt.UTC).date().isoformat(),
        "arguments": shlex.join(told(plan.words)),
        "backend": manifest.backend,
        "machine": machine.facts(),
        "versions": machine.versions(),
        "model": {
            "name": manifest.name,
            "precision": manifest.effective_quantization,
            "parameters": manifest.parameters,
            "weight_bytes": manifest.weight_bytes,
            "context_length": manifest.context_length,
            **({"made_by": made_by} if made_by else {}),
        },
        "blas": {"library": blas, "threads": setup.threads},
        "plan": {name: getattr(plan, name) for name in _TOLD},
    }


def _who(setup: Setup, only: tuple[str, ...]) -> tuple[list[Contestant], dict[str, Any]]:
    """Who takes part, and how that is told."""
    entered, absent = contestants.entered(setup, only)
    told = {}
    for each in entered:
        told[each.name] = {"command": each.shown(setup)}
        if each.program:
            told[each.name]["version"] = contestants.version_of(each)
    return entered, {"contestants": told, "absent": absent}


def _out(plan: Plan, manifest: Manifest) -> Path:
    if plan.out:
        return plan.out
    folder = WORK if plan.quick else RESULTS
    return (
        folder
        / f"{manifest.backend}-{manifest.name.rpartition('/')[2]}-{manifest.effective_quantization}.json"
    )


def main(words: list[str]) -> int:
    """Exit code 1 where the ceiling, the daemon or mlx_lm.server failed at something."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no contestant outlives this process
    plan = parse(words)
    plan.cache_dir.mkdir(parents=True, exist_ok=True)
    model = prepared(plan.model, plan.quantization, plan.cache_dir)
    setup = set_up(
        model,
        plan.model,
        plan.quantization,
        plan.cache_dir,
        slots=max(_LEAST_SLOTS, *plan.levels),
        gguf=plan.gguf,
    )
    run = Run(plan, setup, model.manifest)
    gc.collect()
    gc.freeze()  # to look at all of this again takes 20 ms, for which every stream would seem to pause
    good = asyncio.run(run.measure())
    print(tables.throughput(run.result), tables.ratios(run.result), run.result.path, sep="\n\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
