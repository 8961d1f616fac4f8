"""Wrong requests: the dialect's envelope, the right status, the field's path, a request id, never a traceback."""

import json

import pytest
from structlog.testing import capture_logs

from pensieved.chat.detokenizer import Detokenizer
from support.front import MODEL, ids_of, question, running_front

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def front():
    with running_front(max_body=1_000_000) as running:
        yield running


def check(response, status, kind, *words):
    assert response.status == status, response.body
    content = response.json()
    assert set(content) == {"type", "error", "request_id"}
    assert (content["type"], content["error"]["type"]) == ("error", kind)
    assert response.headers["request-id"] == content["request_id"]
    assert content["request_id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    for word in words:
        assert word in content["error"]["message"]
    assert "Traceback" not in content["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": []}, "messages: Expected `array` of length >= 1"),
        ({"messages": None}, "messages: "),
        ({"messages": "hello"}, "messages: Expected `array`, got `str`"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Invalid enum value 'robot'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: Expected `str | array`, got `int`",
        ),
        (
            {"messages": [{"role": "user", "content": ""}]},
            "messages.0.content: all messages must have non-empty",
        ),
        (
            {"messages": [{"role": "user", "content": []}]},
            "messages.0.content: all messages must have non-empty",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "text"}]}]},
            "messages.1.content.0.text: Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0.source.type: Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
            "messages.0.content.0.tool_use_id: unexpected `tool_use_id`",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
            "messages.0.content.0.type: Invalid",
        ),
        ({"system": [{"type": "image"}]}, "system.0.type: Invalid value 'image'"),
        ({"system": 5}, "system: Expected"),
        ({"max_tokens": -1}, "max_tokens: Expected `int` >= 0"),
        ({"max_tokens": "many"}, "max_tokens: Expected `int`, got `str`"),
        ({"max_tokens": 1.5}, "max_tokens: Expected `int`"),
        ({"temperature": 2.1}, "temperature: Expected `float` <= 2.0"),
        ({"temperature": -0.1}, "temperature: Expected `float` >= 0.0"),
        ({"top_p": 1.1}, "top_p: Expected `float` <= 1.0"),
        ({"top_k": -2}, "top_k: Expected `int` >= -1"),
        ({"stop_sequences": [""]}, "stop_sequences.0: Expected `str` of length >= 1"),
        ({"stop_sequences": ["x" * 1025]}, "stop_sequences.0: Expected `str` of length <= 1024"),
        ({"stop_sequences": ["x"] * 257}, "stop_sequences: Expected `array` of length <= 256"),
        ({"stop_sequences": "END"}, "stop_sequences: Expected"),
        ({"stream": "yes"}, "stream: Expected"),
        ({"model": ""}, "model: Expected `str` of length >= 1"),
        ({"model": 7}, "model: Expected `str`, got `int`"),
    ],
)
def test_wrong_field(front, change, message):
    check(front.post("/v1/messages", question() | change), 400, "invalid_request_error", message)


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_missing_field(front, missing):
    request = question()
    del request[missing]
    check(front.post("/v1/messages", request), 400, "invalid_request_error", f"{missing}: Field required")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"hello", "not valid JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"model": "\xff\xfe"}', "not valid UTF-8"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    ],
)
def test_wrong_body(front, body, words):
    check(front.request("POST", "/v1/messages", body, JSON), 400, "invalid_request_error", words)


def test_invalid_utf8_within_a_message(front):
    body = json.dumps(question("TEXT")).encode().replace(b"TEXT", b"\xc3\x28")
    check(front.request("POST", "/v1/messages", body, JSON), 400, "invalid_request_error", "UTF-8")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_wrong_content_type(front, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    response = front.request("POST", "/v1/messages", json.dumps(question()).encode(), headers)
    check(response, 415, "invalid_request_error", "must be application/json")


def test_charset_is_fine_and_compression_is_not(front):
    body = json.dumps(question()).encode()
    assert (
        front.request(
            "POST", "/v1/messages", body, {"content-type": "Application/JSON; charset=utf-8"}
        ).status
        == 200
    )
    response = front.request("POST", "/v1/messages", body, JSON | {"content-encoding": "gzip"})
    check(response, 415, "invalid_request_error", "Compressed")


@pytest.mark.parametrize(
    "path", ["/v1/complete", "/v1/messages/batches", "/nothing", "/%ff%fe", "/v1/models/unknown"]
)
def test_unknown_route(front, path):
    check(front.get(path), 404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("DELETE", "/v1/messages"),
        ("POST", "/health"),
        ("PUT", "/v1/models"),
        ("BREW", "/"),
    ],
)
def test_wrong_method(front, method, path):
    response = front.request(method, path)
    assert response.status in (400, 405)
    check(response, response.status, "invalid_request_error")


def test_method_not_allowed_names_what_is(front):
    response = front.get("/v1/messages")
    check(response, 405, "invalid_request_error", "/v1/messages does not take GET", "POST")
    assert "POST" in response.headers["allow"]


def test_unknown_fields_are_ignored(front):
    extra = {
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": []},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "{}"},
        "service_tier": "auto",
        "brand_new": [1, {"deep": None}],
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    nulls = {"system": None, "temperature": None, "stop_sequences": None, "stream": None, "top_k": None}
    response = front.post("/v1/messages?beta=true", question() | extra | nulls)
    assert response.status == 200


def test_trailing_slash_and_query(front):
    assert front.post("/v1/messages/?beta=true", question()).status == 200


def test_count_tokens_needs_no_max_tokens(front):
    request = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    expected = len(ids_of("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"))
    assert front.post("/v1/messages/count_tokens", request).json() == {"input_tokens": expected}
    check(
        front.post("/v1/messages/count_tokens", request | {"messages": []}),
        400,
        "invalid_request_error",
        "messages",
    )


def test_a_bug_of_ours_is_500_without_details(front, monkeypatch):
    def broken(*_):
        raise KeyError("secret detail")

    monkeypatch.setattr(front.daemon.serving.text, "encode_chat", broken)
    with capture_logs() as logs:
        for stream in (False, True):
            response = front.post("/v1/messages", question(stream=stream))
            check(response, 500, "api_error", "Internal error")
            assert b"secret" not in response.body
    assert [line["event"] for line in logs].count("request failed") == 2


def test_a_bug_of_ours_within_a_stream_is_an_error_event(front, monkeypatch):
    class Broken(Detokenizer):
        def flush(self):
            raise KeyError("secret detail")

    monkeypatch.setattr(
        front.daemon.serving.text,
        "detokenizer",
        lambda **_: Broken(front.daemon.serving.text._manner.vocabulary),
    )
    with capture_logs() as logs:
        response = front.post("/v1/messages", question(stream=True))
    assert response.status == 200
    assert b"event: error\n" in response.body
    assert b'"type":"api_error"' in response.body
    assert b"secret" not in response.body
    assert "stream failed" in [line["event"] for line in logs]
    assert front.admission.running == 0


def test_body_over_the_limit(front):
    body = json.dumps(question("x" * 1_000_001)).encode()
    check(front.request("POST", "/v1/messages", body, JSON), 413, "request_too_large", "server.max_body")


@pytest.mark.parametrize("text", ["word ", "\n", "x = {}\n"])
def test_what_is_far_too_long_is_refused_early(front, text):
    long = question(text * (900_000 // len(text.encode()) // 2))
    reply = front.post("/v1/messages", long)
    check(reply, 400, "invalid_request_error", "prompt is too long: at least ", " tokens > 512 maximum")
    del long["max_tokens"]
    assert front.post("/v1/messages/count_tokens", long).json()["input_tokens"] > 512
    assert front.engine.submitted[-1:] == [] or len(front.engine.submitted[-1].prompt) <= 512


def test_nothing_is_left_running(front):
    assert (front.admission.running, front.admission.queued) == (0, 0)
