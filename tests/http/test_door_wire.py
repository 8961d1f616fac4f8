"""Raw sockets with the worst intentions: whatever they send, health answers and nobody else notices."""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from pensieved.http import channel, server
from support.front import END, MODEL, Response, question, running_front, wait_until

HOST = b"host: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
KEY = "psv-3f9c1f0b"


@pytest.fixture(scope="module")
def front():
    with running_front() as running:
        yield running


@contextlib.contextmanager
def connected(front):
    with socket.create_connection(("127.0.0.1", front.server.port), timeout=20) as sock:
        yield sock


def everything(sock):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def sent(front, data):
    with connected(front) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)
        return everything(sock)
    return b""


def parsed(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Response(int(status_line.split()[1]), headers, body)


def post(body=b"", path=b"/v1/messages", **headers):
    fields = {"host": "localhost", "content_type": "application/json", "content_length": len(body)} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return b"POST " + path + b" HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body


MALFORMED = {
    "length of 5000 digits": b"POST /v1/messages HTTP/1.1\r\n"
    + HOST
    + b"content-length: "
    + b"9" * 5000
    + b"\r\n\r\n",
    "length twice": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"content-length: -1\r\n\r\n",
    "address that is none": b"GET http://[::1/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "address with a name in brackets": b"GET http://[x]/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET  HTTP/1.1\r\n" + HOST + b"\r\n",
    "three words too many": b"GET / HTTP/1.1 and more\r\n" + HOST + b"\r\n",
    "lower case": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the request line": b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a name": b"GET /health HTTP/1.1\r\nho\x00st: localhost\r\n\r\n",
    "NUL in a value": b"GET /health HTTP/1.1\r\n" + HOST + b"x: \x00\r\n\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nhost: localhost\n\nGET / HTTP/1.1\r\n\r\n",
    "space before the colon": b"GET /health HTTP/1.1\r\nhost : localhost\r\n\r\n",
    "folded first header": b"GET /health HTTP/1.1\r\n host: localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "chunk size that is none": b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "negative chunk": b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
    "chunk without its end": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"transfer-encoding: chunked\r\n\r\n1\r\nxyz\r\n",
    "endless chunk size": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"transfer-encoding: chunked\r\n\r\n"
    + b"0" * 200_000,
    "endless chunk extension": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"transfer-encoding: chunked\r\n\r\n1;"
    + b"x" * 200_000,
    "endless trailer": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"transfer-encoding: chunked\r\n\r\n0\r\n"
    + b"x: y\r\n" * 40_000,
    "two codings": b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "10,000 headers": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 12_000 + b"\r\n",
    "a header of 100 KB": b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
    "an address of 100 KB": b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_request_is_refused_in_words(front, what):
    response = parsed(sent(front, MALFORMED[what]))
    assert response.status in {400, 404, 413, 431, 501}, response
    content = response.json()
    assert content["type"] == "error"
    assert content["error"]["message"]
    assert response.headers["request-id"] == content["request_id"]
    assert front.get("/health").status == 200


ODD = {
    "no version": b"GET /health\r\n\r\n",
    "HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept alive, then ended": b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n",
    "blank lines before": b"\r\n\r\n" + HEALTH.replace(HOST, HOST + b"connection: close\r\n"),
    "the whole address": b"GET http://localhost/health HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
    "two slashes": b"GET //health HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
    "a fragment": b"GET /health?a=%zz#x HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_and_allowed_is_answered(front, what):
    assert parsed(sent(front, ODD[what])).status == 200


def test_a_body_in_many_small_chunks(front):
    body = json.dumps(question()).encode()
    chunks = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body) + b"0\r\nx: y\r\n\r\n"
    head = post().replace(b"content-length: 0", b"transfer-encoding: chunked\r\nconnection: close")
    with connected(front) as sock:
        for start in range(0, len(chunks), 7):
            sock.sendall((head if start == 0 else b"") + chunks[start : start + 7])
        assert parsed(everything(sock)).json()["model"] == MODEL


def test_a_hundred_requests_in_one_piece_are_answered_in_order(front):
    last = HEALTH.replace(HOST, HOST + b"connection: close\r\n").replace(b"health", b"ready")
    answers = sent(front, HEALTH * 100 + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 101
    assert answers.rindex(b'"model_loaded"') < answers.index(b'"ready":true')


def test_nobody_is_asked_for_a_body_that_is_refused_anyway():
    with running_front(api_keys=(KEY,)) as locked:
        big = post(content_length=20_000_000, expect="100-continue")
        response = parsed(sent(locked, big))
        assert (response.status, response.json()["error"]["type"]) == (401, "authentication_error")
        assert response.headers["www-authenticate"] == "Bearer"
        response = parsed(sent(locked, post(content_length=20_000_000, path=b"/v1/chat/completions")))
        assert (response.status, response.json()["error"]["code"]) == (401, "invalid_api_key")
        response = parsed(
            sent(locked, post(content_length=20_000_000, x_api_key=KEY, host="evil.example.com"))
        )
        assert (response.status, response.json()["error"]["type"]) == (403, "permission_error")
        with connected(locked) as sock:
            sock.sendall(post(content_length=20_000_000, x_api_key=KEY, expect="100-continue"))
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(server, "_IDLE_CONNECTIONS", 40)
    with running_front(max_concurrent=2, max_queued=2) as running:
        yield running


@pytest.mark.parametrize(
    "opening",
    [b"", b"\r\n", HEALTH, b"GET /hea", post(content_length=99) + b"{"],
    ids=lambda value: value[:12],
)
def test_more_connections_than_there_is_room_for(few, opening):
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            sock = stack.enter_context(connected(few))
            with contextlib.suppress(OSError):  # it may have had to make room already
                sock.sendall(opening)
        assert few.get("/health").status == 200
        assert few.say().status == 200
        assert len(channel.connections(few.server._map)) < 100


def test_an_answer_under_way_is_not_given_up_for_newcomers(few):
    few.engine.pause()
    with few.streaming() as events, ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        first = pool.submit(next, events)
        for _ in range(100):
            stack.enter_context(connected(few)).sendall(HEALTH)
        few.engine.resume()
        assert [first.result(), *events][-1] == "message_stop"


def test_requests_that_take_long_to_read_leave_threads_for_health(few, monkeypatch):
    """Counting tokens waits for no slot, so nothing but the lanes bounds how many threads it takes."""
    reading, done = threading.Semaphore(0), threading.Event()
    count = few.daemon.serving.text.count_chat

    def slow(conversation, *args, **kwargs):
        reading.release()
        done.wait(120)
        return count(conversation, *args, **kwargs)

    monkeypatch.setattr(few.daemon.serving.text, "count_chat", slow)
    counted = {"model": MODEL, "messages": question()["messages"]}
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(few.post, "/v1/messages/count_tokens", counted) for _ in range(40)]
        try:
            assert few.get("/health").status == 200
            assert few.get("/v1/status").status == 200
            wait_until(lambda: sum(one.done() for one in asked) >= 20)
        finally:
            done.set()
        statuses = [one.result().status for one in asked]
    assert set(statuses) == {200, 529}
    refused = next(one.result() for one in asked if one.result().status == 529)
    assert int(refused.headers["retry-after"]) >= 1
    assert few.say().status == 200


@pytest.mark.slow
def test_a_client_that_never_reads_its_stream(monkeypatch):
    monkeypatch.setattr(channel, "UNREAD_SECONDS", 0.3)
    with running_front(f"{'word ' * 20_000}{END}", context_length=200_000, tokens_per_step=50) as front:
        with connected(front) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(post(json.dumps(question(stream=True, max_tokens=150_000)).encode()))
            wait_until(lambda: front.engine.submitted)
            assert front.get("/health").status == 200
            wait_until(lambda: not channel.connections(front.server._map), 30)
        wait_until(lambda: front.admission.running == 0, 30)


def test_a_path_cannot_write_into_the_terminal(front):
    with capture_logs() as logs:
        response = front.get("/%1b%5b31mred%0aline%9b")
        assert response.status == 404
        mine = response.headers["request-id"]
        wait_until(lambda: any(line.get("request_id") == mine for line in logs))
    (line,) = (line for line in logs if line.get("request_id") == mine)
    assert line["route"].endswith("line?")
    assert all(character.isprintable() for character in line["route"])
