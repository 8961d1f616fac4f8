"""What an answer is, read from both dialects' events."""

import json

import pytest

from bench.dialects import DIALECTS, Answer, Request

OPENAI = [
    {"choices": [{"delta": {"role": "assistant"}}]},
    {"choices": [{"delta": {"reasoning": "hm"}}]},
    {"choices": [{"delta": {"content": "a"}}]},
    {"choices": [{"delta": {"content": ""}, "finish_reason": "length"}]},
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    },
    "[DONE]",
]
ANTHROPIC = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}},
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
    {
        "type": "message_delta",
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
            "output_tokens": 3,
        },
    },
    {"type": "message_stop"},
]
STREAMS = {"openai": OPENAI, "anthropic": ANTHROPIC}


def read(name, events):
    answer = Answer()
    heard = []
    for second, event in enumerate(events):
        data = event if isinstance(event, str) else json.dumps(event)
        if DIALECTS[name].read(data.encode(), answer, float(second)):
            heard.append(second)
    return answer, heard


@pytest.mark.parametrize("name", STREAMS)
def test_an_answer_is_what_its_events_say(name):
    answer, heard = read(name, STREAMS[name])
    assert not answer.fault()
    assert (answer.ttft, answer.gaps) == (heard[0], [heard[1] - heard[0]])
    assert "".join(answer.text) == "hma"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (9, 4, 3)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_short_is_a_fault(name):
    for events in (STREAMS[name][:-1], STREAMS[name][:2], []):
        assert "without its closing event" in read(name, events)[0].fault()


def test_an_answer_of_no_tokens_is_a_fault_but_known_as_silence():
    usage = '{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}'
    answer = read("openai", [usage, "[DONE]"])[0]
    assert answer.fault()
    assert answer.is_silence
    assert not read("openai", [usage])[0].is_silence
    assert not read("openai", ["[DONE]"])[0].is_silence


def test_an_answer_that_nobody_counted_is_a_fault():
    assert "without usage" in read("openai", [*OPENAI[:4], "[DONE]"])[0].fault()


@pytest.mark.parametrize("name", STREAMS)
def test_an_error_within_the_stream_is_the_fault(name):
    error = {"type": "error", "error": {"message": "out of memory"}}
    assert "out of memory" in read(name, [*STREAMS[name], error])[0].fault()


def test_both_dialects_ask_the_same():
    request = Request(messages=("one", "two", "three"), tokens=7, system="be brief")
    openai, anthropic = (DIALECTS[name].body(request, "m") for name in ("openai", "anthropic"))
    assert openai["messages"] == [{"role": "system", "content": "be brief"}, *anthropic["messages"]]
    assert [each["role"] for each in anthropic["messages"]] == ["user", "assistant", "user"]
    assert anthropic["system"] == "be brief"
    for body in (openai, anthropic):
        assert (body["max_tokens"], body["temperature"], body["stream"]) == (7, 0, True)
