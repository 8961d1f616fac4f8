"""Waitress' request parser, with what it lets through stopped.

Found with raw sockets: a Content-Length of five thousand digits and an address such as ``http://[`` raise inside
the parser, which drops the connection and logs a traceback; chunk sizes and trailers may be as long as a body,
and are searched from their beginning with every packet; control characters may stand in the address.

It also lets the door look at the headers of a request whose body is still on its way, so that nobody can make
the daemon take in megabytes that it will not read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.errors import RequestError

    Screen = Callable[[str, str, Callable[[str], str | None]], RequestError | None]

LONGEST_CHUNK_LINE = 4096
LONGEST_TRAILER = 64 * 1024

_WORTH_A_LOOK = 64 * 1024  # bytes; smaller bodies are taken in and judged by the app, which says more
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")


class Refused(BadRequest):  # type: ignore[misc]  # waitress has no types
    """What the parser notes down where the door refuses."""

    def __init__(self, refusal: RequestError) -> None:
        super().__init__(refusal.what)
        self.refusal = refusal


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """See the module."""

    screen: Screen | None = None
    body_rcv: Any  # Waitress' own, declared for the type checker
    completed: bool
    error: Any

    _screened = False

    def received(self, data: bytes) -> int:
        """Parse; returns how many bytes belong to this request."""
        consumed = int(super().received(data))
        if self.headers_finished and not self._screened:
            self._screened = True
            self._screen()
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers.

        Raises:
            ParsingError: they are malformed.
        """
        line = header_plus.partition(b"\r\n")[0].rstrip()
        if any(_CONTROL.search(word) for word in line.split(b" ")):
            raise ParsingError("Control characters in the request line")
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("The address or a length is malformed") from error
        if self.chunked:
            self.body_rcv = _Chunks(self.body_rcv.getbuf())

    def _screen(self) -> None:
        screen = type(self).screen
        big = self.chunked or self.content_length > _WORTH_A_LOOK
        if screen is None or not big or self.error or self.completed:
            return
        refusal = screen(self.path.rstrip("/"), f"HTTP/{self.version}", self._header)
        if refusal is not None:
            self.error = Refused(refusal)
            self.completed = True

    def _header(self, name: str) -> str | None:
        value: Any = self.headers.get(name.upper().replace("-", "_"))
        return None if value is None else str(value)


class _Chunks(ChunkedReceiver):  # type: ignore[misc]  # waitress has no types
    """A chunked body whose framing cannot be as long as itself."""

    def received(self, s: bytes) -> int:
        """Take in some of the body; returns how many bytes."""
        consumed = int(super().received(s))
        if len(self.control_line) > LONGEST_CHUNK_LINE or len(self.trailer) > LONGEST_TRAILER:
            self.error = BadRequest("A chunk's size or the trailer is too long")
        return consumed
