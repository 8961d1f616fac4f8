"""Answers in channels: reasoning, text and calls are told apart wherever the text is cut."""

import itertools
import json

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from pensieved.chat.channels import ChannelStage
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
from pensieved.chat.events import TextDelta, ThinkingDelta, ToolArgumentsDelta, ToolCallEnd, ToolCallStart
from pensieved.chat.tokenizer import ChatTokenizer
from support import tool_templates
from support.front import TOKENS
from support.tiny_tokenizers import byte_level

ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"


def written(name, arguments):
    """A call, as models write it."""
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"


def thought(words):
    return ("thought", words)


def text(words):
    return ("text", words)


def call(name="get", *, complete=True, **arguments):
    return ("call", name, arguments, complete)


def seen_in(deltas):
    """Deltas in the shape of `thought`, `text` and `call`; a cut-off call has what is complete of its arguments."""
    seen: list[list] = []
    for delta in deltas:
        match delta:
            case ThinkingDelta(words) | TextDelta(words):
                kind = "thought" if isinstance(delta, ThinkingDelta) else "text"
                if seen and seen[-1][0] == kind:
                    seen[-1][1] += words
                else:
                    seen.append([kind, words])
            case ToolCallStart(_, name):
                seen.append(["call", name, "", False])
            case ToolArgumentsDelta(_, piece):
                seen[-1][2] += piece
            case ToolCallEnd():
                json.loads(seen[-1][2])
                seen[-1][3] = True
    for item in seen:
        if item[0] == "call":
            item[2] = pydantic_core.from_json(item[2] or "{}", allow_partial=True)
    return [tuple(item) for item in seen]


def run(chunks, *, calls=True, parallel=True, opened=False):
    stage = ChannelStage(calls=calls, parallel=parallel, opened=opened)
    deltas = [delta for chunk in chunks for delta in stage.feed([TextDelta(chunk)])]
    return seen_in(deltas + stage.flush())


CASES = {
    "an answer": (f"{FINAL}Paris.", [text("Paris.")]),
    "reasoning, then an answer": (
        f"{ANALYSIS}A capital. 🙂{NEXT}{FINAL}Paris. <|x",
        [thought("A capital. 🙂"), text("Paris. <|x")],
    ),
    "reasoning, then a call": (
        f"{ANALYSIS}Look.{NEXT}" + written("get", '{"city": "東京", "n": [1]}'),
        [thought("Look."), call(city="東京", n=[1])],
    ),
    "a call addressed before the channel": (
        f'{ANALYSIS}Look.{NEXT} to=functions.get<|channel|>commentary json<|message|>{{"n": 1}}',
        [thought("Look."), call(n=1)],
    ),
    "a call at once": (' to=functions.get<|channel|>commentary json<|message|>{"n": 1}', [call(n=1)]),
    "a call from the wrong channel": (
        '<|channel|>analysis to=functions.get code<|message|>{"n": 1}<|call|>',
        [call(n=1)],
    ),
    "a word before the call": (
        f"<|channel|>commentary<|message|>I look.{NEXT}{written('get', '{}')}",
        [text("I look."), call()],
    ),
    "two calls": (
        written("get", '{"n": 1}') + f"<|call|><|start|>assistant{written('b', '{}')}",
        [call(n=1), call("b")],
    ),
    "reasoning twice": (f"{ANALYSIS}a{NEXT}{ANALYSIS}b{NEXT}{FINAL}c<|return|>", [thought("ab"), text("c")]),
    "space around": (f"\n{FINAL}a<|end|>\n<|start|>assistant {FINAL}b", [text("ab")]),
    "no header": ("Just text, to=you <b>.", [text("Just text, to=you <b>.")]),
    "no header, blank": ("  Just text.", [text("  Just text.")]),
    "no header in the second message": (f"{ANALYSIS}a<|end|>Text.", [thought("a"), text("Text.")]),
    "a header without end": (f"<|channel|>{'x' * 500}", [text(f"<|channel|>{'x' * 500}")]),
    "a header without end that is cut off": ("<|channel|>xxx", []),
    "a message that nothing ends": (f"{ANALYSIS}a{FINAL}b", [thought("a"), text("b")]),
    "cut off while reasoning": (f"{ANALYSIS}never ends <|en", [thought("never ends <|en")]),
    "cut off in a header": (f"{ANALYSIS}a{NEXT}<|channel|>fin", [thought("a")]),
    "cut off before a header": ("<|chan", []),
    "cut off between messages": (f"{ANALYSIS}a<|end|>\n", [thought("a")]),
    "cut off in something like a header": ("to", [text("to")]),
    "cut off in a call": (
        written("get", '{"n": 3, "city": "Ro'),
        [call(n=3, complete=False)],
    ),
    "a call that goes wrong midway": (
        written("get", '{"n": 1, b}} tail'),
        [call(n=1, complete=False), text("b}} tail")],
    ),
    "arguments that are none": (written("get", "get it"), [text("get it")]),
    "a tool of OpenAI's own": (
        f"<|channel|>analysis to=python code<|message|>1 + 1{NEXT}{FINAL}2",
        [thought("1 + 1"), text("2")],
    ),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("answer", "expected"), CASES.values(), ids=CASES)
def test_cases(answer, expected):
    assert run([answer]) == expected
    assert run(list(answer)) == expected


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_split(name, data):
    answer, expected = CASES[name]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=12)))
    assert run([answer[a:b] for a, b in itertools.pairwise([0, *cuts, len(answer)])]) == expected


PIECES = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|constrain|>"]
PIECES += [
    "assistant",
    "analysis",
    "final",
    "commentary",
    " to=functions.get",
    "json",
    '{"n": ',
    "1",
    "}",
    '"',
]
PIECES += [" ", "\n", "🙂", "<", "|>", "to", "x" * 100]


@settings(deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=30),
    size=st.integers(1, 9),
    calls=st.booleans(),
    parallel=st.booleans(),
    opened=st.booleans(),
)
def test_whatever_a_model_writes_the_split_does_not_matter(pieces, size, **options):
    answer = "".join(pieces)
    chunks = [answer[start : start + size] for start in range(0, len(answer), size)]
    assert run(chunks, **options) == run([answer], **options)


def test_without_tools_a_call_is_text():
    assert run([written("get", '{"n": 1}')], calls=False) == [text('{"n": 1}')]


def test_one_call_is_enough_where_one_was_wanted():
    stage = ChannelStage(calls=True, parallel=False)
    answer = f"{written('get', '{}')}<|call|><|start|>assistant{written('get', '{}')}"
    assert seen_in(stage.feed([TextDelta(answer)])) == [call()]
    assert stage.over
    assert stage.feed([TextDelta("more")]) == stage.flush() == []


def test_a_continued_answer_has_no_header():
    assert run(["is Paris.", f"{NEXT}{FINAL}Yes"], opened=True) == [text("is Paris.Yes")]


def test_everything_goes_out_while_it_is_written():
    stage = ChannelStage(calls=True)
    assert stage.feed([TextDelta(f"{ANALYSIS}well")]) == [ThinkingDelta("well")]
    assert stage.inside
    assert stage.feed([TextDelta(f" so{NEXT}<|chan")]) == [ThinkingDelta(" so")]
    assert not stage.inside
    assert stage.feed([TextDelta("nel|>final<|message|>Pa")]) == [TextDelta("Pa")]
    assert stage.feed([TextDelta(f"ris{NEXT}{written('get', '')}")]) == [TextDelta("ris")]
    start, *arguments = stage.feed([TextDelta('{"city": "Ro')])
    assert isinstance(start, ToolCallStart)
    assert "".join(delta.json for delta in arguments) == '{"city": "Ro'


# --- with the template and the special tokens ----------------------------------------------------------------

SPECIALS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = ToolDefinition(name="get", schema=CITY, strict=True)
QUESTION = text_turn(Role.USER, "Hi")


def bytes_and_specials():
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


TINY = bytes_and_specials()
HARMONY = ChatTokenizer(TINY, tool_templates.HARMONY, TOKENS, ())


def events(conversation, answer, cuts=(), stops=()):
    ids = TINY.encode(answer, add_special_tokens=False).ids
    segmenter = HARMONY.segmenter(conversation, HARMONY.encode_chat(conversation), stops)
    edges = [0, *sorted({cut % (len(ids) + 1) for cut in cuts}), len(ids)]
    deltas = [
        delta for start, end in itertools.pairwise(edges) for delta in segmenter.feed(ids[start:end])
    ] + segmenter.finish()
    return seen_in(deltas), segmenter.stopped_by, segmenter.consumed, segmenter.calls, segmenter.thought


@settings(deadline=None, max_examples=60)
@given(
    said=st.sampled_from(["", "Let me 🙂 see.\n", "one two three "]),
    stops=st.lists(st.sampled_from(["two", "🙂", "see", "hm"]), max_size=2),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_any_split_of_the_ids(said, stops, cuts):
    answer = f"{ANALYSIS}hm 🙂 two{NEXT}<|channel|>commentary<|message|>{said}{NEXT}"
    answer += written("get", '{"city": "東京 🙂"}')
    conversation = Conversation((QUESTION,), tools=(TOOL,))
    whole = events(conversation, answer, stops=stops)
    assert events(conversation, answer, cuts, stops) == whole
    assert whole[0][0] == thought("hm 🙂 two")
    if not any(stop in said for stop in stops):
        assert whole[0][-1] == call(city="東京 🙂")
        assert whole[3] == 1


def test_what_the_turn_ends_with():
    ends = {TINY.id_to_token(number) for number in HARMONY.stop_token_ids}
    assert {"<|return|>", "<|call|>"} <= ends
    assert "<|end|>" not in ends


def test_the_budget_of_reasoning():
    conversation = Conversation((QUESTION,), thinking_budget=5)
    segmenter = HARMONY.segmenter(conversation, HARMONY.encode_chat(conversation))
    segmenter.feed(TINY.encode(f"{ANALYSIS}on and on and on and on").ids)
    assert segmenter.overthought
    segmenter.feed(HARMONY.closing_ids(), forced=True)
    assert not segmenter.overthought
    assert segmenter.feed(TINY.encode(f"{FINAL}Yes.").ids) == [TextDelta("Yes.")]


def test_prompt():
    calls = [ToolCallPart(f"toolu_{n}", "get", {"city": city}) for n, city in enumerate(("Rome", "Bern"))]
    results = [ToolResultPart(each.call_id, "get", f'"{each.arguments["city"]}" is fine') for each in calls]
    turns = (
        text_turn(Role.SYSTEM, "Be kind."),
        QUESTION,
        Turn(Role.ASSISTANT, (ThinkingPart("hm"), TextPart("I look."), *calls)),
        Turn(Role.TOOL, tuple(results)),
    )
    prompt = HARMONY.render(Conversation(turns, tools=(TOOL,), effort="low"))
    assert prompt == (
        "<|start|>system<|message|>Reasoning: low<|end|>"
        "<|start|>developer<|message|>Be kind.\n\ntype get = (_: {city}) => any;<|end|>"
        "<|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>hm\n\nI look.<|end|>"
        '<|start|>assistant to=functions.get<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>'
        '<|start|>functions.get to=assistant<|channel|>commentary<|message|>"\\"Rome\\" is fine"<|end|>'
        '<|start|>assistant to=functions.get<|channel|>commentary json<|message|>{"city": "Bern"}<|call|>'
        '<|start|>functions.get to=assistant<|channel|>commentary<|message|>"\\"Bern\\" is fine"<|end|>'
        "<|start|>assistant"
    )
    continued = HARMONY.render(Conversation((QUESTION, text_turn(Role.ASSISTANT, "It is"))))
    assert continued.endswith(f"<|start|>assistant{FINAL}It is")


def takes(conversation, answer):
    """Whether `answer` follows the grammar of `conversation`, and may end there."""
    grammar = HARMONY.grammar(conversation, HARMONY.encode_chat(conversation))
    matcher = LLMatcher(LLTokenizer(TINY.to_str(), eos_token=list(HARMONY.stop_token_ids)), grammar)
    assert not matcher.is_error(), matcher.get_error()
    ids = TINY.encode(answer, add_special_tokens=False).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


GOOD = written("get", '{"city": "Rome"}')
BAD = written("get", '{"city": 1}')
THOUGHT = f"{ANALYSIS}so <b> {{and}} so{NEXT}"


def test_forced_calls():
    conversation = Conversation((QUESTION,), tools=(TOOL,), tool_choice=ToolChoice(mode=ToolMode.ANY))
    for answer in (GOOD, THOUGHT + GOOD, f"{GOOD}{NEXT}{GOOD}"):
        assert takes(conversation, answer)
    for answer in ("", BAD, f"{FINAL}no", "no", THOUGHT, THOUGHT + BAD, written("other", "{}")):
        assert not takes(conversation, answer)


def test_strict_tools_leave_text_free_and_hold_calls():
    conversation = Conversation((QUESTION,), tools=(TOOL,))
    preamble = f"<|channel|>commentary<|message|>I look.{NEXT}"
    for answer in (f"{FINAL}Paris.", THOUGHT + f"{FINAL}Paris.", GOOD, THOUGHT + preamble + GOOD):
        assert takes(conversation, answer)
    for answer in ("Paris.", BAD, preamble + BAD, THOUGHT + written("other", "{}")):
        assert not takes(conversation, answer)


def test_a_schema_for_the_answer():
    conversation = Conversation((QUESTION,), answer_schema=CITY)
    assert takes(conversation, FINAL + '{"city": "Rome"}')
    assert takes(conversation, THOUGHT + FINAL + '{"city": "Rome"}')
    assert not takes(conversation, '{"city": "Rome"}')
    assert not takes(conversation, FINAL + "Rome")
    continued = Conversation((QUESTION, text_turn(Role.ASSISTANT, "As JSON: ")), answer_schema=CITY)
    assert takes(continued, '{"city": "Rome"}')
