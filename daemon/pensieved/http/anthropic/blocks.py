"""Content blocks as Anthropic clients send them. Unknown fields are ignored.

What is known but cannot be answered is in the schema all the same, so that it is refused by name and place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

NonEmpty = Annotated[str, Meta(min_length=1)]
Lifetime = Literal["5m", "1h"]


class CacheControl(msgspec.Struct, tag_field="type", tag="ephemeral"):
    """The prompt up to here will come again. How long it is kept is the daemon's to decide; `ttl` is only counted."""

    ttl: Lifetime | None = None


class Base64Source(msgspec.Struct, tag_field="type", tag="base64"):
    """Bytes within the request."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, tag_field="type", tag="url"):
    """Bytes elsewhere; nothing is fetched on a client's behalf."""

    url: str


class FileSource(msgspec.Struct, tag_field="type", tag="file"):
    """A file that was uploaded to Anthropic."""

    file_id: str


class TextSource(msgspec.Struct, tag_field="type", tag="text"):
    """A document that is text."""

    data: str


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """A picture."""

    source: Base64Source | UrlSource | FileSource
    cache_control: CacheControl | None = None


class ContentSource(msgspec.Struct, tag_field="type", tag="content"):
    """A document that is made of blocks."""

    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """A document."""

    source: Base64Source | UrlSource | FileSource | TextSource | ContentSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class SearchResultBlock(msgspec.Struct, tag_field="type", tag="search_result"):
    """A passage found by the client."""

    source: str
    title: str
    content: list[TextBlock]
    cache_control: CacheControl | None = None


class ToolReferenceBlock(msgspec.Struct, tag_field="type", tag="tool_reference"):
    """A tool that the client's own search found."""

    tool_name: str


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call the model made."""

    id: NonEmpty
    name: NonEmpty
    input: dict[str, Any]
    cache_control: CacheControl | None = None


ResultBlock = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What a call returned."""

    tool_use_id: NonEmpty
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Reasoning of an earlier turn."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Reasoning of an earlier turn that only Anthropic can read."""


class CompactionBlock(msgspec.Struct, tag_field="type", tag="compaction"):
    """What Anthropic made of the conversation so far when it became too long."""

    content: str | None = None


class ServerBlock(msgspec.Struct, tag_field="type"):
    """What Anthropic's own tools did in an earlier turn; it is nothing to another model, and passed over."""


class ServerToolUse(ServerBlock, tag="server_tool_use"):
    """A call."""


class WebSearchResult(ServerBlock, tag="web_search_tool_result"):
    """A result."""


class WebFetchResult(ServerBlock, tag="web_fetch_tool_result"):
    """A result."""


class CodeExecutionResult(ServerBlock, tag="code_execution_tool_result"):
    """A result."""


class BashResult(ServerBlock, tag="bash_code_execution_tool_result"):
    """A result."""


class TextEditorResult(ServerBlock, tag="text_editor_code_execution_tool_result"):
    """A result."""


class ToolSearchResult(ServerBlock, tag="tool_search_tool_result"):
    """A result."""


class McpToolUse(ServerBlock, tag="mcp_tool_use"):
    """A call."""


class McpToolResult(ServerBlock, tag="mcp_tool_result"):
    """A result."""


class ContainerUpload(ServerBlock, tag="container_upload"):
    """A file for Anthropic's sandbox."""


_Server = (
    ServerToolUse
    | WebSearchResult
    | WebFetchResult
    | CodeExecutionResult
    | BashResult
    | TextEditorResult
    | ToolSearchResult
    | McpToolUse
    | McpToolResult
    | ContainerUpload
)
_Readable = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock | CompactionBlock
_Own = ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock
Block = _Readable | _Own | _Server
