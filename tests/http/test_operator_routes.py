"""Page, health, readiness, status, models."""

import pytest
from structlog.testing import capture_logs

import pensieved
from pensieved.control.status import Phase
from pensieved.models.progress import PrepareStage, Progress
from support.front import MODEL, running_front, wait_until


@pytest.fixture
def starting():
    with running_front(serving=False) as front:
        yield front


def test_page(starting):
    response = starting.get("/")
    assert response.status == 200
    assert f"pensieved {pensieved.__version__}: idle" in response.body.decode()
    assert "/v1/messages" in response.body.decode()


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        (Phase.IDLE, "starting"),
        (Phase.DOWNLOADING, "starting"),
        (Phase.LOADING, "starting"),
        (Phase.READY, "healthy"),
        (Phase.DEGRADED, "degraded"),
        (Phase.FAILED, "failed"),
    ],
)
def test_health_is_200_in_every_phase(starting, phase, status):
    starting.daemon.status.enter(phase)
    response = starting.get("/health")
    assert response.status == 200
    content = response.json()
    assert set(content) == {"status", "model_loaded", "phase", "timestamp", "version"}
    assert (content["status"], content["phase"], content["model_loaded"]) == (status, phase, False)


def test_ready_only_when_ready(starting):
    for phase in (Phase.IDLE, Phase.DOWNLOADING, Phase.WARMING):
        starting.daemon.status.enter(phase)
        response = starting.get("/ready")
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
    starting.daemon.status.enter(Phase.FAILED, error="Gated.")
    response = starting.get("/ready")
    assert response.status == 503
    assert "retry-after" not in response.headers
    with running_front() as front:
        assert front.get("/ready").status == 200
        assert front.get("/ready").json() == {"ready": True, "phase": "ready"}


def test_status_while_downloading(starting):
    progress = Progress(
        stage=PrepareStage.DOWNLOADING, detail="model.safetensors", done=5, total=10, rate=1.0, eta=5.0
    )
    starting.daemon.status.enter(Phase.DOWNLOADING, detail="tiny", progress=progress)
    content = starting.get("/v1/status").json()
    assert content["phase"] == "downloading"
    assert content["progress"]["done"] == 5
    assert content["progress"]["eta"] == 5.0
    assert content["model"] is None
    assert content["engine"] is None
    starting.daemon.status.enter(Phase.FAILED, error="what", hint="next", retry_at=1.0)
    content = starting.get("/v1/status").json()
    assert (content["error"], content["hint"], content["retry_at"]) == ("what", "next", 1.0)


def test_status_counts_what_was_answered():
    with running_front() as front:
        usage = front.say().json()["usage"]
        front.say(model="unknown")
        # A request is counted when its last byte is written, which its reader may be a moment ahead of.
        wait_until(lambda: front.get("/v1/status").json()["requests"]["finished"])
        content = front.get("/v1/status").json()
        assert content["requests"] == {
            "running": 0,
            "queued": 0,
            "refused": 0,
            "finished": 1,
            "failed": 0,
            "input_tokens": usage["input_tokens"],
            "cached_tokens": 0,
            "output_tokens": usage["output_tokens"],
            "dropped_lines": 0,
        }
        assert content["model"]["name"] == MODEL
        assert content["model"]["commit"] == "c0ffee"
        assert (content["engine"]["pid"], content["engine"]["resumed"]) == (4711, 1)
        assert 0 < content["speed"]["first_token_p50"] <= content["speed"]["first_token_p95"]
        assert content["memory"]["daemon"] > 2**20
        assert content["cache"]["dir"] == str(front.daemon.settings.cache.dir)
        assert content["cache"]["free"] > 0
        assert content["limits"]["max_concurrent"] == 4
        assert content["limits"]["context_length"] == 512
        assert content["uptime"] > 0


def test_models(starting):
    assert starting.get("/v1/models").json()["data"] == []
    assert starting.get("/v1/models/x").status == 404
    with running_front() as front:
        listed = front.get("/v1/models?limit=100").json()
        assert listed["first_id"] == listed["last_id"] == MODEL
        assert listed["has_more"] is False
        for path in ("/v1/models/tiny/model", "/v1/models/tiny%2Fmodel"):
            content = front.get(path).json()
            assert (content["id"], content["type"], content["object"]) == (MODEL, "model", "model")
            assert content["created_at"] == "2023-11-14T22:13:20Z"
        assert front.get("/v1/models/claude-any").json()["id"] == "claude-any"


def test_one_log_line_a_request_and_no_text_in_it():
    with running_front() as front, capture_logs() as logs:
        responses = [
            front.say("a secret question", system="a secret rule"),
            front.say("a secret question", stream=True),
            front.say("a secret question", model="unknown"),
            front.get("/nowhere"),
            front.get("/v1/models/tiny/model"),
            front.get("/health"),
        ]
        wait_until(lambda: sum(line["event"] == "request" for line in logs) == 6)
    known = {line["request_id"]: line for line in logs if line["event"] == "request"}
    assert len(known) == 6
    lines = [known[response.headers["request-id"]] for response in responses]  # written in any order
    assert lines[0] | {"route": "/v1/messages", "status": 200, "stop_reason": "end"} == lines[0]
    assert {"input_tokens", "output_tokens", "queue_seconds", "ttft_seconds", "total_seconds"} <= set(
        lines[0]
    )
    assert [line["stream"] for line in lines[:2]] == [False, True]
    assert (lines[2]["status"], lines[2]["error"]) == (404, "not_found")
    assert (lines[3]["route"], lines[3]["status"]) == ("/nowhere", 404)
    assert lines[4]["route"] == "/v1/models/{model_id}"
    assert (lines[5]["route"], lines[5]["log_level"]) == ("/health", "debug")
    assert "secret" not in repr(logs)
    assert "Paris" not in repr(logs)
