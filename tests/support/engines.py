"""A scripted engine: the engine's protocol without MLX, for tests of what stands around it.

`engine_config(tmp_path, Script(...))` gives an `EngineConfig` whose engine process is this file. For any prompt it
produces the script's `output`, `per_step` ids a step, then the request's first stop token (or none, if it has
none). A resumed request gets the rest. `poison` names token ids which, in a prompt, make the engine misbehave.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pensieved.engine import protocol
from pensieved.engine.launch import EngineConfig
from pensieved.engine.worker.link import Link, hold_lifeline

CRASH = "crash"  # SIGSEGV
EXIT = "exit"  # exit code 3
FAULT = "fault"  # a Fault frame, then exit
PERMANENT = "permanent"  # a permanent Fault
HANG = "hang"  # silence
REFUSE = "refuse"  # this request only


@dataclass
class Script:
    """What the engine does.

    Attributes:
        output: ids of every answer; empty: count up from `first` until max_tokens.
        first: first id of a counted answer.
        echo: answer with the prompt.
        per_step: ids per request and step.
        step_delay: seconds a step takes.
        poison: token id in a prompt → what happens when it is submitted.
        die_after: steps after which the engine does `die_how`; 0: never.
        die_how: see above.
        lives: how many of its lives are affected by `die_after` and `on_load`; 0: all.
        on_load: "" loads well; else what happens instead.
        load_delay: seconds that loading takes.
        on_warm: "" compiles well; else what happens when it has loaded.
        warm_file: while it names a file that is not there, the engine compiles, and answers meanwhile.
        chatter: text printed at start.
        log: file to which each life adds a line with its pid.
    """

    output: list[int] = field(default_factory=list)
    first: int = 100
    echo: bool = False
    per_step: int = 1
    step_delay: float = 0.0
    poison: dict[int, str] = field(default_factory=dict)
    die_after: int = 0
    die_how: str = CRASH
    lives: int = 0
    on_load: str = ""
    load_delay: float = 0.0
    on_warm: str = ""
    warm_file: str = ""
    chatter: str = ""
    log: str = ""


def engine_config(folder: Path, script: Script | None = None, **settings) -> EngineConfig:
    """Configuration of an engine that follows `script`; `folder` is for its files."""
    script = script or Script()
    script.log = script.log or str(folder / "lives")
    defaults = {"hang_timeout": 60.0, "load_timeout": 60.0}
    return EngineConfig(
        cache_dir=folder,
        command=(sys.executable, "-P", __file__, "--script", json.dumps(asdict(script))),
        **{**defaults, **settings},
    )


def lives(folder: Path) -> list[int]:
    """Pids of all engine processes that `folder`'s configuration has started, in order."""
    log = folder / "lives"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


class ScriptedEngine:
    def __init__(self, link: Link, script: Script, life: int) -> None:
        self.link = link
        self.script = script
        self.affected = not script.lives or life <= script.lives
        self.running: dict[int, tuple[protocol.Submit, list[int]]] = {}
        self.steps = 0

    def misbehave(self, how: str) -> None:
        if how == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == HANG:
            threading.Event().wait()
        elif how in {FAULT, PERMANENT}:
            self.link.send(protocol.Fault("scripted fault", permanent=how == PERMANENT))
        os._exit(3)

    def answer(self, submit: protocol.Submit) -> list[int]:
        """All ids of the answer, from its first."""
        total = submit.position + submit.max_tokens
        prompt = submit.prompt[: len(submit.prompt) - submit.position]
        if self.script.echo:
            ids = list(prompt)
        else:
            ids = self.script.output or list(range(self.script.first, self.script.first + total))
        return [*ids, *submit.stop_tokens[:1]][:total]

    def apply(self, frame: protocol.ToEngine) -> None:
        if isinstance(frame, protocol.Cancel):
            self.running.pop(frame.request, None)
        elif isinstance(frame, protocol.Submit):
            self.link.send(protocol.Taken(frame.request))
            how = next((how for token, how in self.script.poison.items() if token in frame.prompt), None)
            if how == REFUSE:
                self.link.send(protocol.Refused(frame.request, "scripted refusal"))
            elif how is not None:
                self.misbehave(how)
            else:
                self.running[frame.request] = (frame, self.answer(frame)[frame.position :])

    def step(self) -> None:
        time.sleep(self.script.step_delay)
        outputs = []
        for request, (submit, rest) in list(self.running.items()):
            now, later = rest[: self.script.per_step], rest[self.script.per_step :]
            finish = None
            if not later:
                stopped = bool(now) and now[-1] in submit.stop_tokens
                finish = protocol.FinishReason.STOP if stopped else protocol.FinishReason.LENGTH
                del self.running[request]
            else:
                self.running[request] = (submit, later)
            outputs.append(protocol.Output(request, tuple(now), finish))
        self.link.send(protocol.Step(tuple(outputs)))
        self.steps += 1
        if self.affected and self.steps == self.script.die_after:
            self.misbehave(self.script.die_how)

    def live(self) -> None:
        self.link.send(protocol.Hello(os.getpid(), "0", "0", "scripted"))
        while not isinstance(self.link.receive(0.2), protocol.Load):
            self.link.send(protocol.Heartbeat(0, 0, 0))
        time.sleep(self.script.load_delay)
        if self.affected and self.script.on_load:
            self.misbehave(self.script.on_load)
        self.link.send(protocol.Warming())
        self.link.send(protocol.Loaded(1000, 0.0))
        if self.affected and self.script.on_warm:
            self.misbehave(self.script.on_warm)
        warm = False
        while True:
            if not warm and (not self.script.warm_file or Path(self.script.warm_file).exists()):
                self.link.send(protocol.Warm(0.0))
                warm = True
            patience = 0.0 if self.running else 0.2 if warm else 0.01
            while (frame := self.link.receive(patience)) is not None:
                self.apply(frame)
                patience = 0.0
            if self.running:
                self.step()
            else:
                self.link.send(protocol.Heartbeat(len(self.running), 1, 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--fd", "--lifeline"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--script", required=True)
    options = parser.parse_args()
    hold_lifeline(options.lifeline)
    values = json.loads(options.script)
    values["poison"] = {int(token): how for token, how in values["poison"].items()}
    script = Script(**values)
    with Path(script.log).open("a+") as log:
        log.write(f"{os.getpid()}\n")
        log.seek(0)
        life = len(log.readlines())
    if script.chatter:
        print(script.chatter, flush=True)  # noqa: T201  what it is for
    ScriptedEngine(Link(socket.socket(fileno=options.fd)), script, life).live()


if __name__ == "__main__":
    main()
