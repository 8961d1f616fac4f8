"""What a grammar takes and what it does not, asked of llguidance itself, with two kinds of tokenizers."""

import json
import random
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from pensieved.chat.conversation import ToolChoice, ToolDefinition, ToolMode
from pensieved.chat.grammar import ANY_OBJECT, Marks, Thinking, answer_grammar, tool_grammar
from pensieved.chat.toolformat import FORMATS, GENERIC, Style
from pensieved.errors import RequestError
from support import tiny_tokenizers
from support.constrained import validate

PLAIN = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"]
SPECIAL += ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"]
JSON_FORMATS = [form for form in FORMATS.values() if form.json_arguments]
ANY = ToolChoice(mode=ToolMode.ANY)
ONE = ToolChoice(mode=ToolMode.TOOL, name="f", parallel=False)
AUTO = ToolChoice()
AUTO_ONE = ToolChoice(parallel=False)


def closed(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TOOLS = (
    ToolDefinition(
        name="f",
        schema={**closed(a={"$ref": "#/$defs/it"}), "$defs": {"it": {"type": "integer"}}},
        strict=True,
    ),
    ToolDefinition(name='g"h', schema=closed(b={"type": "string"}), strict=True),
)


@cache
def model(*, with_tokens):
    """A tokenizer whose vocabulary has the markers as tokens, or has not, and what grammars know of it."""
    tokenizer = Tokenizer.from_str(tiny_tokenizers.byte_level().to_str())
    if with_tokens:
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    end = tokenizer.token_to_id("<|im_end|>")
    return SimpleNamespace(
        trie=LLTokenizer(tokenizer.to_str(), eos_token=[end]),
        marks=Marks(tokens=added),
        tokenizer=tokenizer,
        end=end,
    )


BOTH = [model(with_tokens=True), model(with_tokens=False)]


def takes(model, grammar, text):
    """Whether `text` is a whole answer that follows the grammar."""
    matcher = LLMatcher(model.trie, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = model.tokenizer.encode(text).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def written(form, *calls):
    """Tool calls as a model writes them."""
    texts = []
    for name, arguments in calls:
        shown = json.dumps(name)[1:-1] if form.style is Style.OBJECT else name
        texts.append(form.before + shown + form.middle + arguments + form.after)
    if form.wrapped:
        after = form.gap + form.end if form.end else ""
        return form.separator.join(form.begin + form.gap + text + after for text in texts)
    between = form.separator.join(texts)
    return f"{form.begin}[{between}]{form.end}" if form.array else f"{form.begin}{between}{form.end}"


GOOD = ("f", '{"a": 1}')
OTHER = ('g"h', '{"b": "x"}')
BAD = [("f", '{"a": "x"}'), ("f", "{}"), ("f", '{"b": "x"}'), ("unknown", "{}")]


@pytest.mark.parametrize("form", JSON_FORMATS, ids=lambda form: form.parser)
@pytest.mark.parametrize("model", BOTH, ids=["tokens", "spelled"])
class TestToolCalls:
    def test_forced(self, model, form):
        grammar = tool_grammar(TOOLS, form, ANY, model.marks)
        assert takes(model, grammar, written(form, GOOD))
        assert takes(model, grammar, written(form, GOOD, OTHER, GOOD))
        for bad in BAD:
            assert not takes(model, grammar, written(form, bad))
            assert not takes(model, grammar, written(form, GOOD, bad))
        for text in ("", "hello", f"hello {written(form, GOOD)}", f"{written(form, GOOD)} bye"):
            assert not takes(model, grammar, text)

    def test_one_by_name(self, model, form):
        grammar = tool_grammar(TOOLS, form, ONE, model.marks)
        assert takes(model, grammar, written(form, GOOD))
        assert not takes(model, grammar, written(form, GOOD, GOOD))
        assert not takes(model, grammar, written(form, OTHER))

    def test_strict_tools_leave_text_free_and_hold_calls(self, model, form):
        grammar = tool_grammar(TOOLS, form, AUTO, model.marks)
        for text in ("", "hello", "a < b > c [x] {y}", written(form, GOOD), written(form, OTHER, GOOD)):
            assert takes(model, grammar, text), text
        for bad in BAD:
            assert not takes(model, grammar, written(form, bad))
        if form.begin:
            assert takes(model, grammar, f"Let me see.\n{written(form, OTHER)}")
            assert not takes(model, grammar, f"Let me see.\n{written(form, BAD[0])}")
            assert not takes(model, grammar, f"Let me see. {form.begin} hm")

    def test_strict_and_one_at_most(self, model, form):
        grammar = tool_grammar(TOOLS, form, AUTO_ONE, model.marks)
        assert takes(model, grammar, "hello")
        assert takes(model, grammar, written(form, OTHER))
        assert not takes(model, grammar, written(form, OTHER, OTHER))

    @pytest.mark.parametrize("choice", [ANY, AUTO])
    def test_thinking_may_come_first(self, model, form, choice):
        call = written(form, GOOD)
        optional = tool_grammar(TOOLS, form, choice, model.marks, thinking=Thinking.OPTIONAL)
        opened = tool_grammar(TOOLS, form, choice, model.marks, thinking=Thinking.OPEN)
        assert takes(model, optional, call)
        assert takes(model, optional, f"<think>\nso {'{'} and so\n</think>\n\n{call}")
        assert takes(model, opened, f"so and so\n</think>\n\n{call}")
        assert not takes(model, opened, f"so and so\n</think>\n\n{written(form, BAD[0])}")


def test_tools_that_are_not_strict_are_free_among_strict_ones():
    tools = (*TOOLS, ToolDefinition(name="loose", schema={"not": {"what": "can be kept"}}))
    model = BOTH[0]
    grammar = tool_grammar(tools, GENERIC, AUTO, model.marks)
    assert takes(model, grammar, written(GENERIC, ("loose", '{"x": [1]}')))
    assert not takes(model, grammar, written(GENERIC, BAD[0]))


@pytest.mark.parametrize("choice", [AUTO, ToolChoice(mode=ToolMode.NONE)])
def test_nothing_to_hold_is_no_grammar(choice):
    tools = (ToolDefinition(name="f"),)
    assert tool_grammar(tools, GENERIC, choice, Marks()) == ""
    assert tool_grammar((), GENERIC, choice, Marks()) == ""


def test_a_schema_for_the_answer_leaves_calls_possible():
    model = BOTH[0]
    grammar = tool_grammar(TOOLS, GENERIC, AUTO, model.marks, schema=closed(n={"type": "null"}))
    assert takes(model, grammar, '{"n": null}')
    assert takes(model, grammar, written(GENERIC, GOOD))
    assert not takes(model, grammar, "hello")
    assert not takes(model, grammar, written(GENERIC, BAD[0]))
    without = tool_grammar(TOOLS, GENERIC, ToolChoice(mode=ToolMode.NONE), model.marks, schema=closed())
    assert takes(model, without, "{}")
    assert not takes(model, without, written(GENERIC, GOOD))


def test_a_notation_without_json_is_replaced_where_a_call_is_forced_and_refused_where_it_cannot_be_kept():
    form = FORMATS["qwen3_coder"]
    model = BOTH[0]
    assert takes(model, tool_grammar(TOOLS, form, ANY, model.marks), written(GENERIC, GOOD))
    with pytest.raises(RequestError, match="strict") as caught:
        tool_grammar(TOOLS, form, AUTO, model.marks)
    assert caught.value.path == "tools.0"


def test_a_choice_of_no_tool():
    choice = ToolChoice(mode=ToolMode.TOOL, name="h")
    with pytest.raises(RequestError, match="'h'") as caught:
        tool_grammar(TOOLS, GENERIC, choice, Marks())
    assert caught.value.path == "tool_choice.name"


def test_a_schema_that_cannot_be_kept_is_named():
    tools = (TOOLS[0], ToolDefinition(name="x", schema=closed(deep=closed(set={"uniqueItems": True}))))
    with pytest.raises(RequestError, match="uniqueItems") as caught:
        tool_grammar(tools, GENERIC, ANY, Marks(), path=lambda index: f"tools.{index}.input_schema")
    assert caught.value.path == "tools.1.input_schema.properties.deep.properties.set"


@pytest.mark.parametrize("model", BOTH, ids=["tokens", "spelled"])
def test_json_mode_takes_objects_on_one_line(model):
    grammar = answer_grammar(ANY_OBJECT, model.marks)
    for text in ("{}", '{"a": [1, {"b": null}], "c":"d"}', '{"ü": "\\n\\u0001"}'):
        assert takes(model, grammar, text)
    for text in (
        "",
        "[]",
        "1",
        '{"a": 1',
        ' {"a": 1}',
        '{"a": 1}\n',
        '{"a":  1}',
        '{\n"a": 1}',
        "```json\n{}",
    ):
        assert not takes(model, grammar, text)


def test_integers_fit_64_bits():
    model = BOTH[0]
    for schema in ({"type": "integer"}, {"type": "integer", "maximum": 2**63 - 1, "minimum": -(2**63)}):
        grammar = answer_grammar(schema, model.marks)
        assert takes(model, grammar, str(10**18))
        assert not takes(model, grammar, str(2**63))


def test_multiples_end_and_other_numbers_may_have_exponents():
    model = BOTH[0]
    multiple = answer_grammar({"type": "number", "multipleOf": 0.5}, model.marks)
    assert takes(model, multiple, "-2.5")
    assert not takes(model, multiple, "1" + "0" * 30)
    assert takes(model, answer_grammar({"type": "number"}, model.marks), "6.62607015e-34")


# --- every answer that a grammar leads to is valid ----------------------------------------------------------

SCHEMAS = [
    closed(name={"type": "string", "pattern": "^[A-Zü]{2,4}$"}, n={"type": "number", "multipleOf": 0.5}),
    {
        "type": "object",
        "patternProperties": {"^[a-cß]{1,2}$": {"enum": ["ö\n", 1.5, None]}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
    {"anyOf": [{"type": "string", "format": "date"}, {"const": {"a": ["b", False]}}]},
    {
        "type": "array",
        "prefixItems": [{"type": "boolean"}],
        "items": {"type": "string", "maxLength": 3},
        "maxItems": 3,
    },
]


@cache
def sentencepiece():
    tokenizer = tiny_tokenizers.byte_fallback()
    end = tokenizer.token_to_id("</s>")
    return SimpleNamespace(
        trie=LLTokenizer(tokenizer.to_str(), eos_token=[end]), marks=Marks(), tokenizer=tokenizer, end=end
    )


def walk(model, grammar, chance, limit=400):
    """A random answer that follows the grammar, as ids; None if it does not end within `limit`."""
    matcher = LLMatcher(model.trie, grammar, log_level=0)
    ids = []
    while len(ids) < limit:
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(mask, bitorder="little").nonzero()[0]
        if model.end in allowed and (len(allowed) == 1 or chance.random() < 0.5):
            return ids
        token = int(chance.choice([each for each in allowed if each != model.end]))
        assert matcher.consume_token(token)
        ids.append(token)
    return None


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("model", [*BOTH, sentencepiece()], ids=["tokens", "spelled", "sentencepiece"])
def test_random_walks(model, schema):
    grammar = answer_grammar(schema, model.marks)
    chance = random.Random(4)
    answers = [walk(model, grammar, chance) for _ in range(12)]
    ended = [ids for ids in answers if ids is not None]
    assert len(ended) > 6
    for ids in ended:
        validate(model.tokenizer.decode(ids, skip_special_tokens=False), schema)
