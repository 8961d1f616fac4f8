"""The engine never outlives the daemon, whatever happens to either."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.engines import lives

TESTS = Path(__file__).parent.parent
DAEMON = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support.engines import Script, engine_config
from pensieved.engine.protocol import Sampling
from pensieved.engine.supervisor import Engine
folder = Path(sys.argv[2])
script = Script(step_delay=float(sys.argv[3]))
engine = Engine(engine_config(folder, script, hang_timeout=100), lambda *_: None)
engine.load(folder, max_concurrent=2)
engine.client.submit([1], max_tokens=10**6, stop_tokens=[], sampling=Sampling())
print("ready", flush=True)
time.sleep(1000)
"""


@contextmanager
def daemon(folder, step_delay=0.01):
    """A process with an engine that is busy with a step of `step_delay` seconds; yields both pids."""
    command = [sys.executable, "-c", DAEMON, str(TESTS), str(folder), str(step_delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            while "ready" not in (line := process.stdout.readline()):
                assert line, "the daemon ended early"
            yield process.pid, lives(folder)[0]
        finally:
            process.kill()


def gone(pid):
    """A process which is reaped, or which only its new parent has yet to reap."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(pid):
    deadline = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < deadline, "the engine outlived the daemon"
        time.sleep(0.01)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_engine_ends_with_the_daemon(tmp_path, sign):
    with daemon(tmp_path) as (parent, engine):
        os.kill(parent, sign)
        wait_gone(engine)


def test_also_in_the_middle_of_a_long_step(tmp_path):
    with daemon(tmp_path, step_delay=500) as (parent, engine):
        os.kill(parent, signal.SIGKILL)
        wait_gone(engine)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux delivers a chosen signal when a pipe closes")
def test_also_while_the_engine_is_stopped(tmp_path):
    with daemon(tmp_path) as (parent, engine):
        os.kill(engine, signal.SIGSTOP)
        os.kill(parent, signal.SIGKILL)
        wait_gone(engine)


def test_a_ctrl_c_on_the_terminal_does_not_reach_the_engine(tmp_path):
    with daemon(tmp_path) as (parent, engine):
        assert os.getpgid(engine) != os.getpgid(parent)
        assert os.getsid(engine) == engine
