"""Templates that take tools get them their own way; for others, tools are text."""

import json

import pytest

from pensieved.chat.conversation import (
    Conversation,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolDefinition,
    ToolMode,
    ToolResultPart,
    Turn,
    text_turn,
)
from pensieved.chat.events import TextDelta, ToolArgumentsDelta, ToolCallEnd
from pensieved.chat.shape import probe
from pensieved.chat.template import ChatTemplate
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.chat.toolformat import FORMATS, GENERIC, Style
from pensieved.chat.toolshape import CallIds
from pensieved.chat.toolstage import ToolStage
from pensieved.models.manifest import TokenizerFacts
from support import chat_templates, tool_templates
from support.front import TOKENS
from support.tiny_tokenizers import byte_level

WEATHER = ToolDefinition(
    name="weather",
    description="Weather of a city",
    schema={"type": "object", "properties": {"city": {"type": "string"}}},
)


def shape_of(template, parser=""):
    return probe(ChatTemplate(template, TOKENS), parser).tools


def rendered(template, *turns, parser="", **fields):
    facts = TokenizerFacts(tool_parser=parser)
    tokenizer = ChatTokenizer(byte_level(), template, TOKENS, (), facts)
    return tokenizer.render(Conversation(turns, tools=(WEATHER,), **fields))


def call(number, city="Rome"):
    return ToolCallPart(f"toolu_{number}", "weather", {"city": city})


def result(number, text="sunny", **fields):
    return ToolResultPart(f"toolu_{number}", "weather", text, **fields)


def asked(*parts):
    return Turn(Role.ASSISTANT, parts)


def told(*parts):
    return Turn(Role.TOOL, parts)


QUESTION = text_turn(Role.USER, "How is it?")


def test_qwen():
    shape = shape_of(tool_templates.QWEN, "json_tools")
    assert shape.form is GENERIC
    assert (shape.arguments_as_text, shape.call_ids) == (False, CallIds.ANY)
    assert (shape.parallel_calls, shape.user_after_results) == (True, True)


def test_mistral():
    shape = shape_of(tool_templates.MISTRAL, "mistral")
    assert (shape.form.parser, shape.form.array) == ("mistral", True)
    assert shape.call_ids is CallIds.NINE
    assert (shape.parallel_calls, shape.user_after_results) == (True, False)


def test_llama():
    shape = shape_of(tool_templates.LLAMA)
    assert (shape.form.begin, shape.form.arguments_key, shape.form.style) == ("", "parameters", Style.OBJECT)
    assert (shape.parallel_calls, shape.user_after_results) == (False, True)


@pytest.mark.parametrize(
    ("template", "form", "as_text", "parallel"),
    [
        (tool_templates.HARMONY, "harmony", False, False),
        (tool_templates.DEEPSEEK_V3, "deepseek_v3", False, True),
        (tool_templates.DEEPSEEK_V31, "deepseek_v31", True, True),
        (tool_templates.DEEPSEEK_V32, "deepseek_dsml", False, True),
        (tool_templates.KIMI_K2, "kimi_k2", False, True),
    ],
    ids=["harmony", "deepseek v3", "deepseek v3.1", "deepseek v3.2", "kimi k2"],
)
def test_formats_are_known_by_what_the_template_writes(template, form, as_text, parallel):
    shape = shape_of(template, form if form == "kimi_k2" else "")
    assert (shape.form.parser, shape.arguments_as_text, shape.parallel_calls) == (form, as_text, parallel)


@pytest.mark.parametrize("parser", ["deepseek_v3", "deepseek_v31", "deepseek_dsml", "kimi_k2"])
def test_what_a_template_writes_is_read_as_the_calls_that_were_made(parser):
    template = {
        "deepseek_v3": tool_templates.DEEPSEEK_V3,
        "deepseek_v31": tool_templates.DEEPSEEK_V31,
        "deepseek_dsml": tool_templates.DEEPSEEK_V32,
        "kimi_k2": tool_templates.KIMI_K2,
    }[parser]
    prompt = rendered(
        template, QUESTION, asked(call(1, "東京"), call(2)), told(result(1), result(2)), parser=parser
    )
    stage = ToolStage(FORMATS[parser], (WEATHER,), parallel=True)
    answer = prompt[prompt.rindex(FORMATS[parser].begin) :]
    deltas = stage.feed([TextDelta(answer)])
    arguments = [delta.json for delta in deltas if isinstance(delta, ToolArgumentsDelta)]
    ends = [index for index, delta in enumerate(deltas) if isinstance(delta, ToolCallEnd)]
    assert len(ends) == 2
    assert "".join(arguments).replace('": ', '":') == '{"city":"東京"}{"city":"Rome"}'


def test_a_marker_that_nobody_told_of_is_found():
    template = tool_templates.QWEN.replace("tool_call>", "function_call>")
    form = shape_of(template).form
    assert (form.begin, form.end, form.gap) == ("<function_call>", "</function_call>", "\n")


@pytest.mark.parametrize(
    "template", [tool_templates.ODD, tool_templates.FORGETFUL, *chat_templates.ALL.values()]
)
def test_others_take_no_tools(template):
    assert shape_of(template) is None


def test_generic_prompt():
    prompt = rendered(
        chat_templates.CHATML,
        text_turn(Role.SYSTEM, "Be kind."),
        QUESTION,
        asked(TextPart("I look.\n"), call(1), call(2, "Bern")),
        told(result(1), result(2, "no such city", is_error=True)),
        text_turn(Role.USER, "And?"),
    )
    system, rest = prompt.split("<|im_end|>", 1)
    assert system.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n")
    assert '{"name": "weather", "description": "Weather of a city", "parameters": ' in system
    assert rest == (
        "\n<|im_start|>user\nHow is it?<|im_end|>\n"
        "<|im_start|>assistant\nI look.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nError: no such city\n</tool_response>\n\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_generic_prompt_without_a_system_turn_of_its_own():
    assert rendered(chat_templates.CHATML, QUESTION).startswith("<|im_start|>system\n# Tools\n")
    assert "# Tools" in rendered(chat_templates.GEMMA, QUESTION)


def test_no_call_wanted_no_tools_described():
    for template in (chat_templates.CHATML, tool_templates.QWEN):
        prompt = rendered(template, QUESTION, tool_choice=ToolChoice(mode=ToolMode.NONE))
        assert "weather" not in prompt


def test_own_prompt():
    prompt = rendered(
        tool_templates.QWEN,
        QUESTION,
        asked(ThinkingPart("hm"), TextPart("I look."), call(1)),
        told(result(1)),
        parser="json_tools",
    )
    assert '"name": "weather"' in prompt.split("</tools>")[0]
    assert prompt.split("</tools><|im_end|>\n")[1] == (
        "<|im_start|>user\nHow is it?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nhm\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_call_ids_are_made_to_fit_and_still_match():
    prompt = rendered(
        tool_templates.MISTRAL,
        QUESTION,
        asked(call(1), call(2)),
        told(result(1), result(2)),
        text_turn(Role.USER, "And?"),
        parser="mistral",
    )
    calls = json.loads(prompt.split("[TOOL_CALLS] ")[1].split("</s>")[0])
    results = [
        json.loads(part.split("[/TOOL_RESULTS]")[0], strict=False)
        for part in prompt.split("[TOOL_RESULTS] ")[1:]
    ]
    assert [item["id"] for item in calls] == [item["call_id"] for item in results]
    assert all(len(item["id"]) == 9 for item in calls)
    assert results[-1]["content"] == "sunny\n\nAnd?"


def test_parallel_calls_are_told_one_by_one_where_the_template_insists():
    prompt = rendered(
        tool_templates.LLAMA, QUESTION, asked(call(1), call(2, "Bern")), told(result(1, "a"), result(2, "b"))
    )
    places = [prompt.index(word) for word in ('"city": "Rome"', "\n\na<|", '"city": "Bern"', "\n\nb<|")]
    assert places == sorted(places)


def test_counted_ids():
    turns = (QUESTION, asked(call(1), call(2)), told(result(1), result(2)))
    prompt = rendered(tool_templates.KIMI_K2, *turns, parser="kimi_k2")
    assert "<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>" in prompt
    assert "## Return of functions.weather:1\nsunny<|im_end|>" in prompt


def test_answer_schema_stands_in_the_system_text():
    prompt = rendered(chat_templates.CHATML, QUESTION, answer_schema={"type": "array"})
    assert '{"type": "array"}' in prompt.split("<|im_end|>")[0]


def test_thinking_and_effort_reach_the_template():
    template = "{{ messages[0].content }}|{{ enable_thinking }}|{{ thinking }}|{{ reasoning_effort }}"
    tokenizer = ChatTokenizer(byte_level(), template, TOKENS, ())
    assert tokenizer.render(Conversation((QUESTION,), thinking=False, effort="low")).endswith(
        "False|False|low"
    )
    assert tokenizer.render(Conversation((QUESTION,))).endswith("|||")
