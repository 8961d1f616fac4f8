"""HTTP responses and server-sent events, read by hand.

The load generator shares a small machine with what it measures. An HTTP library spends several times the processor
time of this on each event, and pools connections or buffers in ways that would have to be understood before a gap
between two tokens could be believed. Both readers take bytes in any pieces and do no I/O, so that tests can cut
streams wherever they like.
"""

from __future__ import annotations

from enum import Enum, auto


class WireError(Exception):
    """What came is no HTTP response, or not a whole one."""


class _Framing(Enum):
    HEAD = auto()
    CHUNKED = auto()
    LENGTH = auto()
    UNTIL_CLOSE = auto()  # HTTP/1.0, as mlx_lm.server speaks it
    DONE = auto()


class ResponseReader:
    """One HTTP/1.x response: `status` and `headers` once they are there, the body as it comes."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._framing = _Framing.HEAD
        self._buffer = b""
        self._left = 0

    @property
    def done(self) -> bool:
        """Whether the whole body has come."""
        return self._framing is _Framing.DONE

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` completes."""
        self._buffer += data
        if self._framing is _Framing.HEAD and not self._read_head():
            return b""
        match self._framing:
            case _Framing.CHUNKED:
                return self._chunks()
            case _Framing.LENGTH:
                body, self._buffer = self._buffer[: self._left], b""
                self._left -= len(body)
                if not self._left:
                    self._framing = _Framing.DONE
                return body
            case _Framing.UNTIL_CLOSE:
                body, self._buffer = self._buffer, b""
                return body
            case _:
                return b""

    def close(self) -> None:
        """The connection has ended. Raises WireError if more was promised."""
        if self._framing is _Framing.UNTIL_CLOSE:
            self._framing = _Framing.DONE
        if not self.done:
            raise WireError(f"the connection ended within the response (status {self.status or 'unknown'})")

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise WireError(f"no HTTP response: {first[:60]!r}")
        self.status, self._buffer = int(status[:3]), rest
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._framing = self._framing_of_body()
        return True

    def _framing_of_body(self) -> _Framing:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return _Framing.CHUNKED
        length = self.headers.get("content-length")
        if length is None:
            return _Framing.UNTIL_CLOSE
        self._left = int(length)
        return _Framing.LENGTH if self._left else _Framing.DONE

    def _chunks(self) -> bytes:
        parts = []
        while True:
            size_line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                break
            size = int(size_line.partition(b";")[0], 16)
            if size == 0:
                self._framing = _Framing.DONE
                break
            if len(rest) < size + 2:
                break
            parts.append(rest[:size])
            self._buffer = rest[size + 2 :]
        return b"".join(parts)


class EventReader:
    """The data of server-sent events; comments, names and retry times are nothing to us."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        """The data of each event that `body` completes."""
        if not body:
            return []
        *lines, self._buffer = (self._buffer + body).split(b"\n")
        events = []
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" "))
            elif not text and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


def post(path: str, port: int, body: bytes) -> bytes:
    """A request that asks for a stream of events. The key is for servers that want one, whichever it is."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nx-api-key: bench\r\nanthropic-version: 2023-06-01\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def get(path: str, port: int) -> bytes:
    """A request for a page."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
