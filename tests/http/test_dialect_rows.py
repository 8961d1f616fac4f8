"""What the other modules take for granted: the exact fields of objects, every error's status and type, pings, efforts."""

import http.client
import json

import openai
import pytest

from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http import stream
from pensieved.http.anthropic.errors import envelope as anthropic_envelope
from pensieved.http.openai.errors import envelope as openai_envelope
from support import tool_templates
from support.front import END, MODEL, events, question, running_front
from support.modelled import THINKS, modelled_front, prompt_of

CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
TOOL = {"name": "get", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'
USAGE = {
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "service_tier",
}
MESSAGE = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
OPENAI = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": MODEL, "prompt": "Hi"},
    "/v1/responses": {"model": MODEL, "input": "Hi"},
}


@pytest.fixture(scope="module")
def front():
    with running_front() as running:
        yield running


# --- Anthropic's objects -------------------------------------------------------------------------------------


def test_a_message_has_every_field(front):
    message = front.say().json()
    assert set(message) == MESSAGE
    assert set(message["usage"]) == USAGE
    assert message["usage"]["cache_creation"] == {
        "ephemeral_5m_input_tokens": 0,
        "ephemeral_1h_input_tokens": 0,
    }
    assert message["content"] == [{"type": "text", "text": "Paris."}]


def test_a_stream_has_every_field(front):
    reply = front.say(stream=True)
    assert reply.headers["request-id"].startswith("req_")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    seen = events(reply.body)
    assert all(name == data["type"] for name, data in seen)
    start, delta = seen[0][1]["message"], seen[-2][1]
    assert set(start) == MESSAGE
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert set(start["usage"]) == set(delta["usage"]) == USAGE
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["input_tokens"] == start["usage"]["input_tokens"]
    assert seen[1][1]["content_block"] == {"type": "text", "text": ""}


def test_cache_control_may_stand_on_everything():
    blocks = [
        {"type": "text", "text": "Look."},
        {"type": "tool_use", "id": "t", "name": "get", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x", **CACHED}]},
        {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
    ]

    def asked(cached):
        messages = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [block | cached for block in blocks]},
            {"role": "user", "content": [block | cached for block in results]},
        ]
        system = [{"type": "text", "text": "Be kind."} | cached]
        return question(messages=messages, system=system, tools=[TOOL | cached])

    with modelled_front("Fine.") as front:
        plain = front.post("/v1/messages", asked({}))
        cached = front.post("/v1/messages", asked(CACHED))
    assert plain.status == cached.status == 200
    assert plain.json()["usage"] == cached.json()["usage"]


@pytest.mark.parametrize("kind", ["auto", "any", "tool", "none"])
def test_every_choice_may_forbid_parallel_calls(kind):
    choice = {"type": kind, "disable_parallel_tool_use": True} | ({"name": "get"} if kind == "tool" else {})
    with modelled_front(CALL * 3) as front:
        message = front.say(tools=[TOOL], tool_choice=choice).json()
    kinds = [block["type"] for block in message["content"]]
    assert kinds == (["text"] if kind == "none" else ["tool_use"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages/batches"),
        ("POST", "/v1/messages/batches"),
        ("GET", "/v1/messages/batches/msgbatch_1"),
        ("DELETE", "/v1/messages/batches/msgbatch_1"),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel"),
    ],
)
def test_there_are_no_batches(front, method, path):
    reply = front.request(method, path, b"{}", {"content-type": "application/json"})
    assert reply.status == 404
    assert reply.json()["error"]["type"] == "not_found_error"


def test_a_model_is_one_object_for_both_dialects(front):
    (listed,) = front.get("/v1/models").json()["data"]
    assert listed == front.get(f"/v1/models/{MODEL}").json()
    assert {"id", "type", "display_name", "created_at", "object", "created", "owned_by"} <= set(listed)


# --- errors --------------------------------------------------------------------------------------------------

ERRORS = {
    RequestErrorKind.INVALID: (400, "invalid_request_error", 400, "invalid_request_error", None),
    RequestErrorKind.TOO_LONG: (
        400,
        "invalid_request_error",
        400,
        "invalid_request_error",
        "context_length_exceeded",
    ),
    RequestErrorKind.AUTHENTICATION: (
        401,
        "authentication_error",
        401,
        "invalid_request_error",
        "invalid_api_key",
    ),
    RequestErrorKind.FORBIDDEN: (403, "permission_error", 403, "invalid_request_error", None),
    RequestErrorKind.NOT_FOUND: (404, "not_found_error", 404, "invalid_request_error", "unknown_url"),
    RequestErrorKind.METHOD: (
        405,
        "invalid_request_error",
        405,
        "invalid_request_error",
        "method_not_supported",
    ),
    RequestErrorKind.TOO_LARGE: (413, "request_too_large", 413, "invalid_request_error", None),
    RequestErrorKind.MEDIA_TYPE: (415, "invalid_request_error", 415, "invalid_request_error", None),
    RequestErrorKind.OVERLOADED: (529, "overloaded_error", 503, "server_error", "server_is_overloaded"),
    RequestErrorKind.UNAVAILABLE: (503, "api_error", 503, "server_error", None),
    RequestErrorKind.TIMEOUT: (504, "timeout_error", 504, "server_error", "timeout"),
    RequestErrorKind.INTERNAL: (500, "api_error", 500, "server_error", None),
}


@pytest.mark.parametrize("kind", RequestErrorKind)
def test_every_error_in_both_envelopes(kind):
    error = RequestError(kind, "what", path="messages.0")
    status, name, other_status, other_name, code = ERRORS[kind]
    line, body = anthropic_envelope(error, "req_1")
    assert int(line[:3]) == status
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": name, "message": "messages.0: what"},
        "request_id": "req_1",
    }
    line, body = openai_envelope(error, "req_1")
    assert int(line[:3]) == other_status
    assert json.loads(body) == {
        "error": {"message": "what", "type": other_name, "param": "messages.0", "code": code}
    }


@pytest.mark.parametrize("path", OPENAI)
def test_an_answer_that_takes_too_long_is_504_in_openais_words(path):
    with running_front("never ending " * 2000, context_length=8000, request_timeout=0.3) as front:
        reply = front.post(path, OPENAI[path] | {"max_tokens": 7000, "max_output_tokens": 7000})
    assert reply.status == 504
    assert reply.json()["error"]["code"] == "timeout"


# --- OpenAI --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPENAI)
def test_pings_are_comments(monkeypatch, path):
    monkeypatch.setattr(stream, "PING_AFTER", 0.1)
    monkeypatch.setattr(stream, "HOLD", 0.1)
    with running_front(f"Hi{END}", max_concurrent=1) as front:
        ticket = front.admission.enter()
        connection = http.client.HTTPConnection("127.0.0.1", front.server.port, timeout=30)
        body = json.dumps(OPENAI[path] | {"stream": True})
        connection.request("POST", path, body, {"content-type": "application/json"})
        with connection.getresponse() as reply:
            lines = (line.decode().rstrip() for line in reply)
            pings = [next(line for line in lines if line.startswith(":")) for _ in range(3)]
            ticket.leave()
            rest = [line for line in lines if line.startswith("data: {")]
        connection.close()
    assert pings == [": ping"] * 3
    assert len(rest) > len("Hi")


@pytest.mark.parametrize(
    ("effort", "told"),
    [
        (None, "medium"),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "high"),
        ("max", "high"),
    ],
)
def test_effort_reaches_the_template(effort, told):
    final = "<|channel|>final<|message|>Hi"
    with modelled_front(final, template=tool_templates.HARMONY, end="</s>") as front:
        fields = {"reasoning_effort": effort} if effort else {}
        answer = front.post("/v1/chat/completions", CHAT | fields).json()
        assert answer["choices"][0]["message"]["content"] == "Hi"
        assert f"Reasoning: {told}<|end|>" in prompt_of(front)
        fields = {"reasoning": {"effort": effort}} if effort else {}
        front.post("/v1/responses", {"model": MODEL, "input": "Hi"} | fields)
        assert f"Reasoning: {told}<|end|>" in prompt_of(front)
        if effort not in {None, "minimal"}:
            front.say(output_config={"effort": effort})
            assert f"Reasoning: {told}<|end|>" in prompt_of(front)


def test_no_effort_is_no_reasoning():
    with modelled_front("Hi", template=tool_templates.QWEN, facts=THINKS) as front:
        front.post("/v1/chat/completions", CHAT | {"reasoning_effort": "none"})
        assert prompt_of(front).endswith("<think>\n\n</think>\n\n")
        front.post("/v1/chat/completions", CHAT | {"reasoning_effort": "low"})
        assert prompt_of(front).endswith("assistant\n")


def test_reasoning_in_channels():
    said = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    with (
        modelled_front(said, template=tool_templates.HARMONY, end="</s>") as front,
        openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as client,
    ):
        message = client.chat.completions.create(**CHAT).choices[0].message
        assert (message.reasoning_content, message.content) == ("hm", "Yes.")
        response = client.responses.create(model=MODEL, input="Hi")
        assert response.output[0].content[0].text == "hm"
        assert response.output_text == "Yes."
