"""All stages together, from ids on: any split of the ids gives the same events."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pensieved.chat.conversation import Conversation, RawPrompt, Role, ToolChoice, ToolDefinition, text_turn
from pensieved.chat.events import TextDelta, ThinkingDelta, ToolArgumentsDelta, ToolCallEnd, ToolCallStart
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.chat.toolformat import FORMATS, deepseek
from pensieved.models.manifest import TokenizerFacts
from support import tool_templates
from support.front import TOKENS, ids_of
from support.tiny_tokenizers import byte_level

TOOL = ToolDefinition(name="get", schema={"properties": {"city": {"type": "string"}}})
CONVERSATION = Conversation((text_turn(Role.USER, "Hi"),), thinking=True, tools=(TOOL,))
ANSWERS = {
    "json_tools": '<tool_call>\n{"name": "get", "arguments": {"city": "東京 🙂"}}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=get>\n<parameter=city>\n東京 🙂\n</parameter>\n</function>\n</tool_call>",
    "glm47": "<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>東京 🙂</arg_value>\n</tool_call>",
    "pythonic": '<|tool_call_start|>[get(city="東京 🙂")]<|tool_call_end|>',
    "gemma4": '<|tool_call>call:get{city:<|"|>東京 🙂<|"|>}<tool_call|>',
    "deepseek_v31": deepseek("<|tool_calls_begin|><|tool_call_begin|>get<|tool_sep|>")
    + '{"city": "東京 🙂"}'
    + deepseek("<|tool_call_end|><|tool_calls_end|>"),
    "mistral": '[TOOL_CALLS][{"name": "get", "arguments": {"city": "東京 🙂"}}]',
}


def tokenizer_for(parser):
    facts = TokenizerFacts(think_start="<think>", think_end="</think>", tool_parser=parser)
    tokenizer = ChatTokenizer(byte_level(), tool_templates.QWEN, TOKENS, (), facts)
    assert tokenizer.tool_format is FORMATS[parser]
    return tokenizer


TOKENIZERS = {parser: tokenizer_for(parser) for parser in ANSWERS}


def events(tokenizer, parts, *, stops=(), conversation=CONVERSATION):
    """Kinds and texts, joined where they are of one kind; then what ended the answer."""
    segmenter = tokenizer.segmenter(conversation, tokenizer.encode_chat(conversation), stops)
    deltas = [delta for part in parts for delta in segmenter.feed(part)] + segmenter.finish()
    seen: list[list[str]] = []
    for delta in deltas:
        match delta:
            case TextDelta(text) | ThinkingDelta(text) | ToolArgumentsDelta(_, text) | ToolCallStart(_, text):
                pass
            case ToolCallEnd():
                text = ""
        kind = type(delta).__name__
        if seen and seen[-1][0] == kind:
            seen[-1][1] += text
        else:
            seen.append([kind, text])
    return seen, segmenter.stopped_by, segmenter.consumed, segmenter.calls, segmenter.thought


@pytest.mark.parametrize("parser", ANSWERS)
@settings(deadline=None, max_examples=30)
@given(
    before=st.sampled_from(["", "\n", "Let me 🙂 see.\n", "one two three "]),
    thought=st.sampled_from(["", "<think>\n\n</think>\n\n", "<think>\nhm 🙂 two\n</think>\n\n"]),
    after=st.sampled_from(["", "\n\nDone, two."]),
    stops=st.lists(st.sampled_from(["two", "🙂", "\n\n", "see"]), max_size=2),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_any_split_of_the_ids(parser, *, before, thought, after, stops, cuts):
    ids = ids_of(thought + before + ANSWERS[parser] + after)
    edges = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    parts = [ids[start:end] for start, end in itertools.pairwise(edges)]
    whole = events(TOKENIZERS[parser], [ids], stops=stops)
    assert events(TOKENIZERS[parser], parts, stops=stops) == whole
    if not any(stop in before for stop in stops):
        assert ["ToolCallStart", "get"] in whole[0]
        assert ["ToolArgumentsDelta", '{"city": "東京 🙂"}'] in whole[0]
    assert ["ThinkingDelta", "hm 🙂 two"] in whole[0] or "hm" not in thought


def test_stop_strings_end_the_answer_and_nothing_else():
    answer = f"<think>\nstop\n</think>\n\nok\n{ANSWERS['json_tools'].replace('東京', 'stop')}\nnow stop here"
    seen, stopped_by, *_ = events(TOKENIZERS["json_tools"], [ids_of(answer)], stops=["stop"])
    assert stopped_by == "stop"
    assert seen[-1] == ["TextDelta", "\nnow "]
    assert ["ThinkingDelta", "stop"] in seen


def test_counts():
    answer = ids_of("<think>\nhm\n</think>\n\n") + ids_of(ANSWERS["json_tools"] * 2)
    _, _, consumed, calls, thought = events(TOKENIZERS["json_tools"], [answer])
    assert (consumed, calls) == (len(answer), 2)
    assert 0 < thought <= len(ids_of("<think>\nhm\n</think>"))


def test_one_call_ends_the_answer_where_one_was_wanted():
    conversation = Conversation(CONVERSATION.turns, tools=(TOOL,), tool_choice=ToolChoice(parallel=False))
    ids = ids_of(ANSWERS["json_tools"] * 2)
    _, _, consumed, calls, _ = events(TOKENIZERS["json_tools"], [ids], conversation=conversation)
    assert calls == 1
    assert consumed < len(ids)


def test_the_budget_of_reasoning():
    tokenizer = TOKENIZERS["json_tools"]
    conversation = Conversation(CONVERSATION.turns, thinking=True, thinking_budget=5)
    segmenter = tokenizer.segmenter(conversation, tokenizer.encode_chat(conversation))
    segmenter.feed(ids_of("<think>on and on and on and on"))
    assert segmenter.overthought
    assert segmenter.thought == 5
    segmenter.feed(tokenizer.closing_ids(), forced=True)
    assert not segmenter.overthought
    assert segmenter.feed(ids_of("Yes.")) == [TextDelta("Yes.")]


def test_special_tokens_are_seen_only_where_they_are_markers():
    facts = TokenizerFacts(tool_parser="mistral")
    tokenizer = ChatTokenizer(byte_level(), tool_templates.MISTRAL, TOKENS, (), facts)
    assert tokenizer.tool_format.begin == "[TOOL_CALLS]"
    hidden = ids_of("[INST]a")
    assert events(tokenizer, [hidden])[0] == [["TextDelta", "a"]]


def test_a_raw_prompt_has_no_stages():
    tokenizer = TOKENIZERS["json_tools"]
    segmenter = tokenizer.segmenter(RawPrompt("x"), [1], ["stop"])
    text = "<think>a</think><tool_call>b"
    assert "".join(delta.text for delta in segmenter.feed(ids_of(text)) + segmenter.finish()) == text
    assert tokenizer.grammar(RawPrompt("x"), [1]) == ""
