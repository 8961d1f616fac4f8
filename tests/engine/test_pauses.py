"""Passes that pause for those who decode: whoever reads gets a token with each step, and nothing that is computed changes."""

import gc
import threading
import weakref
from dataclasses import replace

import mlx.core as mx
import pytest

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.pace import Pace
from pensieved.engine.worker.passes.cpu import device
from pensieved.engine.worker.passes.pauses import Paused, pause
from pensieved.engine.worker.passes.shapes import CPU
from support.architectures import PLAIN, model_of
from support.batches import begun
from support.greedy import expected, prompts

PAUSING = replace(CPU, at_once=32 * 40, pausing=64)
"""Chunks of 64 tokens pause, and so do shorter ones that see enough."""
TOKENS = 8

on_x86 = pytest.mark.skipif(not device.on_x86(), reason="for a CPU that is x86")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def counting(clock, pieces, said):
    """Makes something in so many pieces of a second each."""

    def make():
        for piece in range(pieces):
            said.append(piece)
            clock.now += 1.0
            pause()
        return "made"

    return make


@pytest.mark.parametrize(
    ("seconds", "pieces"), [(0.0, 1), (0.9, 1), (1.4, 1), (1.6, 2), (3.0, 3), (3.4, 3), (3.6, 4)]
)
def test_it_pauses_where_another_piece_would_end_too_late(seconds, pieces):
    clock, said = Clock(), []
    paused = Paused(counting(clock, 20, said), clock)
    assert not paused.go_on(seconds)
    assert len(said) == pieces
    clock.now += 1000.0  # others had their turn
    assert not paused.go_on(seconds)
    assert len(said) == 2 * pieces


def test_it_comes_to_its_end():
    clock, said = Clock(), []
    paused = Paused(counting(clock, 3, said), clock)
    assert [paused.go_on(0.0) for _ in range(4)] == [False, False, False, True]
    assert paused.result == "made"
    assert said == [0, 1, 2]
    assert Paused(counting(clock, 3, said), clock).go_on(float("inf"))


def test_it_stays_in_the_thread_and_several_are_under_way():
    threads, said = set(), [[], []]
    clock = Clock()

    def make(mine):
        threads.add(threading.get_ident())
        counting(clock, 2, mine)()

    both = [Paused(lambda mine=mine: make(mine), clock) for mine in said]
    for paused in (*both, *both):
        assert not paused.go_on(0.0)
    assert said == [[0, 1], [0, 1]]
    assert all(paused.go_on(0.0) for paused in both)
    assert threads == {threading.get_ident()}


def test_a_place_to_pause_is_nothing_to_others():
    assert pause() is None


def test_what_goes_wrong_is_told_to_whoever_goes_on_with_it():
    def make():
        pause()
        raise ValueError("no")

    paused = Paused(make)
    assert not paused.go_on(0.0)
    with pytest.raises(ValueError, match="no"):
        paused.go_on(0.0)


@pytest.mark.parametrize("begun", [True, False])
def test_what_it_held_goes_when_it_is_given_up(begun):
    ended = []

    class Thing:
        pass

    def make(thing):
        try:
            pause()
        finally:
            ended.append(thing)
            ended.clear()

    thing = Thing()
    known = weakref.ref(thing)
    paused = Paused(lambda thing=thing: make(thing))
    del thing
    if begun:
        assert not paused.go_on(0.0)
    gc.disable()
    try:
        paused.give_up()
        del paused
        assert known() is None
    finally:
        gc.enable()


def test_what_it_made_goes_with_it():
    class Thing:
        pass

    paused = Paused(Thing)
    assert paused.go_on(0.0)
    known = weakref.ref(paused.result)
    gc.disable()
    try:
        del paused
        assert known() is None  # or whoever takes it over would have to copy what somebody still refers to
    finally:
        gc.enable()


def batch_of(model, shapes=PAUSING, **more):
    return Batch(model, mx.default_device(), shapes=shapes, max_concurrent=8, prefill_chunk=64, **more)


@pytest.fixture
def impatient(monkeypatch):
    """Readers let no more than a piece go before them."""
    monkeypatch.setattr(Pace, "bound", lambda *_: 0.0)


def under_way(model, length):
    """A batch in which somebody decodes and the pass of a prompt of that length, request 0, pauses; and the prompt."""
    long, reader = prompts([length, 5])
    batch = batch_of(model)
    begun(batch, reader, 1000)
    batch.insert(Submit(0, long, TOKENS, ()))
    while not batch._schedule._pausing:
        batch.step()
    return batch, long


def tokens_of(batch, request):
    return [token for output in batch.step() if output.request == request for token in output.tokens]


def answer_of(batch, request):
    answer = []
    while len(answer) < TOKENS:
        answer += tokens_of(batch, request)
    return answer


@on_x86
@pytest.mark.parametrize("kind", PLAIN)
def test_answers_are_the_same_while_others_go_on(impatient, kind):
    model = model_of(kind)
    long, longer, reader, short = prompts([300, 320, 5, 20])
    batch = batch_of(model)
    begun(batch, reader, 400)
    answers, pauses = {}, 0
    for number, prompt in enumerate((long, longer, short)):
        batch.insert(Submit(number, tuple(prompt), TOKENS, ()))
    while len(batch) > 1:
        counts, before = {}, batch._schedule._pausing[:1]
        for output in batch.step():
            answers.setdefault(output.request, []).extend(output.tokens)
            counts[output.request] = len(output.tokens)
        if before and before == batch._schedule._pausing[:1]:
            pauses += 1
            begins = any(len(answers[number]) == 1 for number in counts)
            assert set(counts.values()) == {1}
            assert (100 in counts) != begins  # a first token does not wait for another pass
    wanted = [long, longer, short, reader]
    assert [answers[0], answers[1], answers[2]] == expected(model, wanted[:3], TOKENS)
    known = 1  # its first token came before
    assert answers[100] == expected(model, [reader], 400)[0][known : known + len(answers[100])]
    layers = len(model.layers)
    assert pauses >= (layers - 1) * 2 * 300 // 64


@on_x86
def test_whoever_brings_little_does_not_wait_for_it(impatient):
    model = model_of("llama")
    long, reader, short = prompts([2000, 5, 20])
    batch = batch_of(model)
    begun(batch, reader, 1000)
    batch.insert(Submit(0, tuple(long), TOKENS, ()))
    for _ in range(4):
        batch.step()
    batch.insert(Submit(1, tuple(short), 1, ()))
    first = next(turn for turn in range(1, 100) if tokens_of(batch, 1))
    assert first <= 3
    assert batch._prefill  # the long one is not done


@on_x86
def test_nor_do_those_whose_own_pass_is_soon_over(impatient):
    model = model_of("llama")
    long, reader, *short = prompts([4000, 5, 40, 30, 50])
    batch = batch_of(model)
    begun(batch, reader, 1000)
    batch.insert(Submit(0, tuple(long), TOKENS, ()))
    for _ in range(4):
        batch.step()
    (under_way,) = batch._schedule._pausing
    for number, prompt in enumerate(short, start=1):
        batch.insert(Submit(number, tuple(prompt), TOKENS, ()))
    answers = {}
    while sum(map(len, answers.values())) < 3 * TOKENS:
        for output in batch.step():
            if output.request in {1, 2, 3}:
                answers.setdefault(output.request, []).extend(output.tokens)
    assert [answers[number] for number in (1, 2, 3)] == expected(model, short, TOKENS)
    assert batch._prefill  # the long one is not done
    assert [answer_of(batch, 0)] == expected(model, [long], TOKENS)
    assert under_way not in batch._schedule._pausing


@on_x86
def test_those_who_come_together_are_computed_together(impatient):
    model = model_of("llama")
    reader, *several = prompts([5, 20, 18, 22])
    batch = Batch(
        model, mx.default_device(), max_concurrent=8, prefill_chunk=64, shapes=replace(PAUSING, many=10)
    )
    begun(batch, reader, 1000)
    for number, prompt in enumerate(several):
        batch.insert(Submit(number, tuple(prompt), TOKENS, ()))
    batch.step()
    (pausing,) = batch._schedule._pausing
    assert {length for _, length in pausing.planned} == {18, 20, 22}  # the last tokens, too


@on_x86
def test_what_one_leaves_of_readers_patience_is_for_the_next(monkeypatch):
    monkeypatch.setattr(Pace, "bound", lambda *_: float("inf"))
    model = model_of("llama")
    reader, *several = prompts([5, 50, 55, 60])  # no two of them go into one pass
    batch = batch_of(model)
    begun(batch, reader, 1000)
    for number, prompt in enumerate(several):
        batch.insert(Submit(number, tuple(prompt), TOKENS, ()))
    batch.step()
    assert not batch._schedule._pausing
    answers = {number: [] for number in range(3)}
    while min(map(len, answers.values())) < TOKENS:
        for output in batch.step():
            if output.request in answers:
                answers[output.request] += output.tokens
        assert len({len(answer) for answer in answers.values()}) == 1  # they have begun together
    assert list(answers.values()) == expected(model, several, TOKENS)


@on_x86
def test_it_is_computed_without_a_pause_when_nobody_decodes_any_more(impatient):
    model = model_of("llama")
    batch, long = under_way(model, 300)
    batch.remove(100)
    batch.step()
    assert not batch._schedule._pausing
    assert [answer_of(batch, 0)] == expected(model, [long], TOKENS)


@on_x86
def test_one_for_which_nobody_waits_any_more_is_forgotten(impatient):
    model = model_of("llama")
    mx.eval(model.parameters())
    gc.collect()  # nothing of other tests goes meanwhile
    held = mx.get_active_memory()
    batch, long = under_way(model, 4000)
    batch.step()
    assert mx.get_active_memory() > held + 1e6
    gc.disable()
    try:
        batch.remove(0)
        batch.step()
        assert not batch._schedule._pausing
        assert mx.get_active_memory() < held + 1e6
    finally:
        gc.enable()
    batch.insert(Submit(1, tuple(long[:300]), TOKENS, ()))
    assert [answer_of(batch, 1)] == expected(model, [long[:300]], TOKENS)


@on_x86
def test_a_prompt_joins_those_who_decode_without_a_copy(impatient):
    batch = batch_of(model_of("llama"))
    long, reader = prompts([4000, 5])
    begun(batch, reader, 1000)
    batch.insert(Submit(0, tuple(long), TOKENS, ()))
    peaks, answered = [], False
    gc.disable()
    try:
        while not answered:
            held = mx.get_active_memory()
            mx.reset_peak_memory()
            answered = bool(tokens_of(batch, 0))
            peaks.append(mx.get_peak_memory() - held)
        size = sum(array.nbytes for shelf in batch._runner._shelves for array in shelf.cells.arrays)
    finally:
        gc.enable()
    assert max(peaks[-2:]) < size / 2


@on_x86
def test_while_nobody_decodes_it_does_not_pause():
    batch = batch_of(model_of("llama"))
    batch.insert(Submit(0, tuple(prompts([300])[0]), TOKENS, ()))
    while not tokens_of(batch, 0):
        assert not batch._schedule._pausing
