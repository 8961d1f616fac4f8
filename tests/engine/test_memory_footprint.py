"""What requests take, told beforehand and measured."""

import itertools

import mlx.core as mx
import pytest

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.memory.footprint import ENDLESS, Footprint, Layer, footprint_of
from pensieved.engine.worker.passes.library import Library
from pensieved.engine.worker.passes.runner import runner_for
from pensieved.engine.worker.passes.shapes import CPU, METAL, Shapes
from support.batches import MODELS
from support.memories import WIDE_HEAD, WIDE_TOKEN, settled, wide_model

DEVICE = mx.Device(mx.cpu)
EXACT = Shapes()
PADDED = Shapes(doubling=True, padded=True, slack=32)


def footprint(model, shapes=EXACT):
    runner, shapes = runner_for(model, shapes)
    return footprint_of(model, runner, shapes)


@pytest.fixture(scope="module")
def wide():
    return wide_model()


def measured(model, lengths, tokens):
    """Bytes in use at the most between two steps, and at any moment, of requests one behind the other."""
    batch = Batch(model, DEVICE, max_concurrent=8, prefill_chunk=64)
    before = settled()  # all of it active: nothing freed is kept
    mx.reset_peak_memory()
    most = 0
    for number, length in enumerate(lengths):
        batch.insert(Submit(number, tuple((7 * each + number) % 64 for each in range(length)), tokens, ()))
    while len(batch):
        batch.step()
        mx.synchronize(batch._stream)
        most = max(most, mx.get_active_memory())
    return most - before, mx.get_peak_memory() - before


def test_plain_kv_is_told_to_the_byte(wide):
    known = footprint(wide)
    assert known.token == WIDE_TOKEN
    assert known.row(64) == 64 * WIDE_TOKEN
    assert known.row(65) == 128 * WIDE_TOKEN  # rooms grow by 64 tokens at first
    held, _ = measured(wide, [60], 3)
    assert known.row(63) <= held < 1.1 * known.row(63)


@pytest.mark.slow
def test_a_further_request_takes_no_more_than_a_tenth_beyond_its_kv():
    """At the end of its answer, when all of its room is used, at any moment of its life, copies and scratch included."""
    length, tokens, layers, heads = 104, 24, 24, 4
    model = wide_model(layers=layers, heads=heads)
    kv = (length + tokens) * layers * heads * WIDE_HEAD
    peaks = [measured(model, [length] * count, tokens) for count in (1, 2, 3, 4)]
    for (held, peak), (more_held, more_peak) in itertools.pairwise(peaks):
        assert more_held - held <= 1.1 * kv
        assert more_peak - peak <= 1.1 * kv
    assert footprint(model).together([length + tokens] * 4) == 4 * kv


@pytest.mark.parametrize("kind", ["sliding", "state space"])
def test_other_caches_are_estimated_and_not_too_low(kind):
    model = MODELS[kind]()
    mx.eval(model.parameters())
    assert isinstance(runner_for(model, EXACT)[0], Library)
    known = footprint(model)
    for length in (40, 600):
        held, _ = measured(model, [length], 4)
        assert held <= 1.2 * known.row(length + 4) + (64 << 10)
        assert known.row(length + 4) <= 2 * held


def test_a_window_and_a_state_do_not_grow():
    window, state, plain = Layer(10, 0, 24), Layer(0, 500, None), Layer(10, 0, None)
    sizes = [Footprint([layer], int, int, int).row(1000) for layer in (window, state, plain)]
    assert sizes == [240, 500, 10_000]
    assert footprint(MODELS["state space"]()).fitting(1 << 20) == ENDLESS


def test_similar_lengths_share_the_longest_ones_room():
    known = Footprint([Layer(1, 0, None)], int, int, int, lambda one, other: one <= 4 * other)
    assert known.together([]) == 0
    assert known.together([600, 2000, 1900]) == 3 * 2000
    assert known.together([100, 8000, 7000]) == 2 * 8000 + 100


def test_on_a_cpu_a_short_row_has_no_long_ones_room(wide):
    lengths = [64] * 7 + [2048]
    assert footprint(wide, CPU).together(lengths) == (7 * 64 + 2048) * WIDE_TOKEN
    assert footprint(wide, METAL).together([*lengths[:7], 1792]) == 8 * 1792 * WIDE_TOKEN


def test_doubled_rows_and_padded_prompts_count(wide):
    known = footprint(wide, PADDED)
    assert known.together([64] * 5) == 8 * 64 * WIDE_TOKEN
    assert known.prompt(600) == 1024 * WIDE_TOKEN


@pytest.mark.parametrize("room", [1, 63, 64, 100, 10_000, 123_456])
def test_what_fits_is_the_longest_that_does(room):
    known = Footprint([Layer(1, 0, None)], EXACT.capacity, EXACT.capacity, EXACT.rows)
    fits = known.fitting(room)
    assert known.row(fits) <= room or fits == 0
    assert known.row(fits + 1) > room
