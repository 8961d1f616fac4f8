"""Request bodies: JSON into a typed struct, with the path of the field that is wrong."""

from __future__ import annotations

import re
from typing import TypeVar

import falcon
import msgspec
import msgspec.json

from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.nesting import TOO_DEEP, too_deep
from pensieved.http.surrogates import lone_surrogate

T = TypeVar("T")

DEEPEST = 64
"""Nesting of schemas and tool inputs; nobody writes more, and templates recurse."""

_AT = re.compile(r" - at `\$?\.?(.*)`$")
_INDEX = re.compile(r"\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.+)`")


def read_json(req: falcon.Request, decoder: msgspec.json.Decoder[T], max_body: int) -> T:
    """The body of `req` as the decoder's type.

    Raises:
        RequestError: MEDIA_TYPE, TOO_LARGE or INVALID.
    """
    _check_media_type(req)
    body = req.bounded_stream.read(max_body + 1)
    if len(body) > max_body:
        raise too_large(max_body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except UnicodeDecodeError as error:
        raise RequestError(RequestErrorKind.INVALID, "The body is not valid UTF-8.") from error
    except msgspec.DecodeError as error:
        path = lone_surrogate(body)
        if path is not None:
            what = "not valid JSON: half a surrogate pair is no character"
            raise RequestError(RequestErrorKind.INVALID, what, path=path.lstrip(".")) from error
        raise RequestError(RequestErrorKind.INVALID, f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        what = f"nested too deeply (more than {TOO_DEEP} levels)"
        raise RequestError(RequestErrorKind.INVALID, what, path=too_deep(body)) from error


def invalid(error: msgspec.ValidationError, within: str = "") -> RequestError:
    """The refusal of a value that has the wrong shape; `within` is the path of the whole value."""
    path, what = _locate(str(error))
    return RequestError(
        RequestErrorKind.INVALID, what, path=".".join(part for part in (within, path) if part)
    )


def too_large(max_body: int) -> RequestError:
    """The refusal of a body beyond `server.max_body`."""
    return RequestError(
        RequestErrorKind.TOO_LARGE, f"The body is larger than {max_body} bytes (server.max_body)."
    )


def check_depth(value: object, path: str) -> None:
    """Refuse what is nested too deeply for those who recurse over it.

    Raises:
        RequestError: INVALID.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise RequestError(RequestErrorKind.INVALID, f"nested more than {DEEPEST} levels deep", path=path)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_media_type(req: falcon.Request) -> None:
    """JSON must be declared: forms are what a foreign web page could send here without asking."""
    declared = (req.content_type or "").partition(";")[0].strip().lower()
    if declared != falcon.MEDIA_JSON:
        raise RequestError(
            RequestErrorKind.MEDIA_TYPE,
            f"The content type must be application/json, not {declared or 'missing'}.",
        )
    if req.get_header("content-encoding", default="identity").lower() != "identity":
        raise RequestError(RequestErrorKind.MEDIA_TYPE, "Compressed bodies are not supported.")


def _locate(message: str) -> tuple[str, str]:
    """Path and reason from msgspec's message: ``messages.0.content`` and ``Expected `str`, got `int```."""
    found = _AT.search(message)
    path = _INDEX.sub(r".\1", found[1]).lstrip(".") if found else ""
    what = message[: found.start()] if found else message
    missing = _MISSING.fullmatch(what)
    if missing:
        return f"{path}.{missing[1]}".lstrip("."), "Field required"
    return path, what
