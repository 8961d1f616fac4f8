"""Anthropic's content blocks to parts of turns.

Everything that is text becomes text. What is not (pictures, PDFs, files and addresses elsewhere) is refused with
its path: leaving it out would have the model answer a question that nobody asked.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import msgspec

from pensieved.chat.conversation import (
    SEPARATOR,
    Part,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    text_turn,
)
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http.anthropic import blocks as wire
from pensieved.http.anthropic.signature import Origin
from pensieved.http.jsonbody import check_depth

if TYPE_CHECKING:
    from pensieved.http.anthropic.schema import Message
    from pensieved.http.anthropic.signature import Signer

_ASSISTANTS = (wire.ToolUseBlock, wire.ThinkingBlock, wire.RedactedThinkingBlock)


class Reader:
    """Reads messages in their order; knows which calls have been made."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._names: dict[str, str] = {}  # of the called tools, by call id
        self._open: dict[str, str] = {}  # paths of the last assistant message's calls, by call id

    def turns(self, message: Message, path: str) -> list[Turn]:
        """One message's turns: results of tools are turns of their own. None where it says nothing.

        Raises:
            RequestError: INVALID, with the path of what cannot be read.
        """
        role = Role(message.role)
        if role is not Role.SYSTEM:
            self._open = {} if role is Role.USER else self._open
        if isinstance(message.content, str):
            return [text_turn(role, message.content)] if message.content else []
        turns: list[Turn] = []
        for index, block in enumerate(message.content):
            part = self._part(block, role, f"{path}.content.{index}")
            if part is None:
                continue
            if getattr(block, "cache_control", None) is not None:
                part = msgspec.structs.replace(part, ends_prefix=True)
            speaker = Role.TOOL if isinstance(part, ToolResultPart) else role
            if turns and turns[-1].role is speaker:
                turns[-1] = Turn(speaker, (*turns[-1].parts, part))
            else:
                turns.append(Turn(speaker, (part,)))
        return turns

    def check_answered(self) -> None:
        """After the last message: an answer cannot continue a call.

        Raises:
            RequestError: INVALID.
        """
        for call_id, path in self._open.items():
            raise _invalid(
                f"`tool_use` {call_id} has no `tool_result`: the answer cannot continue a call", path
            )

    def _part(self, block: wire.Block, role: Role, path: str) -> Part | None:
        if isinstance(block, _ASSISTANTS) and role is not Role.ASSISTANT:
            raise _invalid(f"`{_tag(block)}` blocks can only be in assistant messages", path)
        match block:
            case wire.ToolUseBlock():
                return self._call(block, path)
            case wire.ToolResultBlock():
                return self._result(block, role, path)
            case wire.ThinkingBlock():
                return self._thinking(block, path)
            case wire.RedactedThinkingBlock() | wire.ServerBlock():
                return None
            case _:
                text = text_of(block, path)
                return TextPart(text) if text else None

    def _call(self, block: wire.ToolUseBlock, path: str) -> ToolCallPart:
        if block.id in self._names:
            raise _invalid("`tool_use` ids must be unique", f"{path}.id")
        check_depth(block.input, f"{path}.input")
        self._names[block.id] = block.name
        self._open[block.id] = path
        return ToolCallPart(block.id, block.name, block.input)

    def _result(self, block: wire.ToolResultBlock, role: Role, path: str) -> ToolResultPart:
        if role is not Role.USER:
            raise _invalid("`tool_result` blocks can only be in user messages", path)
        name = self._names.get(block.tool_use_id)
        if name is None:
            raise _invalid(
                f"unexpected `tool_use_id`: no earlier `tool_use` block has the id {block.tool_use_id}",
                f"{path}.tool_use_id",
            )
        content = block.content or ""
        if not isinstance(content, str):
            texts = [text_of(item, f"{path}.content.{index}") for index, item in enumerate(content)]
            content = SEPARATOR.join(texts)
        return ToolResultPart(block.tool_use_id, name, content, is_error=bool(block.is_error))

    def _thinking(self, block: wire.ThinkingBlock, path: str) -> ThinkingPart | None:
        """Only what this daemon's model thought: another's reasoning is none of its own."""
        origin = self._signer.origin(block.thinking, block.signature)
        if origin is Origin.FORGED:
            raise _invalid("Invalid `signature` in `thinking` block", f"{path}.signature")
        return ThinkingPart(block.thinking) if origin is Origin.OURS and block.thinking else None


def text_of(block: wire.Block, path: str) -> str:
    """A block's text.

    Raises:
        RequestError: INVALID, for what is no text.
    """
    match block:
        case wire.TextBlock():
            return block.text
        case wire.SearchResultBlock():
            text = SEPARATOR.join(part.text for part in block.content)
            return f"<search_result{_attributes(source=block.source, title=block.title)}>\n{text}\n</search_result>"
        case wire.ToolReferenceBlock():
            return f"Tool found: {block.tool_name}"
        case wire.CompactionBlock():
            return block.content or ""
        case wire.DocumentBlock():
            text = _document_text(block, f"{path}.source")
            return f"<document{_attributes(title=block.title, context=block.context)}>\n{text}\n</document>"
        case wire.ImageBlock():
            if isinstance(block.source, wire.Base64Source):
                _decoded(block.source.data, f"{path}.source.data")
            raise _invalid("this model takes text only, not images", path)
        case _:
            raise _invalid(f"`{_tag(block)}` blocks cannot stand here", path)


def _document_text(block: wire.DocumentBlock, path: str) -> str:
    match block.source:
        case wire.TextSource(data=data):
            return data
        case wire.ContentSource(content=content):
            if isinstance(content, str):
                return content
            return SEPARATOR.join(
                text_of(item, f"{path}.content.{index}") for index, item in enumerate(content)
            )
        case wire.Base64Source(media_type=media_type, data=data):
            raw = _decoded(data, f"{path}.data")
            if media_type.partition(";")[0].strip() != "text/plain":
                raise _invalid(f"this model takes text only, not {media_type} documents", path)
            try:
                return raw.decode()
            except UnicodeDecodeError:
                raise _invalid("a text/plain document must be UTF-8", f"{path}.data") from None
        case _:
            raise _invalid("documents must be part of the request: nothing is fetched from elsewhere", path)


def _decoded(data: str, path: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid("the data is not base64", path) from None


def _attributes(**values: str | None) -> str:
    return "".join(f' {name}="{value}"' for name, value in values.items() if value)


def _tag(block: wire.Block) -> str:
    return str(block.__struct_config__.tag)


def _invalid(what: str, path: str) -> RequestError:
    return RequestError(RequestErrorKind.INVALID, what, path=path)
