"""A client that goes away frees its slot, wherever its request stands."""

import json
import socket

import pytest
from structlog.testing import capture_logs

from pensieved.control.status import Phase
from support.front import question, running_front, serving_model, wait_until

ENDLESS = "on and on " * 1000
ROOM = {"context_length": 20_000}
LONG = 15_000
"""Tokens, more than ENDLESS has; as it has no end token, that answer is never finished by itself."""


def send(front, **fields):
    body = json.dumps(question(**fields)).encode()
    sock = socket.create_connection(("127.0.0.1", front.server.port), timeout=20)
    head = f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_engine_answers(stream):
    with running_front(ENDLESS, **ROOM) as front, capture_logs() as logs:
        with send(front, stream=stream, max_tokens=LONG) as sock:
            wait_until(lambda: front.engine.running)
            if stream:
                assert sock.recv(10)
        wait_until(lambda: front.engine.cancelled)
        wait_until(lambda: front.admission.running == 0)
        wait_until(lambda: [line for line in logs if line["event"] == "request"])
    (line,) = [line for line in logs if line["event"] == "request"]
    assert line["error"] == "client_gone"
    assert line["input_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_during_prefill(stream):
    with running_front(ENDLESS) as front:
        front.engine.pause()
        with send(front, stream=stream):
            wait_until(lambda: front.engine.submitted)
        wait_until(lambda: front.admission.running == 0)
        wait_until(lambda: front.engine.cancelled)


@pytest.mark.parametrize("stream", [False, True])
def test_in_the_queue(stream):
    with running_front(max_concurrent=1) as front:
        ticket = front.admission.enter()
        with send(front, stream=stream):
            wait_until(lambda: front.admission.queued == 1)
        wait_until(lambda: front.admission.queued == 0)
        assert front.engine.submitted == []
        ticket.leave()
        assert front.say().status == 200


def test_while_the_model_loads():
    with running_front(serving=False) as front:
        front.daemon.status.enter(Phase.LOADING)
        with send(front):
            wait_until(lambda: front.admission.running == 1)
        wait_until(lambda: front.admission.running == 0)
        front.daemon.serving = serving_model(front.engine)
        front.daemon.status.enter(Phase.READY)
        assert front.say().status == 200


def test_many_that_come_and_go_leave_nothing_behind():
    with running_front(ENDLESS, max_concurrent=2, max_queued=30, **ROOM) as front:
        sockets = [send(front, stream=number % 2 == 0, max_tokens=LONG) for number in range(20)]
        wait_until(lambda: front.admission.running == 2 and front.admission.queued == 18)
        for sock in sockets:
            sock.close()
        assert front.admission.wait_idle(60)
        wait_until(lambda: front.engine.client.live == 0)
        front.engine.answer = lambda _: [front.daemon.serving.text.stop_token_ids[0]]
        assert front.say().status == 200
