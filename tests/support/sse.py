"""Servers for clients that measure: they answer /v1/chat/completions with whatever a handler writes."""

import asyncio
import contextlib
import json


def event(content):
    """One server-sent event, of JSON or of bytes as they are."""
    return b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n"


def stream(tokens):
    """The events of a whole answer."""
    yield from (event({"choices": [{"delta": {"content": "x"}}]}) for _ in range(tokens))
    yield event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": tokens}})
    yield event(b"[DONE]")


async def asked(reader):
    """The request's body; empty where it has none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return json.loads(await reader.readexactly(length)) if length else {}


async def answer(writer, tokens):
    """A whole answer, and the end of the connection."""
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"".join(stream(tokens)))
    await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def serving(handler):
    """The port of a server with this handler of connections."""
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
