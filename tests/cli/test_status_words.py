from __future__ import annotations

import time

import msgspec
import pytest

from pensieved.cli.address import Address, local_url
from pensieved.cli.ask import Answer, DaemonReport, ask
from pensieved.cli.standing import Standing
from pensieved.cli.status import describe
from pensieved.service.agent import find_agent
from pensieved.service.launchctl import Job
from support.fakestatus import FakeStatus


def standing(job=None, report=None, **changes):
    answer = report and Answer(msgspec.convert(report, DaemonReport), msgspec.Raw(b"{}"), ready=True)
    given = {"has_launchd": True, "installed": True, "switched_off": False, "url": "http://x", "problems": []}
    return Standing(agent=find_agent("org.example.x"), job=job, answer=answer, **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"has_launchd": False}, "none: this system has no launchd"),
        ({"installed": False}, "org.example.x is not installed"),
        ({}, "org.example.x is installed, not loaded"),
        ({"switched_off": True}, "org.example.x is switched off"),
        ({"job": Job("gui/1", "running", 7, 1)}, "org.example.x is running (pid 7)"),
        ({"job": Job("gui/1")}, "org.example.x is loaded"),
        (
            {"job": Job("gui/1", "spawn scheduled", None, 4, "code 2")},
            "org.example.x is spawn scheduled (started 4 times, last end: code 2)",
        ),
    ],
)
def test_the_agent_in_words(changes, words):
    assert standing(**changes).agent_words() == words


def test_a_daemon_that_does_not_answer():
    assert list(describe(standing(problems=["x.toml:3: wrong"]))) == [
        "agent     org.example.x is installed, not loaded",
        "problem   x.toml:3: wrong",
        "daemon    does not answer on http://x",
    ]


def test_everything_an_operator_wants_to_know(monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # it stands still while this is put into words
    report = {
        "version": "1.2", "started_at": now - 60, "uptime": 60.0, "phase": "degraded", "since": now - 5,
        "progress": {"stage": "downloading", "detail": "", "done": 50, "total": 200, "rate": 1024.0, "eta": 30.0},
        "error": "Half of it.", "hint": "Wait.", "retry_at": now + 20.4,
        "model": {"name": "m", "source": "hf://a/m", "quantization": "4bit", "weight_bytes": 2**30, "new": 1},
        "engine": {"pid": 9, "restarts": 1, "resumed": 2, "active_memory": 2**20, "cache_memory": 0},
        "requests": {"running": 1, "queued": 2, "finished": 3, "failed": 4, "input_tokens": 5, "cached_tokens": 3, "output_tokens": 6, "refused": 7},
        "speed": {"tokens_per_second": 41.26, "window": 10, "first_token_p50": 0.2, "first_token_p95": 1.314},
        "memory": {"daemon": 2**26, "engine": 2**30, "guard": {"available": 2**31, "margin": 2**29, "closed": True, "waiting": 1}},
        "cache": {"dir": "/x", "size": 3 * 2**30, "free": 2**40},
        "prompt_cache": {"entries": 5, "memory": 2**29, "disk_entries": 4, "disk": 2**30},
        "a field of the future": None,
    }  # fmt: skip
    assert list(describe(standing(report=report)))[1:] == [
        "daemon    1.2 on http://x, up 1m 0s",
        "phase     degraded 50 B of 200 B, 25 %, 1.0 KiB/s, 30s left, for 5s, tries again in 20s",
        "reason    Half of it.",
        "to do     Wait.",
        "model     m (hf://a/m, 4bit, 1.0 GiB)",
        "engine    pid 9, 1 restart, 2 streams resumed, 1.0 MiB in use, 0 B kept for reuse",
        "requests  1 running, 2 waiting, 3 answered, 4 failed, 7 sent away; 5 tokens in, 6 out",
        "speed     41.3 tokens/s over the last 10s; first token after 0.20s, 95 % within 1.31s",
        "memory    daemon 64.0 MiB, engine 1.0 GiB; 2.0 GiB available, 512.0 MiB of it left to others, 1 request waiting for it; new requests are refused",
        "cache     3.0 GiB on disk, 1.0 TiB free",
        "prompts   512.0 MiB in memory, 1.0 GiB on disk; 3 tokens not computed again",
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_where_a_listener_is_reached(host, url):
    assert local_url(host, 80) == url


def test_no_proxy_sees_what_is_asked_and_strangers_are_nobody(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with FakeStatus() as daemon:
        address = Address(f"http://127.0.0.1:{daemon.port}")
        assert ask(address).report.phase == "idle"
        daemon.status = {"some": "other service"}
        assert ask(address) is None
        daemon.status = ["x"]
        assert ask(address) is None
    assert ask(address) is None
