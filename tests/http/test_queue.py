"""Slots, queue, 529; waiting for the model; draining."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pensieved.control.status import Phase
from pensieved.errors import RequestError, RequestErrorKind
from pensieved.http import stream
from pensieved.http.admission import Admission, bounded_retry
from pensieved.models.progress import PrepareStage, Progress
from support.front import END, events, ids_of, question, running_front, serving_model, wait_until

ENDLESS = "on and on " * 1000


def test_first_come_first_served():
    admission = Admission(1, 2)
    first, second, third = admission.enter(), admission.enter(), admission.enter()
    assert first.wait(0)
    assert not second.wait(0)
    assert (admission.running, admission.queued) == (1, 2)
    with pytest.raises(RequestError) as caught:
        admission.enter()
    assert caught.value.kind is RequestErrorKind.OVERLOADED
    first.leave()
    assert second.wait(0)
    assert not third.wait(0)
    first.leave()
    assert not third.wait(0)
    second.leave()
    assert third.wait(0)


def test_leaving_the_queue():
    admission = Admission(1, 2)
    first, second, third = admission.enter(), admission.enter(), admission.enter()
    second.leave()
    first.leave()
    assert third.wait(0)
    assert not second.wait(0)
    third.leave()
    assert admission.wait_idle(0)


def test_no_slot_is_lost_under_contention():
    admission = Admission(3, 100)
    running, most = [], []

    def work():
        ticket = admission.enter()
        assert ticket.wait(60)
        running.append(1)
        most.append(len(running))
        running.pop()
        ticket.leave()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: work(), range(300)))
    assert admission.wait_idle(0)
    assert max(most) <= 3


def test_retry_is_bounded_and_follows_recent_durations():
    assert [bounded_retry(seconds) for seconds in (-5, 0, 0.2, 17.1, 4000)] == [1, 1, 1, 18, 60]
    quick = Admission(1, 0)
    for _ in range(40):
        quick.enter().leave()
    quick.enter()
    with pytest.raises(RequestError) as caught:
        quick.enter()
    assert caught.value.retry_after == 1


def test_beyond_the_queue_529_with_retry_after():
    with running_front(ENDLESS, max_concurrent=1, max_queued=1) as front, ThreadPoolExecutor(2) as pool:
        front.engine.pause()
        waiting = [pool.submit(front.say) for _ in range(2)]
        wait_until(lambda: (front.admission.running, front.admission.queued) == (1, 1))
        for streamed in (False, True):
            response = front.say(stream=streamed)
            assert response.status == 529
            assert response.json()["error"]["type"] == "overloaded_error"
            assert 1 <= int(response.headers["retry-after"]) <= 60
        assert front.get("/health").status == 200
        assert (
            front.get("/v1/status").json()["requests"] | {"running": 1, "queued": 1}
            == front.get("/v1/status").json()["requests"]
        )
        front.engine.resume()
        assert [each.result().status for each in waiting] == [200, 200]


def test_health_answers_while_every_place_is_taken():
    with running_front(ENDLESS, max_concurrent=2, max_queued=6) as front, ThreadPoolExecutor(8) as pool:
        front.engine.pause()
        waiting = [pool.submit(front.say) for _ in range(8)]
        wait_until(lambda: front.admission.queued == 6)
        assert [front.get("/health").status for _ in range(5)] == [200] * 5
        front.engine.resume()
        assert {each.result().status for each in waiting} == {200}


def test_pings_while_waiting(monkeypatch):
    monkeypatch.setattr(stream, "PING_AFTER", 0.2)
    monkeypatch.setattr(stream, "HOLD", 0.3)
    with running_front(f"Hi{END}", max_concurrent=1) as front:
        ticket = front.admission.enter()
        with front.streaming() as names:
            assert [next(names) for _ in range(3)] == ["message_start", "ping", "ping"]
            assert front.admission.queued == 1
            ticket.leave()
            rest = [name for name in names if name != "ping"]
    assert rest[0] == "content_block_start"
    assert set(rest[1:-3]) == {"content_block_delta"}
    assert rest[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_pings_during_a_long_prefill(monkeypatch):
    monkeypatch.setattr(stream, "PING_AFTER", 0.2)
    monkeypatch.setattr(stream, "HOLD", 0.3)
    with running_front(f"Hi{END}") as front:
        front.engine.pause()
        with front.streaming() as names:
            assert [next(names) for _ in range(3)] == ["message_start", "ping", "ping"]
            front.engine.resume()
            assert list(names)[-1] == "message_stop"


def test_a_request_waits_for_a_model_that_is_loading():
    with running_front(f"Hi{END}", serving=False) as front, ThreadPoolExecutor(1) as pool:
        front.daemon.status.enter(Phase.LOADING)
        asked = pool.submit(front.say)
        wait_until(lambda: front.admission.running == 1)
        front.daemon.serving = serving_model(front.engine)
        front.daemon.status.enter(Phase.READY)
        assert asked.result().json()["stop_reason"] == "end_turn"


def test_pings_while_the_model_loads(monkeypatch):
    monkeypatch.setattr(stream, "PING_AFTER", 0.2)
    monkeypatch.setattr(stream, "HOLD", 0.1)
    with running_front(f"Hi{END}", serving=False) as front:
        front.daemon.status.enter(Phase.LOADING)
        with front.streaming() as names:
            assert [next(names) for _ in range(2)] == ["ping", "ping"]
            front.daemon.serving = serving_model(front.engine)
            front.daemon.status.enter(Phase.READY)
            assert next(name for name in names if name != "ping") == "message_start"


def test_waiting_ends_when_loading_fails():
    with running_front(serving=False) as front, ThreadPoolExecutor(1) as pool:
        front.daemon.status.enter(Phase.LOADING)
        asked = pool.submit(front.say)
        wait_until(lambda: front.admission.running == 1)
        front.daemon.status.enter(Phase.FAILED, error="Out of memory.", hint="Use a smaller model.")
        response = asked.result()
    assert response.status == 503
    assert "Out of memory. Use a smaller model." in response.json()["error"]["message"]


def test_wrong_requests_that_waited_for_the_model_are_told_so():
    with running_front(serving=False) as front, ThreadPoolExecutor(1) as pool:
        front.daemon.status.enter(Phase.LOADING)
        asked = pool.submit(front.say, model="unknown")
        wait_until(lambda: front.admission.running == 1)
        front.daemon.serving = serving_model(front.engine)
        front.daemon.status.enter(Phase.READY)
        assert asked.result().status == 404


def test_a_request_in_the_queue_goes_to_the_model_that_came_meanwhile():
    with running_front(f"old{END}", max_concurrent=1) as front, ThreadPoolExecutor(1) as pool:
        ticket = front.admission.enter()
        asked = pool.submit(front.say, model="claude-x")
        wait_until(lambda: front.admission.queued == 1)
        front.engine.answer = lambda submit: ids_of(f"new {len(submit.prompt)}</s>")
        old = front.daemon.serving
        front.daemon.serving = serving_model(front.engine, name="other", template="{{ messages[0].content }}")
        old.users.close()
        ticket.leave()
        assert asked.result().json()["content"][0]["text"] == f"new {len(ids_of('Hello'))}"


def test_while_downloading_529_says_how_far():
    with running_front(serving=False) as front:
        progress = Progress(stage=PrepareStage.DOWNLOADING, done=42 * 1024**2, total=100 * 1024**2, eta=33.0)
        front.daemon.status.enter(Phase.DOWNLOADING, progress=progress)
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            response = front.post(path, question())
            assert response.status == 529
            assert response.headers["retry-after"] == "33"
            message = response.json()["error"]["message"]
            assert "downloading (42.0 MiB of 100.0 MiB, 42 %, about 33s left)" in message


def test_failed_and_draining_are_503():
    with running_front() as front:
        front.daemon.status.enter(Phase.FAILED, error="Gated.", retry_at=time.time() + 50)
        response = front.say()
        assert response.status == 503
        assert 20 <= int(response.headers["retry-after"]) <= 51
        front.daemon.status.enter(Phase.DRAINING)
        response = front.say(stream=True)
        assert response.status == 503
        assert "shutting down" in response.json()["error"]["message"]
        assert front.get("/health").json()["phase"] == "draining"


def test_running_answers_finish_while_draining():
    with running_front(f"finished{END}") as front, ThreadPoolExecutor(1) as pool:
        front.engine.pause()
        asked = pool.submit(front.say, stream=True)
        wait_until(lambda: front.engine.submitted)
        front.daemon.status.enter(Phase.DRAINING)
        assert not front.admission.wait_idle(0)
        front.engine.resume()
        assert front.admission.wait_idle(60)
        assert b"message_stop" in asked.result().body


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_that_outlast_the_drain_end_with_an_error(streamed):
    with running_front(context_length=20_000) as front, ThreadPoolExecutor(1) as pool:
        started = threading.Event()
        front.engine.answer = lambda _: (started.set(), ids_of(ENDLESS))[1]
        asked = pool.submit(front.say, stream=streamed, max_tokens=15_000)
        assert started.wait(60)
        front.admission.abort()
        response = asked.result()
        assert front.admission.wait_idle(60)
    if response.status == 200:
        assert events(response.body)[-1][0] == "error"
    else:
        assert response.status == 503
    assert b"shutting down" in response.body


@pytest.mark.parametrize("streamed", [False, True])
def test_request_timeout(streamed):
    with running_front(ENDLESS, request_timeout=0.3) as front:
        front.engine.pause()
        response = front.say(stream=streamed)
        assert response.status == 504
        assert response.json()["error"]["type"] == "timeout_error"
        assert "server.request_timeout" in response.json()["error"]["message"]
        assert front.admission.wait_idle(60)
        wait_until(lambda: front.engine.cancelled)


def test_more_slots_let_those_in_who_wait():
    admission = Admission(1, 3)
    tickets = [admission.enter() for _ in range(4)]
    admission.resize(3, 0)
    assert [ticket.wait(0) for ticket in tickets] == [True, True, True, False]
    with pytest.raises(RequestError):
        admission.enter()


def test_fewer_slots_take_none_away_and_let_nobody_in_until_there_is_one():
    admission = Admission(3, 3)
    tickets = [admission.enter() for _ in range(4)]
    admission.resize(1, 3)
    assert admission.running == 3
    for left, waits in ((0, True), (1, True), (2, False)):
        tickets[left].leave()
        assert tickets[3].wait(0) is not waits


@pytest.mark.parametrize("ending", ["finished", "streamed", "client gone"])
def test_an_answer_uses_its_model_from_its_beginning_to_its_end(ending):
    with running_front("Paris" if ending == "client gone" else f"Paris.{END}") as front:  # the one never ends
        users = front.daemon.serving.users
        if ending == "client gone":
            with front.streaming() as names:
                next(names)
                wait_until(lambda: not users.wait_gone(0))
        else:
            front.say(stream=ending == "streamed")
        assert users.wait_gone(60)
