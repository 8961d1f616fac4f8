"""GET /openapi.json: the API as OpenAPI 3.1, made of the very structs that decode requests and encode answers.

Nothing of it is written twice: a field, a bound or a kind of content block that a dialect takes is in the
document because it is in the struct. What structs do not say, which route takes which one and what it may
answer, is the table below; a test compares it with the app's routes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import falcon
import msgspec

from pensieved import __version__
from pensieved.control.reload import ConfigReport
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic.schema import MessagesRequest, PromptFields
from pensieved.http.anthropic.shape import MessageAnswer
from pensieved.http.dialects import envelope_of
from pensieved.http.openai.chat import encode as chat_answers
from pensieved.http.openai.chat.schema import ChatRequest
from pensieved.http.openai.completions import encode as completions_answers
from pensieved.http.openai.completions.schema import CompletionsRequest
from pensieved.http.openai.embeddings import EmbeddingsRequest
from pensieved.http.openai.responses.schema import ResponsesRequest
from pensieved.http.openai.responses.shape import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"

_DOOR = (RequestErrorKind.AUTHENTICATION, RequestErrorKind.FORBIDDEN, RequestErrorKind.INTERNAL)
_BODY = (
    RequestErrorKind.INVALID,
    RequestErrorKind.TOO_LARGE,
    RequestErrorKind.MEDIA_TYPE,
    RequestErrorKind.NOT_FOUND,
    RequestErrorKind.OVERLOADED,
    RequestErrorKind.UNAVAILABLE,
    RequestErrorKind.TIMEOUT,
)
_DIALECTS = {"Anthropic": "/v1/messages", "OpenAI": "/v1/chat", "Both": "/v1/models"}
"""A path in each, to learn how its errors look."""

_REFS = "#/components/schemas/"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one route. `answer` None stands for any JSON object; `open` needs no key."""

    method: str
    path: str
    summary: str
    tag: str
    request: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    media: tuple[str, ...] = (JSON,)
    errors: tuple[RequestErrorKind, ...] = ()
    also: tuple[int, ...] = ()  # statuses that carry an answer like 200 does
    open: bool = False

    @property
    def identifier(self) -> str:
        """Unique among operations: ``post_v1_messages``."""
        words = self.path.strip("/").replace("{", "").replace("}", "").replace("/", "_")
        return f"{self.method}_{words.replace('.', '_') or 'page'}"


def _dialect(path: str) -> str:
    return next(name for name, place in _DIALECTS.items() if envelope_of(place) is envelope_of(path))


def _ask(path: str, summary: str, request: type, answer: type | None, *, streams: bool = True) -> Operation:
    return Operation(
        method="post",
        path=path,
        summary=summary,
        tag=_dialect(path),
        request=request,
        answer=answer,
        media=(JSON, EVENTS) if streams else (JSON,),
        errors=_BODY,
    )


def _look(path: str, summary: str, tag: str = "Operation", **more: Any) -> Operation:
    return Operation(method="get", path=path, summary=summary, tag=tag, **more)


OPERATIONS: tuple[Operation, ...] = (
    _look("/", "That this is a pensieved, and where to go", media=(TEXT,), open=True),
    _look("/health", "Whether the daemon lives", open=True),
    _look("/ready", "Whether a request would be answered now", also=(503,), open=True),
    _look("/openapi.json", "This document", open=True),
    _look("/metrics", "Counters, gauges and histograms for Prometheus", media=(TEXT,)),
    _look("/v1/status", "Everything an operator wants to know"),
    Operation(
        method="post",
        path="/v1/reload",
        summary="Read the configuration again; says key by key what came of it",
        tag="Operation",
        answer=ConfigReport,
    ),
    _look("/v1/models", "The resident model", "Both"),
    _look(
        "/v1/models/{model_id}",
        "The resident model, under any name it answers to",
        "Both",
        errors=(RequestErrorKind.NOT_FOUND,),
    ),
    _ask("/v1/messages", "Answer a conversation", MessagesRequest, MessageAnswer),
    _ask("/v1/messages/count_tokens", "Count a prompt's tokens", PromptFields, None, streams=False),
    _ask("/v1/chat/completions", "Answer a conversation", ChatRequest, chat_answers.ChatCompletion),
    _ask("/v1/completions", "Continue a text", CompletionsRequest, completions_answers.TextCompletion),
    _ask("/v1/responses", "Answer a conversation", ResponsesRequest, Response),
    _ask("/v1/embeddings", "Refused: the model generates text", EmbeddingsRequest, None, streams=False),
)


class Document:
    """GET /openapi.json."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """The same bytes each time."""
        resp.data = _encoded()
        resp.content_type = falcon.MEDIA_JSON


@functools.cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The whole document, as JSON types."""
    structs = {
        struct for operation in OPERATIONS for struct in (operation.request, operation.answer) if struct
    }
    references, components = _schemas(
        sorted(structs, key=lambda struct: (struct.__module__, struct.__name__))
    )
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        described = paths.setdefault(operation.path, {})
        described[operation.method] = _describe(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pensieved",
            "version": __version__,
            "summary": "A local model behind the APIs of Anthropic and OpenAI.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components | {f"{name}Error": _error_form(path) for name, path in _DIALECTS.items()},
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _describe(operation: Operation, references: dict[type, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.identifier,
        "summary": operation.summary,
        "tags": [operation.tag],
        # With keys configured one of them is needed, without none is: both is true of some daemon.
        "security": [] if operation.open else [{"ApiKey": []}, {"Bearer": []}, {}],
        "responses": _answers(operation, references) | _errors(operation),
    }
    if "{" in operation.path:
        described["parameters"] = [
            {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    if operation.request is not None:
        content = {JSON: {"schema": references[operation.request]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _answers(operation: Operation, references: dict[type, Any]) -> dict[str, Any]:
    schemas = {
        JSON: references[operation.answer] if operation.answer else {"type": "object"},
        EVENTS: {"type": "string", "description": "Server-sent events, where `stream` is true."},
        TEXT: {"type": "string"},
    }
    content = {media: {"schema": schemas[media]} for media in operation.media}
    said = {"description": operation.summary, "headers": _HEADERS, "content": content}
    return {str(status): said for status in (200, *operation.also)}


def _errors(operation: Operation) -> dict[str, Any]:
    envelope = envelope_of(operation.path)
    kinds = (*_DOOR, *operation.errors)
    if operation.open:
        kinds = tuple(kind for kind in kinds if kind is not RequestErrorKind.AUTHENTICATION)
    told: dict[str, list[str]] = {}
    for kind in (RequestErrorKind.INVALID, *kinds):  # INVALID also stands for a missing Host header
        told.setdefault(envelope(RequestError(kind, ""), "")[0], []).append(kind.value)
    schema = {"$ref": f"{_REFS}{_dialect(operation.path)}Error"}
    return {
        status[:3]: {
            "description": f"{status[4:]} ({', '.join(dict.fromkeys(kinds))})",
            "headers": _HEADERS,
            "content": {JSON: {"schema": schema}},
        }
        for status, kinds in told.items()
    }


_HEADERS = {"request-id": {"description": "Names the request in the log.", "schema": {"type": "string"}}}


def _error_form(path: str) -> dict[str, Any]:
    """The form of a dialect's errors, taken from one of them."""
    _, example = envelope_of(path)(RequestError(RequestErrorKind.INVALID, "what"), "req_0")
    return _form(msgspec.json.decode(example))


def _form(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": {name: _form(inner) for name, inner in value.items()},
        "required": list(value),
    }


def _schemas(structs: Iterable[type[msgspec.Struct]]) -> tuple[dict[type, Any], dict[str, Any]]:
    """Each struct's reference, and all components, by names that mean something to a reader."""
    listed = list(structs)
    references, components = msgspec.json.schema_components(listed, ref_template=_REFS + "{name}")
    names = {name: _readable(name) for name in components}
    assert len(set(names.values())) == len(names), "two structs would share a name"  # noqa: S101
    renamed = _with_names({names[name]: schema for name, schema in components.items()}, names)
    return dict(zip(listed, _with_names(list(references), names), strict=True)), renamed


def _readable(name: str) -> str:
    """``_Usage`` → ``AnswerUsage``; ``pensieved.http.openai.chat.schema.TextPart`` → ``ChatSchemaTextPart``."""
    *rooms, last = name.split(".")
    room = "".join(part.title() for part in rooms[-2:])
    return f"{room}Answer{last[1:]}" if last.startswith("_") else room + last


def _with_names(value: Any, names: dict[str, str]) -> Any:
    """`value` with every reference in it, those of discriminators included, under its new name."""
    renew: Callable[[Any], Any] = functools.partial(_with_names, names=names)
    if isinstance(value, dict):
        return {key: renew(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [renew(inner) for inner in value]
    if isinstance(value, str) and value.startswith(_REFS):
        return _REFS + names[value.removeprefix(_REFS)]
    return value
