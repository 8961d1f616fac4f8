"""Attention that an x86 CPU computes while a pass is being made: the same numbers, nothing copied, nobody's token late."""

import random
from dataclasses import replace

import mlx.core as mx
import pytest

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.pace import Pace
from pensieved.engine.worker.passes.attention import Attention
from pensieved.engine.worker.passes.cpu import attention, device, numbers, softmax
from pensieved.engine.worker.passes.flat import Flat
from pensieved.engine.worker.passes.shapes import CPU, CUDA
from support.architectures import PLAIN, VOCABULARY, model_of

ALWAYS, SOMETIMES, NEVER = (replace(CPU, at_once=many) for many in (1, 600, None))

pytestmark = pytest.mark.skipif(not device.on_x86(), reason="for a CPU that is x86")


def prompt(length, seed=0):
    chance = random.Random(seed)
    return tuple(chance.randrange(VOCABULARY) for _ in range(length))


def made(shape, seed):
    return mx.random.normal(shape, key=mx.random.key(seed))


def batch_of(model, shapes):
    return Batch(model, mx.default_device(), shapes=shapes, max_concurrent=8, prefill_chunk=32)


def run(batch, answers=None):
    answers = {} if answers is None else answers
    while len(batch):
        for output in batch.step():
            answers.setdefault(output.request, []).extend(output.tokens)
    return answers


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("near", [1, 50, 1 << 17])
def test_scores_become_their_powers_where_they_lie(monkeypatch, threads, near):
    monkeypatch.setattr(numbers, "NEAR", near)
    monkeypatch.setattr(numbers, "LEAST", 1)
    monkeypatch.setattr(numbers.openblas, "threads", lambda: threads)
    scores = made((2, 3, 5, 23), 1) * 30
    before = mx.array(scores)
    hidden = mx.where(mx.arange(5) <= mx.arange(5)[:, None], mx.array(0.0), mx.array(-mx.inf))
    mx.eval(scores, before)
    sums = softmax.exponentiate(scores, hidden)
    left = before + mx.pad(hidden, [(0, 0), (18, 0)])
    wanted = mx.exp(left - left.max(axis=-1, keepdims=True))
    assert mx.allclose(scores, wanted, rtol=1e-5, atol=1e-7)
    assert mx.allclose(sums, wanted.sum(axis=-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("shapes", [ALWAYS, NEVER], ids=["always", "never"])
@pytest.mark.parametrize(
    ("tokens", "positions", "mask"),
    [
        (1, 9, [[[[True] * 5 + [False] * 4]], [[[True] * 9]]]),
        (1, 9, "causal"),
        (4, 9, "causal"),
        (9, 9, "causal"),
        (2, 9, [[True] * 8 + [False], [True] * 9]),
    ],
)
def test_attention_is_mlxs(monkeypatch, shapes, tokens, positions, mask):
    queries = made((2, 6, tokens, 32), 1)
    keys, values = made((2, 3, positions, 32), 2), made((2, 3, positions, 32), 3)
    attending = Attention(mask if isinstance(mask, str) else mx.array(mask), shapes)
    found = [attending(queries, keys, values, 0.3, None) for _ in range(2)]  # two layers
    monkeypatch.setattr(attention, "suits", lambda *_: False)
    wanted = attending(queries, keys, values, 0.3, None)
    assert all(mx.allclose(each, wanted, rtol=1e-5, atol=1e-5) for each in found)


def test_it_is_for_many_scores_on_a_cpu():
    assert CPU.is_at_once(1, CPU.at_once)
    assert not CPU.is_at_once(CPU.at_once - 1, 1)
    assert not CUDA.is_at_once(1 << 40, 1)


@pytest.mark.parametrize("kind", PLAIN)
def test_nobodys_answer_changes(kind):
    model = model_of(kind)

    def answers(shapes):
        batch = batch_of(model, shapes)
        for number, length in enumerate((1, 40, 90, 17, 200, 3)):
            batch.insert(Submit(number, prompt(length, number), 24, ()))
        return run(batch)

    plain = answers(NEVER)
    assert answers(ALWAYS) == plain
    assert answers(SOMETIMES) == plain  # of long prompts, so that passes of both kinds follow each other


def test_drafts_are_verified_as_well():
    model = model_of("llama")

    def answer(shapes):
        batch = batch_of(model, shapes)
        batch.speculate()
        batch.insert(Submit(1, prompt(30) * 3, 60, ()))
        return run(batch)[1]

    assert answer(ALWAYS) == answer(NEVER)


@pytest.mark.parametrize("decoding", [True, False])
def test_caches_are_written_to_and_not_copied(decoding):
    flat = Flat(model_of("llama"), ALWAYS)
    long = flat.open([4000])
    mx.eval(long.cells.arrays)
    long.done = 3000
    if decoding:
        flat.arrange([], [(long, 0, 3000)])
    cells = flat._shelves[0].cells if decoding else long.cells
    size = sum(array.nbytes for array in cells.arrays)
    work = [] if decoding else [(long, [prompt(2)])]
    assert flat.waits([(group, 2) for group, _ in work])
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    logits, rest = flat.run(mx.array([1], dtype=mx.uint32) if decoding else None, work)
    mx.eval([] if logits is None else logits, rest)
    assert mx.get_peak_memory() - held < size / 2  # what the pass needs besides


def test_a_token_does_not_wait_for_a_pass_that_is_computed_while_it_is_made(monkeypatch):
    monkeypatch.setattr(Pace, "bound", lambda *_: 0.0)  # so that it takes many turns
    batch = batch_of(model_of("llama"), replace(CPU, at_once=32 * 32))
    for number in (1, 2):
        batch.insert(Submit(number, prompt(8, number), 100, ()))
    passes, run_pass = [], batch._runner.run
    batch._runner.run = lambda *args, **more: passes.append(args) or run_pass(*args, **more)
    turns = []
    for turn in range(40):
        if turn == 10:
            batch.insert(Submit(3, prompt(4000, 3), 1, ()))
        passes.clear()
        tokens = sum(len(output.tokens) for output in batch.step())
        turns.append((len(passes), tokens, batch._decoder.unread))
    assert turns[9] == (1, 2, True)  # the tokens of the pass before
    assert turns[10] == (0, 2, False)  # those are sent first
    assert set(turns[11:]) == {(1, 2, False), (2, 2, False)}  # two passes where another chunk begins
