"""The server's end: nobody is cut off, and nothing hangs."""

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pensieved.http import server as module
from pensieved.http.listen import bind
from pensieved.http.server import HttpServer
from support.front import END, running_front, wait_until


def test_close_lets_an_answer_that_is_being_written_finish(monkeypatch):
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 60)  # as long as it takes here
    with running_front(f"{'word ' * 50}{END}") as front, ThreadPoolExecutor(1) as pool:
        front.engine.pause()
        asked = pool.submit(front.say, stream=True)
        wait_until(lambda: front.engine.submitted)
        front.server.close()
        front.engine.resume()
        assert asked.result().body.endswith(b'{"type":"message_stop"}\n\n')


def test_close_does_not_wait_for_idle_connections(monkeypatch):
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 120)
    with running_front() as front:
        connection = http.client.HTTPConnection("127.0.0.1", front.server.port, timeout=10)
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        front.server.close()
        assert front.server._closed.wait(30)
        connection.close()


def test_no_new_connections_after_close():
    with running_front() as front:
        port = front.server.port
        front.server.close()
        assert front.server._closed.wait(30)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with pytest.raises(ConnectionRefusedError):
            connection.request("GET", "/health")


def test_close_while_sockets_are_being_closed(monkeypatch):
    real = module.wasyncore.close_all

    def close_all(sockets, *, ignore_all):
        real(sockets, ignore_all=ignore_all)
        server.close()  # as another thread may, before anybody can know that it is over

    monkeypatch.setattr(module.wasyncore, "close_all", close_all)
    server = HttpServer(lambda _environ, _start: [], [bind("127.0.0.1", 0)], threads=1, max_body=10)
    server.close()
    server.run()
    assert server._closed.is_set()


def test_close_before_run_and_twice():
    server = HttpServer(lambda _environ, _start: [], [bind("127.0.0.1", 0)], threads=1, max_body=10)
    server.close()
    server.close()
    thread = threading.Thread(target=server.run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    server.close()


def test_several_sockets():
    with bind("127.0.0.1", 0) as spare:
        pass
    sockets = [bind("127.0.0.1", 0), bind("127.0.0.1", 0)]
    ports = [sock.getsockname()[1] for sock in sockets]

    def app(_environ, start_response):
        start_response("200 OK", [("content-length", "2")])
        return [b"ok"]

    server = HttpServer(app, sockets, threads=2, max_body=10)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for port in ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
            connection.close()
    finally:
        server.close()
        thread.join(10)
    assert spare.fileno() == -1
