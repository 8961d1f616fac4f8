"""The listening socket."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from pensieved.errors import PortTakenError, UsageError
from pensieved.http.listen import bind


def test_any_free_port():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_a_taken_port_names_its_process():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            bind("127.0.0.1", port)
    name = psutil.Process().name()
    assert caught.value.what == f"Port {port} is taken by {name} (pid {os.getpid()})."
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 1


def test_another_processes_port():
    code = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        port = int(other.stdout.readline())
        with pytest.raises(PortTakenError, match=f"pid {other.pid}"):
            bind("127.0.0.1", port)
        other.stdin.close()


def test_where_only_root_sees_every_connection(monkeypatch):
    def denied(_kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with bind("127.0.0.1", 0) as listener, pytest.raises(PortTakenError, match=f"pid {os.getpid()}"):
        bind("127.0.0.1", listener.getsockname()[1])


def test_no_such_address():
    with pytest.raises(UsageError, match=r"not an address"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 0)
