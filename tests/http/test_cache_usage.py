"""What clients and operators are told of the prompt cache: usage, header, log line, status and metrics."""

import json
from dataclasses import replace

import anthropic
import openai
import pytest
from structlog.testing import capture_logs

from pensieved.engine.protocol import Recalled
from pensieved.settings.schema import PromptCacheSettings
from support.front import MODEL, events, ids_of, question, running_front, wait_until

LONG = "the quick brown fox " * 100
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture
def front():
    with running_front(context_length=4096) as running:
        yield running


def recalling(front, cached, matched=None, instead=()):
    front.engine.recall = lambda submit: Recalled(
        submit.request, cached, cached if matched is None else matched, tuple(instead)
    )


def total(front):
    return len(front.engine.submitted[-1].prompt)


def test_what_was_read_is_no_input(front):
    recalling(front, 300)
    usage = front.say(LONG).json()["usage"]
    assert usage["cache_read_input_tokens"] == 300
    assert usage["cache_creation_input_tokens"] == 0
    assert usage["input_tokens"] == total(front) - 300
    counted = front.post("/v1/messages/count_tokens", question(LONG) | {"max_tokens": None}).json()
    assert counted == {"input_tokens": total(front)}


@pytest.mark.parametrize(("ttl", "kept"), [(None, "5m"), ("5m", "5m"), ("1h", "1h")])
@pytest.mark.parametrize("stream", [False, True])
def test_marks_say_what_is_created(front, ttl, kept, stream):
    mark = {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}
    system = [{"type": "text", "text": LONG, **mark}]
    recalling(front, 40)
    reply = front.say(system=system, stream=stream)
    if stream:
        seen = events(reply.body)
        usage = seen[0][1]["message"]["usage"]
        assert {**seen[-2][1]["usage"], "output_tokens": 0} == usage
    else:
        usage = reply.json()["usage"]
    created = usage["cache_creation_input_tokens"]
    assert len(ids_of(LONG)) - 45 < created < total(front) - 40
    assert usage["input_tokens"] == total(front) - 40 - created
    assert usage["cache_creation"][f"ephemeral_{kept}_input_tokens"] == created
    assert sum(usage["cache_creation"].values()) == created


def test_a_mark_on_the_whole_request_is_on_its_last_block(front):
    recalling(front, 0)
    on_block = front.say(messages=[{"role": "user", "content": [{"type": "text", "text": LONG, **MARK}]}])
    on_request = front.say(LONG, **MARK)
    assert on_request.json()["usage"] == on_block.json()["usage"]
    assert on_request.json()["usage"]["cache_creation_input_tokens"] > 300


def test_what_is_marked_and_read_is_not_created(front):
    recalling(front, 4000)
    usage = front.say(LONG, **MARK).json()["usage"]
    assert usage["cache_creation_input_tokens"] == 0


def test_an_engine_without_a_cache_creates_nothing(front):
    usage = front.say(LONG, **MARK).json()["usage"]
    assert (usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (0, 0)
    assert usage["input_tokens"] == total(front)


@pytest.mark.parametrize("mark", [{"type": "lasting"}, {"type": "ephemeral", "ttl": "30m"}, "ephemeral"])
def test_marks_that_are_none_are_refused_with_their_place(front, mark):
    reply = front.say(system=[{"type": "text", "text": "x", "cache_control": mark}])
    assert reply.status == 400
    assert "system" in reply.json()["error"]["message"]


def test_the_sdk_of_anthropic_reads_it(front):
    recalling(front, 7)
    with (
        anthropic.Anthropic(base_url=front.url, api_key="x") as client,
        client.messages.stream(**question(LONG)) as stream,
    ):
        usage = stream.get_final_message().usage
    assert usage.cache_read_input_tokens == 7


def test_openai_counts_the_whole_and_details_the_part(front):
    recalling(front, 11)
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="x") as client:
        chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": LONG}]).usage
        assert (chat.prompt_tokens, chat.prompt_tokens_details.cached_tokens) == (total(front), 11)
        text = client.completions.create(model=MODEL, prompt=LONG).usage
        assert (text.prompt_tokens, text.prompt_tokens_details.cached_tokens) == (total(front), 11)
        response = client.responses.create(model=MODEL, input=LONG).usage
        assert (response.input_tokens, response.input_tokens_details.cached_tokens) == (total(front), 11)


# --- why a miss is one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_hit_in_the_header(front, stream):
    recalling(front, 300)
    header = front.say(LONG, stream=stream).headers["x-pensieved-cache"]
    assert header == f"hit; cached=300; matched=300; prompt={total(front)}"


def test_a_miss_says_where_prompts_part(front):
    recalling(front, 0, matched=12, instead=[1, 2, 3])
    with capture_logs() as logs:
        header = front.say(LONG).headers["x-pensieved-cache"]
        wait_until(lambda: any(line["event"] == "request" for line in logs))
    assert header == f"miss; cached=0; matched=12; prompt={total(front)}; diverged=12"
    (line,) = (line for line in logs if line["event"] == "request")
    assert (line["cached_tokens"], line["diverged_at"]) == (0, 12)
    assert "cache_header" not in line


def test_text_is_shown_only_where_the_configuration_allows_it(front):
    instead = ids_of('slow "red" ü\r\nset-cookie: x')
    recalling(front, 0, matched=20, instead=instead[:8])
    assert "after=" not in front.say(LONG).headers["x-pensieved-cache"]
    explaining = PromptCacheSettings(explain=True)
    front.daemon.settings = front.daemon.settings.model_copy(update={"prompt_cache": explaining})
    with capture_logs() as logs:
        reply = front.say(LONG)
        mine = reply.headers["request-id"]
        wait_until(lambda: any(line.get("request_id") == mine for line in logs))
    assert "set-cookie" not in reply.headers
    shown = dict(part.split("=", 1) for part in reply.headers["x-pensieved-cache"].split("; ")[4:])
    prompt = list(front.engine.submitted[-1].prompt)
    words = front.daemon.serving.text.decode
    assert json.loads(shown["after"]) == words(prompt[12:20])
    assert json.loads(shown["now"]) == words(prompt[20:28])
    assert json.loads(shown["before"]).startswith('slow "red"'[:4])
    assert not any("slow" in str(line) or "quick" in str(line) for line in logs)


def test_no_header_where_nothing_is_known(front):
    assert "x-pensieved-cache" not in front.say(LONG).headers
    assert "x-pensieved-cache" not in front.get("/health").headers


def test_a_page_may_read_the_header():
    with running_front(allowed_origins=("https://app.example.com",)) as open_front:
        recalling(open_front, 5)
        reply = open_front.request(
            "POST",
            "/v1/messages",
            json.dumps(question()).encode(),
            {"content-type": "application/json", "origin": "https://app.example.com"},
        )
    assert "x-pensieved-cache" in reply.headers["access-control-expose-headers"]


def test_several_choices_are_one_prompt(front):
    recalling(front, 9)
    for stream in (False, True):
        chat = {"model": MODEL, "n": 3, "stream": stream, "messages": [{"role": "user", "content": LONG}]}
        reply = front.post("/v1/chat/completions", chat)
        assert reply.headers["x-pensieved-cache"].startswith("hit; cached=9")
    usage = front.post("/v1/chat/completions", chat | {"stream": False}).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 9}


# --- the engine is told ------------------------------------------------------------------------------------


def test_breakpoints_go_to_the_engine_where_they_are_needed(front):
    front.say(LONG, system=LONG)
    assert front.engine.submitted[-1].breakpoints == ()
    front.say(LONG, system=[{"type": "text", "text": LONG, **MARK}])
    (marked,) = front.engine.submitted[-1].breakpoints
    front.daemon.serving = replace(front.daemon.serving, cuts=False)
    front.say(LONG, system=LONG)
    (natural,) = front.engine.submitted[-1].breakpoints
    assert marked <= natural < total(front)


def test_a_prewarming_request_reads_the_prompt_and_says_so(front):
    recalling(front, 0)
    message = front.say(LONG, max_tokens=0, **MARK).json()
    assert (message["content"], message["usage"]["output_tokens"]) == ([], 0)
    assert message["usage"]["cache_creation_input_tokens"] > 300
    assert front.engine.submitted[-1].breakpoints


# --- operators ---------------------------------------------------------------------------------------------


def test_status_and_metrics(front):
    recalling(front, 300)
    front.say(LONG)
    wait_until(lambda: front.get("/v1/status").json()["requests"]["finished"])
    content = front.get("/v1/status").json()
    assert content["requests"]["cached_tokens"] == 300
    assert content["prompt_cache"] == {"entries": 3, "memory": 300, "disk_entries": 2, "disk": 2000}
    lines = front.get("/metrics").body.decode().splitlines()
    assert "pensieved_cached_input_tokens_total 300.0" in lines
    assert 'pensieved_prompt_cache_bytes{place="disk"} 2000.0' in lines
    assert 'pensieved_prompt_cache_entries{place="memory"} 3.0' in lines
