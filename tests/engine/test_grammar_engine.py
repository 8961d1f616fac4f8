"""Constrained decoding in the real engine process, with a tiny random model: it would never write JSON by itself."""

import os
import signal

import pytest
from tokenizers import Tokenizer

from pensieved.chat.conversation import ToolChoice, ToolDefinition, ToolMode
from pensieved.chat.grammar import ANY_OBJECT, Marks, Thinking, answer_grammar, tool_grammar
from pensieved.chat.toolformat import GENERIC
from pensieved.engine.protocol import FinishReason, Sampling
from pensieved.engine.supervisor import Engine, EngineConfig
from pensieved.errors import RequestError, RequestErrorKind
from support import tiny
from support.constrained import collect, submit, validate

pytestmark = pytest.mark.slow

CONCURRENT = 6
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["cat", "dög", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
RECORD_GRAMMAR = answer_grammar(RECORD, Marks())
PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = tiny.llama_files(seed=3)
    # One byte has no token, as in SmolLM2: its letter stands for something else.
    files["tokenizer.json"] = files["tokenizer.json"].replace('"ò":'.encode(), b'"qqqq":')
    return tiny.write_files(tmp_path_factory.mktemp("tiny"), files)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory):
    config = EngineConfig(cache_dir=tmp_path_factory.mktemp("cache"), device="cpu", prefill_chunk=32)
    engine = Engine(config, lambda *_: None)
    try:
        engine.load(folder, max_concurrent=CONCURRENT)
        yield engine
    finally:
        engine.stop(5)


def check(tokenizer, answer, schema):
    """Whether the answer is complete; what is complete must be valid."""
    tokens, finish = answer
    if finish is FinishReason.STOP:
        validate(tokenizer.decode(tokens[:-1], skip_special_tokens=False), schema)
    return finish is FinishReason.STOP


def test_greedy_answers_are_valid(engine, tokenizer):
    for number in range(6):
        answer = collect(submit(engine, [5, 6, number], RECORD_GRAMMAR, max_tokens=200))
        assert check(tokenizer, answer, RECORD)


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_p": 0.9},
        {"top_k": 3, "min_p": 0.01},
        {"repetition_penalty": 1.5, "presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"logit_bias": tuple((token, 100.0) for token in range(3, 40))},
        {"logit_bias": tuple((token, -100.0) for token in range(320))},
        {"logit_bias": ((2, 100.0), (0, 100.0))},
    ],
)
def test_whatever_sampling_does_the_grammar_has_the_last_word(engine, tokenizer, sampling):
    wanted = [
        submit(engine, PROMPT, RECORD_GRAMMAR, max_tokens=150, temperature=1.0, seed=seed, **sampling)
        for seed in range(CONCURRENT)
    ]
    completed = [check(tokenizer, collect(each), RECORD) for each in wanted]
    assert any(completed)


def test_a_constrained_answer_is_the_same_alone_and_in_company(engine):
    prompts = [[9, number, *range(number)] for number in range(1, 6)]
    alone = [collect(submit(engine, prompt, RECORD_GRAMMAR)) for prompt in prompts]
    grammars = [RECORD_GRAMMAR, "", RECORD_GRAMMAR, answer_grammar(ANY_OBJECT, Marks()), RECORD_GRAMMAR]
    together = [submit(engine, *each) for each in zip(prompts, grammars, strict=True)]
    answers = [collect(each) for each in together]
    assert [answers[place] for place in (0, 2, 4)] == [alone[place] for place in (0, 2, 4)]


def test_free_neighbours_are_left_alone(engine):
    prompts = [[number, 11, 12] for number in range(20, 23)]
    alone = [collect(submit(engine, prompt, "")) for prompt in prompts]
    mixed = [(each, grammar) for each in prompts for grammar in ("", RECORD_GRAMMAR)]
    answers = [collect(each) for each in [submit(engine, *each) for each in mixed]]
    assert answers[::2] == alone


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.95, "seed": 5}])
def test_an_answer_goes_on_after_a_death_as_if_nothing_had_happened(engine, tokenizer, sampling):
    # So long that it has not ended when the signal comes.
    schema = {"type": "array", "items": RECORD, "minItems": 12, "maxItems": 12}
    grammar = answer_grammar(schema, Marks())
    undisturbed = collect(submit(engine, PROMPT, grammar, max_tokens=1000, **sampling))
    generation = submit(engine, PROMPT, grammar, max_tokens=1000, **sampling)
    while len(generation.produced) < 15:
        generation.next(10)
    resumed = engine.client.resumed
    os.kill(engine.stats.pid, signal.SIGKILL)
    while generation.next(60).finish is None:
        pass
    assert engine.client.resumed == resumed + 1
    assert list(generation.produced) == undisturbed[0]
    check(tokenizer, undisturbed, schema)


def test_log_probabilities_are_those_of_the_choice_that_is_left(engine):
    generation = engine.client.submit(
        PROMPT,
        max_tokens=1,
        stop_tokens=(2,),
        sampling=Sampling(),
        logprobs=2,
        grammar=answer_grammar({"const": 7}, Marks()),
    )
    chunk = generation.next(30)
    assert chunk.logprobs[0].chosen == pytest.approx(0.0, abs=1e-4)


# --- tools and thinking ------------------------------------------------------------------------------------

TOOLS = (
    ToolDefinition(
        name="look", schema={**RECORD, "properties": {**RECORD["properties"], "at": {"const": 1}}}
    ),
    ToolDefinition(
        name="stop_it", schema={"type": "object", "properties": {}, "additionalProperties": False}
    ),
)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_forced_call_is_a_call(engine, tokenizer, parallel):
    choice = ToolChoice(mode=ToolMode.TOOL, name="look", parallel=parallel)
    grammar = tool_grammar(TOOLS, GENERIC, choice, Marks())
    tokens, finish = collect(submit(engine, PROMPT, grammar, max_tokens=400, temperature=1.0, seed=1))
    text = tokenizer.decode(tokens)
    before, after = '<tool_call>\n{"name": "look", "arguments": ', "}\n</tool_call>"
    assert text.startswith(before)
    calls = text.split(f"{after}\n" if parallel else "\0")
    complete = calls if finish is FinishReason.STOP else calls[:-1]
    for call in complete:
        validate(call.removeprefix(before).removesuffix(after), TOOLS[0].schema)


def test_thinking_comes_first_and_is_free(engine, tokenizer):
    grammar = answer_grammar({"const": "done"}, Marks(think_end="q"), thinking=Thinking.OPEN)
    bias = tuple((token, -100.0) for token in (2, 0))
    tokens, finish = collect(
        submit(engine, PROMPT, grammar, max_tokens=4000, temperature=1.5, seed=2, logit_bias=bias)
    )
    assert finish is FinishReason.STOP
    thought, answer = tokenizer.decode(tokens).split("q", 1)
    assert len(thought) > 1
    assert answer.strip(" \n\t") == '"done"'


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("no grammar {", "cannot be compiled"),
        ('{"grammars": 5}', "cannot be compiled"),
        (answer_grammar({"$ref": "#"}, Marks()), "cannot be followed"),
    ],
)
def test_a_grammar_that_fails_ends_its_own_request(engine, grammar, says):
    pid = engine.stats.pid
    free = submit(engine, PROMPT, "")
    with pytest.raises(RequestError, match=says) as caught:
        collect(submit(engine, PROMPT, grammar))
    assert caught.value.kind is RequestErrorKind.INVALID
    collect(free)
    assert engine.stats.pid == pid
    assert engine.stats.running == 0


def test_a_grammar_that_fails_midway_ends_its_own_request(engine):
    pid = engine.stats.pid
    dead_end = answer_grammar({"const": "ab\U000aa1ad"}, Marks())
    free = submit(engine, PROMPT, "")
    generation = submit(engine, PROMPT, dead_end, max_tokens=20)
    with pytest.raises(RequestError, match="has no token for") as caught:
        collect(generation)
    assert "ab" not in str(caught.value).split()
    assert len(generation.produced) >= 2
    collect(free)
    assert engine.stats.pid == pid


def test_without_stop_tokens_an_answer_could_not_end(engine):
    with pytest.raises(RequestError, match="stop tokens"):
        collect(submit(engine, PROMPT, RECORD_GRAMMAR, stop=()))


def test_cancelling_at_any_moment_leaves_the_engine_well(engine, tokenizer):
    pid = engine.stats.pid
    for steps in (0, 0, 1, 3):
        generations = [submit(engine, PROMPT, RECORD_GRAMMAR, max_tokens=500) for _ in range(CONCURRENT)]
        while len(generations[-1].produced) < steps:
            generations[-1].next(10)
        for generation in generations:
            generation.cancel()
    assert check(tokenizer, collect(submit(engine, PROMPT, RECORD_GRAMMAR, max_tokens=200)), RECORD)
    assert engine.stats.pid == pid
    assert engine.stats.running == 0
