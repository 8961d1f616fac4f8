"""The HTTP front over a real Waitress on loopback, with an engine that says what the test wants.

Everything is real down to the engine's client: only the process behind it is replaced, by a thread that
answers `Submit` frames with ids chosen by the test, one id a step, and honours `max_tokens`, stop tokens and
`Cancel` as the engine does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.control.reload import ConfigReport
from pensieved.control.serving import ServingModel
from pensieved.control.status import Phase, StatusBoard
from pensieved.engine.client import EngineClient
from pensieved.engine.protocol import (
    Cancel,
    FinishReason,
    MemoryStats,
    Output,
    PromptCacheStats,
    Recalled,
    Refused,
    SpeculationStats,
    Step,
    Submit,
    ToEngine,
    TokenLogprobs,
)
from pensieved.http.admission import Admission
from pensieved.http.app import create_app
from pensieved.http.door import Door
from pensieved.http.listen import bind
from pensieved.http.server import HttpServer, threads_for
from pensieved.models.manifest import Manifest, TokenizerFacts
from pensieved.settings.schema import ServerSettings, Settings
from support.chat_templates import CHATML
from support.tiny_tokenizers import byte_level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

END = "<|im_end|>"
TOKENS = {"bos_token": "<|bos|>", "eos_token": "</s>"}
MODEL = "tiny/model"


def ids_of(text: str) -> list[int]:
    """Ids of `text`, special tokens in it recognised."""
    return byte_level().encode(text, add_special_tokens=False).ids


def scripted_logprobs(token: int, wanted: int) -> TokenLogprobs:
    """What the scripted engine says of each token: it is the likeliest, and those with the next ids follow."""
    return TokenLogprobs(-0.25, tuple((token + place, -0.25 - place) for place in range(wanted)))


class ScriptedEngine:
    """Plays the engine process for an `EngineClient`. `answer` gives the ids for each submission."""

    def __init__(self, answer: Callable[[Submit], Sequence[int]], tokens_per_step: int = 1) -> None:
        self.client = EngineClient()
        self.answer = answer
        self.tokens_per_step = tokens_per_step
        self.submitted: list[Submit] = []
        self.cancelled: list[int] = []
        self.refusal: str | None = None
        self.overloaded = False  # whether that is for now only
        self.recall: Callable[[Submit], Recalled] | None = None
        self.running: dict[
            int, tuple[Submit, list[int], int]
        ] = {}  # request, what is left, how much was sent
        self._flowing = threading.Event()
        self._flowing.set()
        self._inbox: queue.Queue[ToEngine | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="scripted-engine")
        self._thread.start()
        self.client.attach(self._inbox.put)

    def pause(self) -> None:
        """Produce nothing until `resume`, as during a long prefill."""
        self._flowing.clear()

    def resume(self) -> None:
        """Produce again."""
        self._flowing.set()

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                frame = self._inbox.get(timeout=0.005 if self.running else None)
            except queue.Empty:
                if self._flowing.is_set():
                    self._step()
                continue
            if frame is None:
                return
            self._take(frame)

    def _take(self, frame: ToEngine) -> None:
        if isinstance(frame, Submit) and self.refusal:
            self.submitted.append(frame)
            self.client.refuse(Refused(frame.request, self.refusal, self.overloaded))
        elif isinstance(frame, Submit):
            self.submitted.append(frame)
            if self.recall is not None:
                self.client.recall(self.recall(frame))
            self.running[frame.request] = (frame, list(self.answer(frame)), 0)
        elif isinstance(frame, Cancel):
            self.cancelled.append(frame.request)
            self.running.pop(frame.request, None)

    def _step(self) -> None:
        outputs = [self._output(request) for request in list(self.running)]
        self.client.dispatch(Step(tuple(outputs)))

    def _output(self, request: int) -> Output:
        submit, left, sent = self.running[request]
        tokens: list[int] = []
        finish = None
        while left and len(tokens) < self.tokens_per_step and finish is None:
            tokens.append(left.pop(0))
            if tokens[-1] in submit.stop_tokens:
                finish = FinishReason.STOP
            elif sent + len(tokens) >= submit.max_tokens:
                finish = FinishReason.LENGTH
        self.running[request] = (submit, left, sent + len(tokens))
        if finish is not None:
            del self.running[request]
        wanted = submit.logprobs
        logprobs = () if wanted is None else tuple(scripted_logprobs(token, wanted) for token in tokens)
        return Output(request, tuple(tokens), finish, logprobs)


@dataclass
class EngineFacts:
    """What status shows of an engine."""

    pid: int | None = 4711
    restarts: int = 2
    resumed: int = 1
    running: int = 0
    active_memory: int = 1000
    cache_memory: int = 10
    prompt_cache: PromptCacheStats = field(
        default_factory=lambda: PromptCacheStats(entries=3, memory=300, disk_entries=2, disk=2000)
    )
    memory: MemoryStats = field(
        default_factory=lambda: MemoryStats(available=9000, margin=500, waiting=1, sheds=4, shed=700)
    )
    speculation: SpeculationStats = field(default_factory=lambda: SpeculationStats(drafted=50, accepted=40))


@dataclass
class StandInDaemon:
    """The control plane's face, with fields a test may set."""

    settings: Settings = field(default_factory=Settings)
    status: StatusBoard = field(default_factory=StatusBoard)
    started_at: float = field(default_factory=time.time)
    serving: ServingModel | None = None
    engine: EngineFacts = field(default_factory=EngineFacts)

    settled: bool = True
    config_report: ConfigReport = field(default_factory=lambda: ConfigReport(path=None, read_at=0.0))

    def reload(self) -> ConfigReport:
        """As if nothing had changed."""
        return self.config_report

    def engine_stats(self) -> EngineFacts | None:
        """As if an engine ran whenever a model serves."""
        return self.engine if self.serving else None


def manifest() -> Manifest:
    """A prepared model's manifest, as small as it may be."""
    return Manifest(
        name=MODEL,
        source="hf://tiny/model",
        revision="main",
        commit="c0ffee",
        format="safetensors",
        quantization="auto",
        effective_quantization="none",
        backend="cpu",
        model_type="llama",
        architecture="LlamaForCausalLM",
        context_length=512,
        eos_token_ids=(),
        parameters=1,
        weight_bytes=4,
        tokenizer=TokenizerFacts(),
        created="2026-01-01T00:00:00Z",
        versions={},
        files=(),
        sources=(),
    )


def serving_model(
    engine: ScriptedEngine, *, name: str = MODEL, context_length: int = 512, template: str | None = CHATML
) -> ServingModel:
    """A resident model over the tiny byte-level tokenizer."""
    return ServingModel(
        name=name,
        aliases=("claude-*",),
        context_length=context_length,
        loaded_at=1_700_000_000.0,
        manifest=manifest(),
        text=ChatTokenizer(byte_level(), template, TOKENS, ()),
        engine=engine.client,
    )


@dataclass
class Response:
    """Status, headers (lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class Front:
    """A running server and everything behind it."""

    daemon: StandInDaemon
    engine: ScriptedEngine
    admission: Admission
    server: HttpServer

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Response(reply.status, names, reply.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        """GET."""
        return self.request("GET", path)

    def post(self, path: str, content: Any) -> Response:
        """POST of JSON."""
        return self.request("POST", path, json.dumps(content).encode(), {"content-type": "application/json"})

    @contextlib.contextmanager
    def streaming(self, **fields: Any) -> Iterator[Iterator[str]]:
        """A streamed answer's event names, one by one as they arrive."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            body = json.dumps(question(stream=True, **fields)).encode()
            connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
            reply = connection.getresponse()
            assert reply.status == 200
            yield (line[7:-1].decode() for line in reply if line.startswith(b"event: "))
        finally:
            connection.close()

    def say(self, text: str = "Hello", **fields: Any) -> Response:
        """POST /v1/messages with one user turn."""
        return self.post("/v1/messages", question(text, **fields))


def question(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The smallest Messages request."""
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}]} | fields


def events(stream: bytes) -> list[tuple[str, Any]]:
    """Server-sent events as (name, data)."""
    parsed = []
    for block in stream.decode().split("\n\n"):
        if block:
            name, data = block.split("\n")
            parsed.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return parsed


@contextlib.contextmanager
def running_front(
    text: str = f"Paris.{END}",
    *,
    max_concurrent: int = 4,
    max_queued: int = 8,
    serving: bool = True,
    context_length: int = 512,
    tokens_per_step: int = 1,
    **server: Any,
) -> Iterator[Front]:
    """A server whose engine answers everything with `text`; ready unless `serving` is False."""
    settings = Settings(server=ServerSettings(**server))
    engine = ScriptedEngine(lambda _: ids_of(text), tokens_per_step)
    daemon = StandInDaemon(settings)
    if serving:
        daemon.serving = serving_model(engine, context_length=context_length)
        daemon.status.enter(Phase.READY)
    admission = Admission(max_concurrent, max_queued)
    door = Door(settings.server)
    front = HttpServer(
        create_app(daemon, admission, door),
        [bind("127.0.0.1", 0)],
        threads=threads_for(max_concurrent, max_queued),
        max_body=settings.server.max_body,
        door=door,
    )
    thread = threading.Thread(target=front.run, name="http")
    thread.start()
    try:
        yield Front(daemon, engine, admission, front)
    finally:
        admission.abort()
        engine.resume()
        front.close()
        thread.join(15)
        engine.stop()
        assert not thread.is_alive()


def wait_until(condition: Callable[[], Any], timeout: float = 60.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
