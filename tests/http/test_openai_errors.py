"""Wrong requests in OpenAI's dialect: its envelope, the right status, the field's path, a request id."""

import json
import socket

import openai
import pytest
from structlog.testing import capture_logs

from pensieved.chat.detokenizer import Detokenizer
from pensieved.control.status import Phase
from support.front import MODEL, ids_of, running_front

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
ROUTES = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": MODEL, "prompt": "Hi"},
    "/v1/responses": {"model": MODEL, "input": "Hi"},
}
FUNCTION = {"type": "function", "function": {"name": "look"}}
USER = {"role": "user", "content": "x"}


@pytest.fixture(scope="module")
def front():
    with running_front(max_body=1_000_000) as running:
        yield running


def check(response, status, kind, *words, param=None, code=None):
    assert response.status == status, response.body
    content = response.json()
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert (content["error"]["type"], content["error"]["param"], content["error"]["code"]) == (
        kind,
        param,
        code,
    )
    assert response.headers["x-request-id"] == response.headers["request-id"]
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    for word in words:
        assert word in content["error"]["message"]
    assert "Traceback" not in content["error"]["message"]


def invalid(response, param, *words):
    check(response, 400, "invalid_request_error", *words, param=param)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": None}, "messages", "Expected `array`"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "Field required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "robot"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "Field required"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages.1.content", "Expected"),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            "messages.0.content.0.type",
            "hologram",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0",
            "text only, not image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages.0.content.0",
            "text only, not input_audio",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages", "nothing to answer"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages.1.tool_call_id", "Field required"),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
            "messages.1.tool_call_id",
            "No earlier message",
        ),
        (
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
                        ],
                    },
                ]
            },
            "messages.1.tool_calls.0.function.arguments",
            "Expected `object`, got `array`",
        ),
        ({"temperature": 2.1}, "temperature", "<= 2.0"),
        ({"top_p": -0.1}, "top_p", ">= 0.0"),
        ({"min_p": 1.5}, "min_p", "<= 1.0"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 9}, "n", "<= 8"),
        ({"seed": "x"}, "seed", "Expected `int"),
        ({"seed": 2**70}, "seed", ""),
        ({"stop": ["a", ""]}, "stop.1", "length >= 1"),
        ({"stop": 5}, "stop", "Expected"),
        ({"presence_penalty": 2.5}, "presence_penalty", "<= 2.0"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", ">= -2.0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "> 0.0"),
        ({"logit_bias": {"Paris": 5}}, "logit_bias", "no token id"),
        ({"logit_bias": {"-5": 5}}, "logit_bias", "no token id"),
        ({"logit_bias": {"9" * 30: 5}}, "logit_bias", "no token id"),
        ({"max_tokens": -1}, "max_tokens", ">= 0"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "Expected `int"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "<= 20"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": 5}, "logprobs", "Expected `bool"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort", "heroic"),
        ({"stream": "yes"}, "stream", "Expected `bool"),
        ({"model": ""}, "model", "length >= 1"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", "custom"),
        ({"tools": [{"type": "telepathy"}]}, "tools.0.type", "telepathy"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "Field required"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "matching"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools.1.function.name", "two tools named 'look'"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": "perhaps"}, "tool_choice", "perhaps"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "no tool named 'f'",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Field required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "Field required",
        ),
    ],
)
def test_wrong_field(front, change, param, words):
    invalid(front.post(CHAT, ROUTES[CHAT] | change), param, words)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model(front, route, stream):
    check(
        front.post(route, ROUTES[route] | {"model": "gpt-9", "stream": stream}),
        404,
        "invalid_request_error",
        "resident model is 'tiny/model'",
        param="model",
        code="model_not_found",
    )


@pytest.mark.parametrize(
    ("route", "long"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 2000}]}),
        ("/v1/completions", {"prompt": "word " * 2000}),
        ("/v1/responses", {"input": "word " * 2000}),
    ],
)
def test_prompt_too_long(front, route, long):
    check(
        front.post(route, ROUTES[route] | long),
        400,
        "invalid_request_error",
        "prompt is too long",
        "512 maximum",
        code="context_length_exceeded",
    )


@pytest.mark.parametrize("route", [*ROUTES, "/v1/embeddings"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"model": "\xff\xfe"}', "not valid UTF-8"),
        (b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    ],
)
def test_wrong_body(front, route, body, words):
    place = "x" if body.startswith(b'{"x"') else None  # the one that has a place
    invalid(front.request("POST", route, body, JSON), place, words)


@pytest.mark.parametrize("route", [*ROUTES, "/v1/embeddings"])
def test_half_a_surrogate_pair(front, route):
    reply = front.request("POST", route, b'{"model": "\\ud800"}', JSON)
    invalid(reply, "model", "not valid JSON")


def test_arguments_nested_too_deeply(front):
    call = {"name": "f", "arguments": '{"a":' + "[" * 20_000 + "]" * 20_000 + "}"}
    turn = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]}
    reply = front.post(CHAT, ROUTES[CHAT] | {"messages": [USER, turn]})
    invalid(reply, "messages.1.tool_calls.0.function.arguments", "not valid JSON")


@pytest.mark.parametrize("route", ROUTES)
def test_wrong_content_type(front, route):
    reply = front.request("POST", route, json.dumps(ROUTES[route]).encode(), {"content-type": "text/plain"})
    check(reply, 415, "invalid_request_error", "must be application/json")


@pytest.mark.parametrize("route", ROUTES)
def test_body_over_the_limit(front, route):
    body = json.dumps(ROUTES[route] | {"user": "x" * 1_000_001}).encode()
    reply = front.request("POST", route, body, JSON)
    check(reply, 413, "invalid_request_error", "server.max_body")


@pytest.mark.parametrize("route", [*ROUTES, "/v1/embeddings"])
def test_wrong_method(front, route):
    reply = front.get(route)
    check(reply, 405, "invalid_request_error", f"{route} does not take GET", code="method_not_supported")
    assert "POST" in reply.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat",
        "/v1/chat/completions/chatcmpl-1",
        "/v1/responses/resp_1",
        "/v1/audio/speech",
        "/v1/images/edits",
    ],
)
def test_unknown_route(front, path):
    check(front.get(path), 404, "invalid_request_error", "no route", code="unknown_url")


def test_models_are_both_dialects(front):
    error = front.get("/v1/models/unknown").json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")


def test_what_is_no_request_at_all(front):
    with socket.create_connection(("127.0.0.1", front.server.port), timeout=20) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000\r\n\r\n"
            + b"x" * 1000
        )
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b" 413 " in head.split(b"\r\n")[0]
    assert b"\nx-request-id: req_" in head.lower().replace(b"\r", b"")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("route", ROUTES)
def test_a_bug_of_ours_is_500_without_details(front, monkeypatch, route):
    def broken(*_args, **_kwargs):
        raise KeyError("secret detail")

    monkeypatch.setattr(front.daemon.serving.text, "segmenter", broken)
    with capture_logs() as logs:
        for stream in (False, True):
            reply = front.post(route, ROUTES[route] | {"stream": stream})
            check(reply, 500, "server_error", "Internal error")
    assert [line["event"] for line in logs].count("request failed") == 2
    assert front.admission.running == 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_bug_of_ours_within_a_stream_is_an_error_line(front, monkeypatch, route, count):
    class Broken(Detokenizer):
        def flush(self):
            raise KeyError("secret detail")

    monkeypatch.setattr(
        front.daemon.serving.text,
        "detokenizer",
        lambda **_: Broken(front.daemon.serving.text._manner.vocabulary),
    )
    choices = {} if route == "/v1/responses" else {"n": count}
    with capture_logs() as logs:
        reply = front.post(route, ROUTES[route] | {"stream": True, **choices})
    assert reply.status == 200
    *_, last, rest = reply.body.decode().split("\n\n")
    error = json.loads(last.rpartition("data: ")[2])["error"]
    assert (rest, error["type"]) == ("", "server_error")
    assert "Internal error" in error["message"]
    assert b"secret" not in reply.body
    assert b"[DONE]" not in reply.body
    assert "stream failed" in [line["event"] for line in logs]
    assert front.admission.running == 0


def test_nothing_is_left_running(front):
    assert (front.admission.running, front.admission.queued) == (0, 0)


@pytest.fixture
def own_front():
    with running_front(max_concurrent=1, max_queued=0) as running:
        yield running


@pytest.mark.parametrize("route", ROUTES)
def test_overloaded(own_front, route):
    ticket = own_front.admission.enter()
    reply = own_front.post(route, ROUTES[route])
    check(reply, 503, "server_error", "slots", code="server_is_overloaded")
    assert int(reply.headers["retry-after"]) >= 1
    ticket.leave()


@pytest.mark.parametrize("route", ROUTES)
def test_draining_and_failed(own_front, route):
    own_front.daemon.status.enter(Phase.FAILED, error="No such model.", hint="Look again.")
    check(own_front.post(route, ROUTES[route]), 503, "server_error", "No such model. Look again.")
    own_front.daemon.status.enter(Phase.DRAINING)
    check(own_front.post(route, ROUTES[route]), 503, "server_error", "shutting down")


def test_a_refusal_of_the_engine_is_not_retried_by_the_sdk(own_front):
    own_front.engine.refusal = "not with this engine"
    with (
        openai.OpenAI(base_url=f"{own_front.url}/v1", api_key="none", max_retries=2) as client,
        pytest.raises(openai.BadRequestError, match="not with this engine"),
    ):
        client.chat.completions.create(**ROUTES[CHAT])
    assert len(own_front.engine.submitted) == 1


def test_retries_of_the_sdk_outlast_an_overload(own_front):
    own_front.admission._mean_seconds = 0.1
    ticket = own_front.admission.enter()
    refuse = own_front.admission.enter_together
    calls = []

    def enter(count):
        calls.append(count)
        if len(calls) == 2:
            ticket.leave()
        return refuse(count)

    own_front.admission.enter_together = enter
    with openai.OpenAI(base_url=f"{own_front.url}/v1", api_key="none", max_retries=3) as client:
        assert client.chat.completions.create(**ROUTES[CHAT]).choices[0].finish_reason == "stop"
    assert len(calls) == 2


def test_engine_failure_in_the_middle_is_an_error_line(own_front):
    own_front.engine.answer = lambda _: ids_of("never ending ")  # and says nothing more
    with openai.OpenAI(base_url=f"{own_front.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**ROUTES[CHAT], stream=True)
        next(stream)
        own_front.engine.client.close("The engine died.")
        with pytest.raises(openai.APIError, match=r"The engine died\.") as caught:
            list(stream)
    assert caught.value.type == "server_error"
