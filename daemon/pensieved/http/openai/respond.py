"""Choices to an HTTP response: as a stream of events, or as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import falcon

from pensieved.chat.events import Failure, Idle
from pensieved.http.errors import failed
from pensieved.http.stream import AnswerStream, StreamEncoder, send_stream

if TYPE_CHECKING:
    from pensieved.http.openai.choices import Choice, ChoiceEvent, Choices

PING = b": ping\n\n"
"""A comment: OpenAI's streams have no ping event."""

DONE = b"data: [DONE]\n\n"


class Builder(Protocol):
    """Collects what the choices say into one object."""

    def add(self, choice: Choice) -> None:
        """One event."""

    def result(self) -> bytes:
        """The object as JSON, once every choice has finished."""


def respond_whole(resp: falcon.Response, choices: Choices, builder: Builder) -> None:
    """Answer when everything has been said.

    Raises:
        RequestError: a choice failed.
        ClientGoneError: the client went away.
    """
    try:
        for event in choices:
            if isinstance(event, Failure):
                raise failed(event)
            if not isinstance(event, Idle):
                builder.add(event)
        resp.data = builder.result()
    finally:
        choices.close()
    resp.content_type = falcon.MEDIA_JSON


def respond_stream(resp: falcon.Response, choices: Choices, encoder: StreamEncoder[ChoiceEvent]) -> None:
    """Answer while it is said."""
    send_stream(resp, AnswerStream(choices, encoder))
