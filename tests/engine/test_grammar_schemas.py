"""Random schemas forced on real models: every completed answer is valid.

The tiny model draws at random, so it goes everywhere; the starter model answers greedily, as a client would have it.
Answers that are cut off at `max_tokens` prove nothing; they must be the smaller part. (A model of 135M parameters, asked
for any string or number, often repeats itself for ever.)

PENSIEVED_TEST_SCHEMAS=500 draws 500 schemas, which takes a quarter of an hour on two cores; the default is a sample.
"""

import itertools
import os
from collections import Counter

import pytest
from tokenizers import Tokenizer

from pensieved.chat.conversation import Conversation, Role, text_turn
from pensieved.chat.grammar import Marks, answer_grammar
from pensieved.chat.tokenizer import ChatTokenizer
from pensieved.engine.protocol import FinishReason
from pensieved.engine.supervisor import Engine, EngineConfig
from pensieved.errors import RequestError
from support import random_schemas, tiny
from support.constrained import collect, submit, validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

COUNT = int(os.environ.get("PENSIEVED_TEST_SCHEMAS", "16"))
TOGETHER = 8
REFUSALS = ("Unsatisfiable schema", "oneOf constraints are not supported")


def compiled(schemas):
    """Schemas with their grammars, and how many were refused; a refusal has one of few reasons."""
    grammars, refused = [], Counter()
    for schema in schemas:
        try:
            grammars.append((schema, answer_grammar(schema, Marks())))
        except RequestError as error:
            refused[next(reason for reason in REFUSALS if reason in str(error))] += 1
    return grammars, refused


def outcomes(engine, grammars, start, decode):
    """What became of each schema; `TOGETHER` of them run at a time."""
    counted = Counter()
    pending = iter(enumerate(grammars))
    while batch := list(itertools.islice(pending, TOGETHER)):
        running = [(schema, start(number, grammar)) for number, (schema, grammar) in batch]
        for schema, generation in running:
            try:
                tokens, finish = collect(generation, timeout=600)
            except RequestError as error:
                counted["no token" if "has no token for" in str(error) else str(error)] += 1
                continue
            if finish is FinishReason.STOP:
                validate(decode(tokens[:-1]), schema)
            counted[finish.value] += 1
    assert engine.stats.restarts == 0
    return counted


def report(counted, refused):
    total = sum(counted.values()) + sum(refused.values())
    print(f"{total} schemas: {dict(counted)}, refused: {dict(refused)}")  # noqa: T201  asked for with -s
    assert counted.keys() <= {"stop", "length", "no token"}
    assert counted["stop"] > 0.4 * total
    assert sum(refused.values()) < 0.2 * total
    assert counted["no token"] <= 1 + 0.02 * total


def test_a_random_model(tmp_path):
    folder = tiny.write_files(tmp_path / "model", tiny.llama_files(seed=3))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine = Engine(EngineConfig(cache_dir=tmp_path, device="cpu"), lambda *_: None)
    try:
        engine.load(folder, max_concurrent=TOGETHER)
        grammars, refused = compiled(random_schemas.draw(COUNT, seed=11))
        counted = outcomes(
            engine,
            grammars,
            lambda number, grammar: submit(
                engine, [5, number % 300], grammar, max_tokens=200, temperature=1.0, seed=number
            ),
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=False),
        )
        report(counted, refused)
    finally:
        engine.stop(5)


def test_the_starter_model(starter_model, starter_cache):
    text = ChatTokenizer.open(starter_model.path, starter_model.manifest.eos_token_ids)
    prompt = text.encode_chat(Conversation((text_turn(Role.USER, "Answer with an example, as JSON."),)))
    engine = Engine(EngineConfig(cache_dir=starter_cache, device="cpu"), lambda *_: None)
    try:
        engine.load(starter_model.path, max_concurrent=TOGETHER)
        grammars, refused = compiled(random_schemas.draw(COUNT, seed=1))
        counted = outcomes(
            engine,
            grammars,
            lambda _, grammar: submit(engine, prompt, grammar, stop=text.stop_token_ids, max_tokens=96),
            text.decode,
        )
        report(counted, refused)
    finally:
        engine.stop(5)
