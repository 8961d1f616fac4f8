"""A fuzzer for everything that the daemon's OpenAPI document describes.

`python -m support.fuzz --requests 10000` runs it against a front of its own, whose engine is scripted, or with
`--url` against a daemon. A third of the requests is generated from the document by schemathesis, valid ones and
invalid ones; the others are valid requests with something broken in them, which get deeper than random ones do.
What no request may cause: a status of 500 or above, one that the document does not name, an answer that is not
what its content type says, or an internal error within a stream.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import json
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

from pensieved.logs import configure_logging
from support.front import END, running_front

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.front import Front

MODEL = "claude-fuzz"
_TEXT = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ANTHROPIC = {
    "model": MODEL,
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "y"},
                {"type": "text", "text": "Well."},
            ],
        },
        {"role": "system", "content": "Now."},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "X"}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": False,
                    "content": [{"type": "text", "text": "y"}],
                },
                {
                    "type": "search_result",
                    "source": "a",
                    "title": "b",
                    "content": [{"type": "text", "text": "c"}],
                },
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            ],
        },
    ],
    "tools": [{"name": "look", "description": "Looks.", "input_schema": _SCHEMA, "strict": False}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low"},
    "stop_sequences": ["never", "\n\n\n"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "stream": True,
    "metadata": {"user_id": "{}"},
}
_CHAT = {
    "model": MODEL,
    "messages": [
        {"role": "developer", "content": "Be brief."},
        _TEXT,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city":"X"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "y"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": _SCHEMA}}],
    "tool_choice": "auto",
    "max_completion_tokens": 5,
    "n": 2,
    "stop": ["never"],
    "seed": 7,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": -100},
    "frequency_penalty": 0.1,
    "response_format": {"type": "text"},
    "stream": True,
    "stream_options": {"include_usage": True},
}
_RESPONSES = {
    "model": MODEL,
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"city":"X"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "y"},
    ],
    "tools": [{"type": "function", "name": "look", "parameters": _SCHEMA, "strict": False}],
    "tool_choice": "auto",
    "max_output_tokens": 5,
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": "low"},
    "stream": True,
}
_COMPLETIONS = {
    "model": MODEL,
    "prompt": ["Hello", [5, 6]],
    "max_tokens": 5,
    "n": 2,
    "logprobs": 2,
    "echo": False,
}
EXAMPLES: dict[str, Any] = {
    "/v1/messages": _ANTHROPIC,
    "/v1/messages/count_tokens": _ANTHROPIC,
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/responses": _RESPONSES,
    "/v1/embeddings": {"model": MODEL, "input": "Hello"},
}
_DEEP = "@deep"  # stands for lists within lists, which Python's own JSON and copying cannot do
_NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 10**350, 1.5, -0.0, 1e308, 5e-324),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\udfff\ud83d",
        "\u2028",
        "é",
        "𝄞",
        "x" * 5000,
        "{{ x }}",
        "{% for %}",
        "<|im_end|>",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [{}],
        {"": ""},
        {"type": "text"},
        {"type": None},
        {"$ref": "#"},
        {"a": {"$ref": "#/a"}},
        _DEEP,
    ),
    *(
        "text",
        "image",
        "tool_use",
        "tool_result",
        "function",
        "any",
        "required",
        "json_schema",
        "user",
        "assistant",
    ),
]


class BrokenError(AssertionError):
    """A request that caused what none may."""


class Fuzzer:
    """Sends requests and looks at what comes back. `answers` counts statuses by route."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()
        self._session = requests.Session()
        self._session.headers.update({"x-api-key": key} if key else {})
        self.document = self._session.get(f"{url}/openapi.json", timeout=30).json()

    def close(self) -> None:
        """End the connections."""
        self._session.close()

    def generated(self, count: int, number: int) -> None:
        """About `count` requests from the document."""
        operations = [
            found.ok() for found in schemathesis.openapi.from_dict(self.document).get_all_operations()
        ]
        asking = [operation for operation in operations if len(operation.body)]
        for operation in operations:
            self._generate(
                operation, GenerationMode.POSITIVE, 2 if operation not in asking else count // 12, number
            )
        for operation in asking:
            self._generate(operation, GenerationMode.NEGATIVE, count // 12, number)

    def _generate(self, operation: Any, mode: Any, count: int, number: int) -> None:
        @seed(number)
        @settings(
            max_examples=max(1, count),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            prepared = requests.Request(**case.as_transport_kwargs(base_url=self.url)).prepare()
            self._send(prepared, operation.path)

        run()

    def mutated(self, count: int, number: int) -> None:
        """`count` valid requests with something broken."""
        chance = random.Random(number)
        for _ in range(count):
            path = chance.choice(list(EXAMPLES))
            body = _bytes_of(_mutation(EXAMPLES[path], chance), chance)
            headers = {"content-type": "application/json"}
            self._send(requests.Request("POST", self.url + path, headers=headers, data=body).prepare(), path)

    def _send(self, request: requests.PreparedRequest, path: str) -> None:
        if "x-api-key" in self._session.headers:
            request.headers["x-api-key"] = self._session.headers["x-api-key"]
        response = self._session.send(request, timeout=120)
        self.answers[path, response.status_code] += 1
        if problem := self._problem(response, path, (request.method or "").lower()):
            raise BrokenError(
                f"{problem}\n{request.method} {request.url}\n{request.body!r}\n{response.content[:2000]!r}"
            )

    def _problem(self, response: requests.Response, path: str, method: str) -> str | None:
        if response.status_code >= 500:
            return f"status {response.status_code}"
        documented = self.document["paths"][path][method]["responses"]
        if str(response.status_code) not in documented:
            return f"status {response.status_code} is not in the document"
        media = response.headers["content-type"].partition(";")[0]
        if media not in documented[str(response.status_code)]["content"]:
            return f"content type {media} is not in the document"
        if b"Internal error" in response.content:
            return "an internal error within the answer"
        if media == "application/json":
            response.json()
        return None if response.headers.get("request-id") else "no request-id"


def _mutation(example: Any, chance: random.Random) -> Any:
    """`example` with one to three things changed."""
    mutated = copy.deepcopy(example)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(mutated))
        if not places:
            break
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[chance.choice(["", "type", "x", "content", "\ud800"])] = chance.choice(_NASTY)
            case 2 if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[chance.randrange(len(parent))]))
            case 3:
                other, name = chance.choice(places)
                parent[key] = copy.deepcopy(other[name])
            case _:
                parent[key] = copy.deepcopy(chance.choice(_NASTY))
    return mutated


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every parent and key within `value`, down to a depth that generated values may have."""
    waiting = [value]
    for parent in waiting:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            yield parent, key
            if isinstance(parent[key], dict | list) and len(waiting) < 500:
                waiting.append(parent[key])


def _bytes_of(value: Any, chance: random.Random) -> bytes:
    """JSON, now and then with bytes lost, doubled or changed."""
    depth = chance.choice((50, 500, 900, 1100, 10_000))
    text = json.dumps(value).encode().replace(b'"%b"' % _DEEP.encode(), b"[" * depth + b"]" * depth)
    match chance.randrange(20):
        case 0:
            return text[: chance.randrange(len(text) + 1)]
        case 1:
            place = chance.randrange(len(text))
            return text[:place] + chance.randbytes(chance.randrange(4)) + text[place + 1 :]
        case 2:
            return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return text


def fuzz(fuzzer: Fuzzer, count: int, number: int) -> None:
    """Send about `count` requests; the same ones for the same `number`.

    Raises:
        BrokenError: with the request that did it.
    """
    fuzzer.generated(count // 3, number)
    fuzzer.mutated(count - sum(fuzzer.answers.values()), number)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--url", help="a running daemon; by default a front with a scripted engine")
    parser.add_argument("--key", help="an API key of that daemon")
    arguments = parser.parse_args()
    sys.stdout.write(f"seed {arguments.seed}\n")
    configure_logging("warning", "console")
    if arguments.url:
        _report(arguments.url, arguments)
        return
    with fuzzable_front() as front:
        _report(front.url, arguments)


@contextlib.contextmanager
def fuzzable_front() -> Iterator[Front]:
    """A front that takes any number of requests, and answers to any model's name."""
    with running_front(f"Paris.{END}", max_concurrent=64, max_queued=256, context_length=100_000) as front:
        front.daemon.serving = replace(front.daemon.serving, aliases=("*",))
        yield front


def _report(url: str, arguments: argparse.Namespace) -> None:
    fuzzer = Fuzzer(url, arguments.key)
    try:
        fuzz(fuzzer, arguments.requests, arguments.seed)
    finally:
        fuzzer.close()
        for (path, status), count in sorted(fuzzer.answers.items()):
            sys.stdout.write(f"{count:6} {status} {path}\n")
        sys.stdout.write(f"{sum(fuzzer.answers.values()):6} requests\n")


if __name__ == "__main__":
    main()
