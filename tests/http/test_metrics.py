"""GET /metrics: what it counts, and that it is what Prometheus takes."""

import os
import random
import re
import subprocess
import sys
from functools import partial

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from pensieved.control.status import Phase
from pensieved.errors import RequestErrorKind
from pensieved.http.dialects import dialect_of
from pensieved.http.ledger import OTHER
from pensieved.http.metrics import METRICS
from pensieved.http.openapi import OPERATIONS
from pensieved.settings.schema import CacheSettings
from support.front import END, EngineFacts, ids_of, running_front, wait_until

UNITS = ("_seconds", "_bytes", "_ratio")
BOUNDS = {
    "route": {operation.path for operation in OPERATIONS} | {OTHER},
    "dialect": {"anthropic", "openai", "both", "none"},
    "kind": {kind.value for kind in RequestErrorKind} | {"client_gone"},
    "part": {"models", "staging", "wheels", "prompts", "other"},
    "place": {"memory", "disk"},
    "outcome": {"accepted", "rejected"},
    "pensieved_phase": {phase.value for phase in Phase},
}


class Scrape:
    """One look at /metrics."""

    def __init__(self, front) -> None:
        response = front.get("/metrics")
        assert response.status == 200
        self.families = {family.name: family for family in parse(response.body.decode())}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name, /, **labels):
        """The sum over all samples of that name that have these labels."""
        found = [one for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(one.value for one in found)


def scrape_when(front, name, value, /, **labels):
    """The first scrape in which that sum is `value`; a request counts a moment after its last byte."""
    wait_until(lambda: Scrape(front).value(name, **labels) == value)
    return Scrape(front)


def asked_so_far(seen):
    """Requests that are over, apart from those for /metrics."""
    name = "pensieved_http_requests_total"
    return seen.value(name) - seen.value(name, route="/metrics")


LONG = "word " * 90
"""An answer without its end: it is never finished by itself."""


@pytest.fixture
def front():
    with running_front() as running:
        running.daemon.engine = EngineFacts(pid=os.getpid())
        yield running


def test_counts_follow_requests(front):
    usage = front.say("Hello\nx-anthropic-billing-header: 1").json()["usage"]
    front.say(stream=True)
    front.post("/v1/chat/completions", {"model": "x", "messages": [{"role": "user", "content": "Hello"}]})
    front.say(model="x")
    front.get("/v1/models/tiny/model")
    front.get("/nowhere")
    wait_until(lambda: asked_so_far(Scrape(front)) == 6)
    requests = partial(Scrape(front).value, "pensieved_http_requests_total")
    assert requests(route="/v1/messages", dialect="anthropic", status="200") == 2
    assert requests(route="/v1/messages", status="404") == 1
    assert requests(route="/v1/chat/completions", dialect="openai", status="404") == 1
    assert requests(route="/v1/models/{model_id}", dialect="both", status="200") == 1
    assert requests(route=OTHER, dialect="none", status="404") == 1
    seen = Scrape(front)
    assert seen.value("pensieved_request_failures_total", kind="not_found") == 3
    assert seen.value("pensieved_output_tokens_total") == 2 * usage["output_tokens"]
    assert usage["input_tokens"] < seen.value("pensieved_input_tokens_total") <= 2 * usage["input_tokens"]
    assert seen.value("pensieved_canonicalised_requests_total") == 1
    assert seen.value("pensieved_dropped_lines_total") == 1
    for name in ("queue_wait", "time_to_first_token", "answer_duration"):
        assert seen.value(f"pensieved_{name}_seconds_count") == 2
        assert seen.value(f"pensieved_{name}_seconds_sum") > 0
    assert seen.value("pensieved_inter_token_seconds_count") == 2 * (usage["output_tokens"] - 1)
    assert seen.value("pensieved_inter_token_seconds_bucket", le="+Inf") == 2 * (usage["output_tokens"] - 1)


def test_choices_of_one_request_share_its_prompt():
    with running_front() as front:
        answer = front.post(
            "/v1/chat/completions",
            {"model": "tiny/model", "n": 3, "messages": [{"role": "user", "content": "Hello"}]},
        ).json()
        seen = scrape_when(front, "pensieved_answer_duration_seconds_count", 1)
        assert seen.value("pensieved_input_tokens_total") == answer["usage"]["prompt_tokens"]
        assert seen.value("pensieved_output_tokens_total") == answer["usage"]["completion_tokens"]


def test_tokens_of_a_running_answer_are_counted_as_they_come():
    with running_front("word " * 60) as front:
        with front.streaming(max_tokens=400) as names:
            assert "content_block_delta" in names
            wait_until(lambda: Scrape(front).value("pensieved_inter_token_seconds_count") > 0)
            seen = Scrape(front)
            assert seen.value("pensieved_output_tokens_total") > 0
            assert seen.value("pensieved_requests_running") == 1
            assert seen.value("pensieved_answer_duration_seconds_count") == 0
            front.engine.go_on(END)
            assert list(names)[-1] == "message_stop"
        done = scrape_when(front, "pensieved_answer_duration_seconds_count", 1)
        assert done.value("pensieved_output_tokens_total") == len(ids_of("word " * 60))
        assert done.value("pensieved_inter_token_seconds_count") == len(ids_of("word " * 60)) - 1


def test_refusals_and_the_queue():
    with running_front(LONG, max_concurrent=1, max_queued=0) as front, front.streaming(max_tokens=500):
        assert front.say().status == 529
        seen = scrape_when(front, "pensieved_request_failures_total", 1, kind="overloaded")
        assert seen.value("pensieved_admission_refusals_total") == 1
        assert seen.value("pensieved_requests_running") == seen.value("pensieved_request_slots") == 1
        assert seen.value("pensieved_requests_queued") == seen.value("pensieved_request_queue_places") == 0


def test_a_client_that_goes_away_is_a_failure():
    with running_front(LONG) as front:
        with front.streaming(max_tokens=500):
            pass
        seen = scrape_when(front, "pensieved_request_failures_total", 1, kind="client_gone")
        assert seen.value("pensieved_answer_duration_seconds_count") == 0


def test_what_never_reaches_the_app_is_counted_too(front):
    assert front.request("GET", "/", headers={"content-length": "x"}).status == 400
    scrape_when(front, "pensieved_http_requests_total", 1, route=OTHER, status="400")


def test_state_of_daemon_engine_and_cache(tmp_path):
    (tmp_path / "models" / "key").mkdir(parents=True)
    (tmp_path / "models" / "key" / "weights").write_bytes(b"x" * 1000)
    (tmp_path / "models" / "key" / "linked").symlink_to(__file__)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "one.so").write_bytes(b"y" * 10)
    with running_front() as front:
        cache = CacheSettings(dir=tmp_path)
        front.daemon.engine = EngineFacts(pid=2**30)
        front.daemon.settings = front.daemon.settings.model_copy(update={"cache": cache})
        seen = Scrape(front)
        assert seen.value("pensieved_cache_bytes", part="models") == 1000
        assert seen.value("pensieved_cache_bytes", part="other") == 10
        assert seen.value("pensieved_cache_free_bytes") > 0
        assert seen.value("pensieved_phase", pensieved_phase="ready") == 1
        assert seen.value("pensieved_phase") == 1
        assert seen.value("pensieved_engine_restarts_total") == 2
        assert seen.value("pensieved_streams_resumed_total") == 1
        assert seen.value("pensieved_engine_active_memory_bytes") == 1000
        assert seen.value("pensieved_drafted_tokens_total", outcome="accepted") == 40
        assert seen.value("pensieved_drafted_tokens_total") == 50
        assert front.get("/v1/status").json()["engine"]["drafted_tokens"] == 50
        assert "pensieved_engine_resident_memory_bytes" not in seen.families  # no process has that pid
        assert seen.value("process_resident_memory_bytes") > 2**20
        assert seen.value("pensieved_model_info", name="tiny/model", quantization="none") == 1
        assert seen.value("pensieved_build_info") == 1


def test_without_a_model_there_is_no_engine_to_tell_of():
    with running_front(serving=False) as front:
        seen = Scrape(front)
        assert seen.value("pensieved_phase", pensieved_phase="idle") == 1
        assert "pensieved_model_info" not in seen.families
        assert "pensieved_engine_active_memory_bytes" not in seen.families


def test_every_metric_has_help_and_keeps_the_conventions(front):
    front.say()
    scraped = Scrape(front)
    names = {metric.exposed for metric in METRICS}
    assert len(names) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"(pensieved|process)(_[a-z]+)+", metric.name)
        assert metric.help.endswith(".")
        assert metric.exposed.endswith("_total") == (metric.kind == "counter")
        assert (f"_{metric.unit}" in UNITS) if metric.unit else not metric.name.endswith(UNITS)
        assert metric.name.endswith(metric.unit)
        family = scraped.families[metric.name if metric.kind == "counter" else metric.exposed]
        assert family.documentation == metric.help
        assert family.type == {"info": "gauge", "stateset": "gauge"}.get(metric.kind, metric.kind)


def test_openmetrics_for_who_asks_for_it(front):
    front.say()
    response = front.request(
        "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(response.body.decode())}
    for metric in METRICS:
        family = families[metric.name]
        assert (family.type, family.unit, family.documentation) == (metric.kind, metric.unit, metric.help)


def test_labels_are_bounded_whatever_is_asked_for(front):
    rng = random.Random(1)
    words = [
        "v1",
        "messages",
        "models",
        "metrics",
        "chat",
        "completions",
        "responses",
        "..",
        "x",
        "%2f",
        "{model_id}",
    ]
    for _ in range(1000):
        path = "/".join(["", *(rng.choice([*words, str(rng.random())]) for _ in range(rng.randint(1, 4)))])
        front.request(rng.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS"]), path)
    wait_until(lambda: Scrape(front).value("pensieved_http_requests_total") >= 1000)
    seen = Scrape(front)
    for sample in seen.samples:
        for name, value in sample.labels.items():
            if name == "status":
                assert re.fullmatch(r"[2-5][0-9][0-9]", value)
            elif name != "le" and not sample.name.endswith("_info"):
                assert value in BOUNDS[name], (sample.name, name, value)
    assert sum(sample.name == "pensieved_http_requests_total" for sample in seen.samples) < 60


def test_every_route_has_its_dialect():
    of = {operation.path: dialect_of(operation.path) for operation in OPERATIONS}
    assert of["/v1/messages/count_tokens"] == "anthropic"
    assert of["/v1/responses"] == of["/v1/embeddings"] == "openai"
    assert of["/v1/models"] == of["/v1/models/{model_id}"] == "both"
    assert of["/metrics"] == of["/v1/status"] == of["/"] == "none"


def test_it_is_behind_the_door():
    with running_front(api_keys=("a-key",)) as front:
        assert front.get("/metrics").status == 401
        assert front.request("GET", "/metrics", headers={"x-api-key": "a-key"}).status == 200


def test_two_apps_count_apart(front):
    with running_front() as other:
        other.say()
        scrape_when(other, "pensieved_answer_duration_seconds_count", 1)
        assert Scrape(front).value("pensieved_answer_duration_seconds_count") == 0


def test_a_daemon_that_nobody_scrapes_does_not_load_the_library():
    program = "import sys, pensieved.http.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
