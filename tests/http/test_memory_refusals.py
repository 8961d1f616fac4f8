"""While the engine's memory is short, new requests are sent away in each dialect's words; those that run go on."""

import msgspec
import pytest

from pensieved.engine.protocol import MemoryStats
from support.front import MODEL, running_front, wait_until

GIB = 1024**3
SHORT = MemoryStats(available=GIB, margin=2 * GIB, closed=True, waiting=3)
ENOUGH = MemoryStats(available=9 * GIB, margin=2 * GIB)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
TEXT = {"model": MODEL, "prompt": "Hello"}
RESPONSE = {"model": MODEL, "input": "Hello"}
OPENAI = {"/v1/chat/completions": CHAT, "/v1/completions": TEXT, "/v1/responses": RESPONSE}


@pytest.fixture
def front():
    with running_front() as made:
        made.daemon.engine.memory = ENOUGH
        yield made


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_529_until_memory_is_back(front, stream):
    front.daemon.engine.memory = SHORT
    reply = front.say(stream=stream)
    assert (reply.status, reply.headers["retry-after"]) == (529, "5")
    error = reply.json()["error"]
    assert error["type"] == "overloaded_error"
    assert "1.0 GiB are available" in error["message"]
    assert "(3 in line for it)" in error["message"]
    assert "2.0 GiB are left to the rest of the machine (memory.safety_margin)" in error["message"]
    front.daemon.engine.memory = ENOUGH
    assert front.say(stream=stream).status == 200


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_503_until_memory_is_back(front, path, stream):
    front.daemon.engine.memory = SHORT
    reply = front.post(path, OPENAI[path] | {"stream": stream})
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert reply.json()["error"]["code"] == "server_is_overloaded"
    front.daemon.engine.memory = ENOUGH
    assert front.post(path, OPENAI[path] | {"stream": stream}).status == 200


def test_answers_that_run_go_on_and_what_needs_no_memory_is_answered(front):
    front.engine.pause()
    with front.streaming() as names:
        assert next(names) == "message_start"
        front.daemon.engine.memory = SHORT
        assert front.say().status == 529
        count = front.post(
            "/v1/messages/count_tokens",
            {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]},
        )
        assert count.status == 200
        front.engine.resume()
        assert list(names)[-1] == "message_stop"
    wait_until(lambda: front.admission.running == 0)


def test_ready_says_whether_a_request_would_be_answered(front):
    assert front.get("/ready").status == 200
    front.daemon.engine.memory = SHORT
    reply = front.get("/ready")
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert front.get("/health").status == 200


def test_status_and_metrics_show_it(front):
    front.daemon.engine.memory = msgspec.structs.replace(SHORT, sheds=4, shed=700)
    guard = front.get("/v1/status").json()["memory"]["guard"]
    assert guard == {
        "available": GIB,
        "margin": 2 * GIB,
        "closed": True,
        "waiting": 3,
        "sheds": 4,
        "shed": 700,
    }
    lines = front.get("/metrics").body.decode().splitlines()
    assert "pensieved_memory_closed 1.0" in lines
    assert "pensieved_memory_available_bytes 1.073741824e+09" in lines
    assert "pensieved_memory_safety_margin_bytes 2.147483648e+09" in lines
    assert "pensieved_memory_requests_waiting 3.0" in lines
    assert "pensieved_memory_sheds_total 4.0" in lines
    assert "pensieved_memory_shed_bytes_total 700.0" in lines


@pytest.mark.parametrize(("overloaded", "status"), [(True, 529), (False, 400)])
def test_what_the_engine_refuses_for_now_is_overloaded_and_what_it_can_never_run_is_invalid(
    front, overloaded, status
):
    front.engine.refusal, front.engine.overloaded = "Why.", overloaded
    reply = front.say()
    assert reply.status == status
    assert reply.json()["error"]["message"] == "Why."
    assert reply.headers.get("retry-after") == ("5" if overloaded else None)
