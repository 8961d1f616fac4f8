"""What arrives on the socket may be anything, at any speed."""

import contextlib
import json
import socket

import pytest

from pensieved.http import channel
from support.front import MODEL, question, running_front, wait_until

MEGABYTE = 1 << 20


@pytest.fixture
def front():
    with running_front(max_body=32 * MEGABYTE) as running:
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


def parsed(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status_line.split()[1]), headers, json.loads(body)


def post(body, **headers):
    fields = {"host": "localhost", "content_type": "application/json", "content_length": len(body)} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return b"POST /v1/messages HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body


def test_fifty_megabytes_are_refused_and_the_refusal_is_read(front):
    with connected(front) as sock:
        sock.sendall(post(b"x" * (50 * MEGABYTE)))
        status, headers, body = parsed(everything(sock))
    assert status == 413
    assert body["error"]["type"] == "request_too_large"
    assert headers["request-id"] == body["request_id"]
    assert headers["content-type"] == "application/json"


def test_fifty_megabytes_in_chunks(front):
    with connected(front) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b"%x\r\n" % MEGABYTE + b"x" * MEGABYTE + b"\r\n"
        for _ in range(50):
            sock.sendall(piece)
        sock.sendall(b"0\r\n\r\n")
        status, _, body = parsed(everything(sock))
    assert (status, body["error"]["type"]) == (413, "request_too_large")


def test_a_body_that_waits_for_permission_is_refused_before_it_is_sent(front):
    with connected(front) as sock:
        sock.sendall(post(b"", content_length=50 * MEGABYTE, expect="100-continue"))
        status, _, _ = parsed(everything(sock))
    assert status == 413


def test_permission_is_given_to_a_body_that_fits(front):
    body = json.dumps(question()).encode()
    with connected(front) as sock:
        sock.sendall(post(b"", content_length=len(body), expect="100-continue", connection="close"))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        status, _, _ = parsed(everything(sock))
    assert status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header line\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: minus\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: telepathy\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_an_envelope(front, raw):
    with connected(front) as sock:
        sock.sendall(raw)
        status, headers, body = parsed(everything(sock))
    assert 400 <= status <= 501
    assert body["type"] == "error"
    assert headers["request-id"] == body["request_id"]
    assert front.get("/health").status == 200


def test_half_a_request_holds_nobody_up(front):
    with contextlib.ExitStack() as stack:
        for number in range(40):
            sock = stack.enter_context(connected(front))
            sock.sendall(post(b"", content_length=100)[: 20 + 4 * number])
        assert front.get("/health").status == 200
        assert front.say().status == 200
    assert front.say().status == 200


@pytest.mark.parametrize(
    ("limit", "sent"),
    [("HEADER_SECONDS", b"POST /v1/mess"), ("BODY_SECONDS", post(b"", content_length=100) + b"{")],
)
def test_a_request_that_does_not_get_done_is_cut_off(front, monkeypatch, limit, sent):
    monkeypatch.setattr(channel, limit, 0.2)
    with connected(front) as sock:
        sock.sendall(sent)
        assert everything(sock) == b""


def test_an_answer_that_nobody_reads_is_given_up(front, monkeypatch):
    monkeypatch.setattr(channel, "UNREAD_SECONDS", 0.2)
    big = "z" * (8 * MEGABYTE)
    front.daemon.serving.text.detokenizer = lambda **_: FixedText(big)
    with connected(front) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(post(json.dumps(question()).encode()))
        wait_until(lambda: front.engine.submitted)
        wait_until(lambda: not channel.connections(front.server._map))


def test_an_answer_that_took_long_has_its_time_to_be_read():
    late = 1000.0 + 2 * channel.UNREAD_SECONDS
    one = channel.Channel.__new__(channel.Channel)
    one.last_activity = 1000.0  # the request
    assert not one._is_overdue(late)
    one.total_outbufs_len = 10  # as a thread hands the answer over
    assert not one._is_overdue(late + 1)
    one.last_activity = late + 2  # some of it is sent
    assert not one._is_overdue(late + 2 + channel.UNREAD_SECONDS)
    assert one._is_overdue(late + 3 + channel.UNREAD_SECONDS)
    one.total_outbufs_len = 0
    assert not one._is_overdue(late + 3 + channel.UNREAD_SECONDS)


class FixedText:
    """A detokenizer that says one big text."""

    def __init__(self, text):
        self.text = text

    def feed(self, _ids):
        text, self.text = self.text, ""
        return text

    def flush(self):
        return ""


def test_two_requests_over_one_connection(front):
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).encode()
    request = post(body).replace(b"/v1/messages", b"/v1/messages/count_tokens")
    with connected(front) as sock:
        sock.sendall(request + request.replace(b"host: localhost", b"host: localhost\r\nconnection: close"))
        assert everything(sock).count(b'{"input_tokens":') == 2


def test_head_of_the_page(front):
    response = front.request("HEAD", "/")
    assert (response.status, response.body) == (200, b"")
    assert response.headers["server"].startswith("pensieved/")
    assert response.headers["request-id"].startswith("req_")
