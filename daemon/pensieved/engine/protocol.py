"""Frames between the daemon and the engine process: token ids in, token ids out, nothing else.

On the wire: a 4-byte big-endian length, then a msgpack array whose first item is the frame's tag
(msgspec's tagged, array-like structs). Both ends are the same package version, so there is no negotiation.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct(">I")


class FinishReason(StrEnum):
    """Why the engine stopped producing tokens for a request."""

    STOP = "stop"  # one of `stop_tokens` was produced; it is the last token of the output
    LENGTH = "length"  # max_tokens were produced


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen. The defaults are greedy decoding.

    `seed` makes a request reproducible: the noise of output position i depends on (seed, i) alone, so a
    resumed request draws what it would have drawn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


# --- daemon → engine ---------------------------------------------------------------------------------------


class PromptCacheWish(msgspec.Struct, frozen=True, array_like=True):
    """How much of what was computed is kept. Sizes in bytes.

    Attributes:
        memory: at most; 0 keeps nothing, None leaves it to the engine.
        disk: at most, of all models together; 0 keeps nothing there.
        ttl: seconds without use after which an entry leaves the disk; 0: never.
        folder: where this model's entries are; its parent holds all models'.
        fingerprint: of everything that they depend on.
    """

    memory: int | None = 0
    disk: int = 0
    ttl: float = 0.0
    folder: str = ""
    fingerprint: str = ""


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Load the model in folder `path` and warm it up; answered by `Loaded` or `Fault`.

    `safety_margin`: bytes of memory to be left to the rest of the machine; None leaves that to the engine.
    """

    path: str
    max_concurrent: int
    prefill_chunk: int
    device: str  # auto, cpu or gpu
    trust_remote_code: bool = False
    prompt_cache: PromptCacheWish = PromptCacheWish()
    safety_margin: int | None = None
    speculation: bool = False


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Generate for `prompt` (token ids). `position` is the number of prompt-final ids that are earlier output.

    `logprobs` asks for log-probabilities: of each token produced, and of that many likeliest ones beside it.
    `grammar` is what the answer must follow, in llguidance's notation; empty leaves it free. `breakpoints` are numbers of
    prompt tokens, rising, after which other prompts are likely to go on differently.
    """

    request: int
    prompt: tuple[int, ...]
    max_tokens: int
    stop_tokens: tuple[int, ...]
    sampling: Sampling = Sampling()
    position: int = 0
    logprobs: int | None = None
    grammar: str = ""
    breakpoints: tuple[int, ...] = ()


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Forget a request; unknown ids are ignored, since a finish may cross the cancel on the wire."""

    request: int


ToEngine = Load | Submit | Cancel

# --- engine → daemon ---------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The process is up and has imported MLX; it can take a `Load`."""

    pid: int
    mlx: str
    mlx_lm: str
    device: str


class Warming(msgspec.Struct, frozen=True, array_like=True, tag="warming"):
    """Weights are loaded; shapes are being compiled."""


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    """Ready for `Submit`, though shapes may still be compiled. Sizes in bytes, times in seconds.

    `cuts`: the model's KV cache can be cut anywhere, and needs no breakpoints.
    """

    weight_bytes: int
    load_seconds: float
    cuts: bool = True


class Warm(msgspec.Struct, frozen=True, array_like=True, tag="warm"):
    """A first wave of requests finds everything compiled; `seconds` since the weights were loaded."""

    seconds: float


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely one token was, and the likeliest ones beside it as (id, log-probability), best first.

    Natural logarithms, after bias, penalties and grammar, before temperature and what cuts the tail off.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class Output(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one request; `finish` is set on its last. `logprobs` has one entry a token, where asked for."""

    request: int
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """All that one turn of the loop produced, for every request, in one frame."""

    outputs: tuple[Output, ...]


class PromptCacheStats(msgspec.Struct, frozen=True, array_like=True):
    """What the prompt cache holds, in entries and bytes; on disk, of all models."""

    entries: int = 0
    memory: int = 0
    disk_entries: int = 0
    disk: int = 0


class MemoryStats(msgspec.Struct, frozen=True, array_like=True):
    """What the memory guard sees. Sizes in bytes.

    Attributes:
        available: what could be taken, the margin included.
        margin: what is left to the rest of the machine.
        closed: new requests should not come now.
        waiting: requests that wait for memory.
        sheds: how often something was let go of for it, since the engine's start.
        shed: what that came to.
    """

    available: int = 0
    margin: int = 0
    closed: bool = False
    waiting: int = 0
    sheds: int = 0
    shed: int = 0


class SpeculationStats(msgspec.Struct, frozen=True, array_like=True):
    """Tokens that the engine drafted in its life, and those of them that were right."""

    drafted: int = 0
    accepted: int = 0


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="heartbeat"):
    """The loop turns. Sent about once a second, and at each step that produced nothing."""

    running: int
    active_memory: int
    cache_memory: int
    prompt_cache: PromptCacheStats = PromptCacheStats()
    memory: MemoryStats = MemoryStats()
    speculation: SpeculationStats = SpeculationStats()


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="taken"):
    """A `Submit` begins; sent before anything is done for it, so that a death can be told from never starting."""

    request: int


class Recalled(msgspec.Struct, frozen=True, array_like=True, tag="recalled"):
    """What the prompt cache had for a request; sent before its prompt is computed.

    Attributes:
        request: which one.
        cached: prompt tokens that were taken from it.
        matched: prompt tokens that agree with something in it, be it of use or not.
        instead: ids that it has in place of those that follow; empty where it has nothing, or the prompt ends.
    """

    request: int
    cached: int
    matched: int
    instead: tuple[int, ...] = ()


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """One request cannot be run; the engine is well. `overloaded`: it may be later."""

    request: int
    message: str
    overloaded: bool = False


class Fault(msgspec.Struct, frozen=True, array_like=True, tag="fault"):
    """The engine is about to exit. `permanent`: loading this model can never work (unsupported, malformed)."""

    message: str
    permanent: bool = False


FromEngine = Hello | Warming | Loaded | Warm | Taken | Recalled | Step | Heartbeat | Refused | Fault

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def encode(frame: ToEngine | FromEngine) -> bytes:
    """One frame as bytes, length prefix included."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into frame bodies, whatever the sizes in which the bytes arrive."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add received bytes; yields the body of each frame they complete."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._bytes, start)
            end = start + _LENGTH.size + size
            if len(self._bytes) < end:
                break
            yield bytes(self._bytes[start + _LENGTH.size : end])
            start = end
        del self._bytes[:start]


def decode_to_engine(body: bytes) -> ToEngine:
    """The daemon's frame in `body`. Raises msgspec.DecodeError."""
    return _to_engine.decode(body)


def decode_from_engine(body: bytes) -> FromEngine:
    """The engine's frame in `body`. Raises msgspec.DecodeError."""
    return _from_engine.decode(body)
