"""Everything a request may hold counts the same in count_tokens and in usage; what means nothing here is ignored."""

import anthropic
import pytest

from support import chat_templates, tool_templates
from support.front import MODEL, ids_of, question, wait_until
from support.modelled import THINKS, modelled_front, prompt_of

TOOL = {
    "name": "get",
    "description": "Gets",
    "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
}
USER = {"role": "user", "content": "Hi"}
USED = [
    USER,
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "cloud", "signature": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"n": 1}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "is_error": True}],
    },
]
FEATURES = {
    "plain": {},
    "system": {"system": [{"type": "text", "text": "Be kind."}]},
    "inner system": {"messages": [USER, {"role": "system", "content": "Be kind."}, USER]},
    "prefill": {"messages": [USER, {"role": "assistant", "content": "It is"}]},
    "tools": {"tools": [TOOL]},
    "strict tools": {"tools": [{**TOOL, "strict": True}]},
    "any": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "one tool": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get"}},
    "none": {"tools": [TOOL], "tool_choice": {"type": "none"}},
    "not parallel": {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "used": {"messages": USED, "tools": [TOOL]},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "adaptive": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
    "disabled": {"thinking": {"type": "disabled"}},
    "format": {
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}
    },
    "billing line": {"system": "x-anthropic-billing-header: cc_version=1;\nBe kind."},
    "document": {
        "messages": [
            {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "D"}}]}
        ]
    },
}


@pytest.fixture(
    scope="module",
    params=[
        (chat_templates.CHATML, "<|im_end|>"),
        (tool_templates.QWEN, "<|im_end|>"),
        (chat_templates.GEMMA, "<end_of_turn>"),
    ],
    ids=["chatml", "qwen", "gemma"],
)
def front(request):
    template, end = request.param
    with modelled_front("Fine.", template=template, facts=THINKS, end=end) as running:
        yield running


@pytest.mark.parametrize("name", FEATURES)
def test_count_tokens_equals_usage(front, name):
    fields = {"model": MODEL, "messages": [USER]} | FEATURES[name]
    counted = front.post("/v1/messages/count_tokens", fields).json()
    usage = front.post("/v1/messages", fields | {"max_tokens": 2000}).json()["usage"]
    assert counted == {"input_tokens": usage["input_tokens"]}
    assert usage["input_tokens"] == len(front.engine.submitted[-1].prompt)


IGNORED = {
    "metadata": {"user_id": '{"device_id": "x"}'},
    "service_tier": "standard_only",
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "xhigh"},
    "cache_control": {"type": "ephemeral"},
    "container": "c",
    "inference_geo": "us",
    "mcp_servers": [],
    "betas": ["x"],
    "speed": "fast",
    "diagnostics": {"previous_message_id": None},
    "thread": {"type": "create"},
    "brand_new": [1, {"deep": None}],
}


@pytest.mark.parametrize("field", IGNORED)
def test_what_means_nothing_here(front, field):
    response = front.post("/v1/messages?beta=true", question(**{field: IGNORED[field]}))
    assert response.status == 200


@pytest.mark.parametrize("field", ["tools", "tool_choice", "thinking", "output_config", "thread", "system"])
def test_null_is_absent(front, field):
    assert front.say(**{field: None}).json()["usage"] == front.say().json()["usage"]


@pytest.mark.parametrize(
    "headers",
    [
        {"anthropic-version": "2023-06-01", "x-api-key": "k"},
        {"anthropic-version": "2026-10-21", "authorization": "Bearer k"},
        {"anthropic-beta": "interleaved-thinking-2025-05-14,whatever-2099-01-01"},
        {},
    ],
)
def test_headers(front, headers):
    with anthropic.Anthropic(base_url=front.url, api_key="none", default_headers=headers) as client:
        assert client.messages.create(model=MODEL, max_tokens=10, messages=[USER]).stop_reason == "end_turn"


def test_volatile_lines_are_dropped_counted_and_shown():
    with modelled_front("Fine.") as front:
        system = [{"type": "text", "text": f"x-anthropic-billing-header: {number};"} for number in range(2)]
        for number in range(2):
            front.say(
                f"Hi\n<total_tokens>{number} tokens left</total_tokens>",
                system=[system[number], {"type": "text", "text": "Be kind."}],
            )
        first, second = front.engine.submitted
        assert first.prompt == second.prompt
        assert "billing" not in prompt_of(front)
        assert "total_tokens" not in prompt_of(front)
        # Counted when the last byte is written, which its reader may be a moment ahead of.
        wait_until(lambda: front.get("/v1/status").json()["requests"]["dropped_lines"] == 4)


def test_long_arguments_do_not_slow_down():
    text = '<tool_call>{"name": "get", "arguments": {"s": "' + "word " * 3000 + '"}}</tool_call>'
    with modelled_front(text, context_length=100_000, tokens_per_step=64) as front:
        content = front.say(tools=[TOOL], max_tokens=50_000).json()["content"]
        assert content[0]["input"] == {"s": "word " * 3000}
        assert front.engine.submitted[-1].max_tokens > len(ids_of(text))
