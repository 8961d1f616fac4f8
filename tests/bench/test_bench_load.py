"""The load generator against a server that looks at it."""

import asyncio

import pytest

from bench.dialects import Request
from bench.load import Target, ask, closed_loop, fetch, stories, summary
from support.sse import answer, asked, event, serving

CONCURRENT = 5


class Counting:
    """Answers nobody until as many ask as are expected; remembers how many asked at once."""

    def __init__(self, expected):
        self.expected, self.waiting, self.most, self.bodies = expected, [], 0, []

    async def __call__(self, reader, writer):
        body = await asked(reader)
        self.bodies.append(body)
        self.waiting.append(turn := asyncio.Event())
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) == self.expected:
            for each in self.waiting:
                each.set()
            self.waiting = []
        await turn.wait()
        await answer(writer, body.get("max_tokens", 0))


def saying(response):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        await writer.drain()
        writer.close()

    return handler


def test_as_many_streams_as_asked_for_are_always_under_way():
    handler = Counting(CONCURRENT)
    requests = stories("s", 4 * CONCURRENT, 3)  # a stream less, and the server would wait for ever

    async def run():
        async with serving(handler) as port, asyncio.timeout(30):
            return await closed_loop(Target(port), requests, CONCURRENT)

    answers = asyncio.run(run())
    assert handler.most == CONCURRENT
    texts = sorted(body["messages"][0]["content"] for body in handler.bodies)
    assert texts == sorted(request.messages[0] for request in requests)
    assert len(set(texts)) == 4 * CONCURRENT
    figures = summary(answers, 2.0)
    assert figures["faults"] == 0
    assert figures["output_tokens"] == 3 * len(requests)
    assert figures["tokens_per_second"] == 1.5 * len(requests)
    assert figures["prompt_tokens"] == 10 * len(requests)
    assert figures["gap"]["n"] == 2 * len(requests)
    assert figures["ttft"]["n"] == len(requests)


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (b"HTTP/1.1 529 Overloaded\r\nContent-Length: 4\r\n\r\nbusy", "status 529: busy"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + event({"choices": [{"delta": {"content": "x"}}]}), "closing event"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + event(b"[DONE]"), "ended within"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {broken\n\n", "JSONDecodeError"),
        (b"", "ended within"),
    ],
)
def test_what_goes_wrong_is_a_fault_and_no_figure(response, fault):
    async def run():
        async with serving(saying(response)) as port, asyncio.timeout(30):
            return await ask(Target(port), Request(messages=("hello",), tokens=1))

    heard = asyncio.run(run())
    assert fault in heard.fault()
    figures = summary([heard], 1.0)
    assert (figures["faults"], figures["output_tokens"], figures["ttft"]["n"]) == (1, 0, 0)
    assert fault in figures["first_fault"]


def test_nobody_there_is_a_fault():
    async def run():
        async with serving(saying(b"")) as port:
            pass
        return await ask(Target(port), Request(messages=("hello",), tokens=1))

    assert "refused" in asyncio.run(run()).fault().lower()


def test_any_status_is_a_sign_of_life():
    async def run():
        async with serving(saying(b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n")) as port:
            return await fetch(port, "/health")

    assert asyncio.run(run()) == 503
