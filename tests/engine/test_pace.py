"""Fair prefill: how chunks follow what steps cost, and the sizes arrays are rounded to."""

import pytest

from pensieved.engine.worker.pace import PATIENCE, SMALLEST, Pace
from pensieved.engine.worker.passes.shapes import CHUNKS, CPU, CUDA
from pensieved.engine.worker.slices import MOST, SlicedPace, Slices


def drive(pace, plain, each, *, fixed=0.0, steps=60, rows=8, noise=None):
    """Ten steps without prompts, then `steps` with; what the latter took."""
    for _ in range(10):
        pace.took(plain, rows, 0)
    took = []
    for step in range(steps):
        tokens = pace.budget(rows)
        seconds = plain + fixed + each * tokens
        took.append(seconds)
        pace.took(noise(step, seconds) if noise else seconds, rows, tokens)
    return took


@pytest.mark.parametrize(("plain", "each"), [(0.087, 0.005), (0.005, 2e-5), (0.02, 3e-4), (0.3, 0.001)])
@pytest.mark.parametrize("fixed", [0.0, 0.3])
def test_steps_with_prompts_take_what_readers_bear(plain, each, fixed):
    pace = Pace(512, 512)
    took = drive(pace, plain, each, fixed=fixed * plain)
    assert max(took) <= max(3 * plain, plain * (1 + fixed) + SMALLEST * each)
    settled = took[-1]
    full = plain * (1 + fixed) + each * 512
    assert settled >= min(0.8 * PATIENCE * plain, full)


def test_where_any_chunk_costs_a_pass_long_ones_go_along():
    plain, fixed, each = 0.007, 0.011, 2e-6
    pace = Pace(512, 2048)
    took = drive(pace, plain, each, fixed=fixed)
    assert pace.budget(8) == 512
    assert max(took) <= 3 * plain  # what a reader is promised


def test_chunks_of_a_growing_context_do_not_take_longer_and_longer():
    plain, done, took = 0.1, 0, []
    pace = Pace(512, 512)
    for _ in range(10):
        pace.took(plain, 8, 0)
    while done < 2000:
        tokens = pace.budget(8)
        took.append(plain + 0.02 + tokens * (0.0035 + 2.2e-6 * done))
        pace.took(took[-1], 8, tokens)
        done += tokens
    assert max(took) <= 3 * plain
    assert done / len(took) > 1.4 * SMALLEST


def test_where_even_a_short_chunk_is_dear_it_stays_short():
    plain, each = 0.03, 0.006
    pace = Pace(512, 2048)
    took = drive(pace, plain, each)
    assert pace.budget(8) <= 1.5 * SMALLEST
    assert max(took) <= plain + 1.6 * SMALLEST * each


def sliced(whole=0.02):
    """A pace that has seen chunks of several lengths, the longest of which take `whole` more than a step of 4 ms."""
    pace = SlicedPace(2048, 2048, 64)
    for tokens in (64, 128, 256, 512, 1024, 2048):
        pace.trying = tokens
        for _ in range(4):
            pace.took(0.004, 8, 0)
        for _ in range(4):
            pace.took(0.004 + whole * tokens / 2048, 8, tokens)
    pace.trying = None
    return pace


def test_as_much_of_a_chunk_goes_along_as_readers_bear():
    pace = sliced()
    assert pace.budget(8) == 2048
    bearable = (PATIENCE - 1) * 9 / 8 * 0.004
    assert 0.02 / 4 <= bearable < 0.02 / 2
    assert (pace.parts(8, 1, 2048), pace.parts(8, 1, 1024)) == (4, 2)
    assert pace.parts(8, 1, 512) == pace.parts(0, 1, 2048) == 1
    assert pace.parts(8, 24, 2048) == 2


def test_before_anything_is_known_a_chunk_is_short_and_goes_along_whole():
    pace = SlicedPace(2048, 2048, 64)
    assert (pace.budget(8), pace.parts(8, 1, 64)) == (64, 1)
    assert pace.budget(0) == 2048


def test_parts_follow_a_context_that_makes_them_dearer():
    pace = sliced(0.01)
    assert pace.parts(8, 1, 2048) == 2
    for _ in range(60):
        parts = pace.parts(8, 1, 2048)
        pace.took(0.004 + 0.02 / parts, 8, 2048, 1 / parts)
    assert parts == 4
    assert 0.02 / parts < (PATIENCE - 1) * 9 / 8 * 0.004 < 0.02 / (parts / 2)


def test_parts_are_not_misjudged_where_every_second_step_waits_for_two():
    pace = sliced()
    for number in range(60):
        parts = pace.parts(8, 1, 2048)
        assert parts == 4
        pace.took(0.004 + (2 * 0.02 / parts if number % 2 else 0), 8, 2048, 1 / parts)


def test_parts_do_not_vanish_where_smaller_ones_make_nothing_faster():
    pace = sliced()
    for _ in range(60):
        parts = pace.parts(8, 1, 2048)
        pace.took(0.03, 8, 2048, 1 / parts)
    assert parts == MOST


def test_a_pass_is_in_equal_parts_but_for_the_last_one():
    slices = Slices([], [[number] for number in range(30)], tokens=2048, parts=4)
    taken = []
    while slices:
        taken.append(slices.take(everything=False))
    assert [len(part) for part, _ in taken] == [8, 8, 8, 6]
    assert [layer for part, _ in taken for (layer,) in part] == list(range(30))
    assert sum(share for _, share in taken) == pytest.approx(1)


def test_nobody_reads_any_more_so_the_rest_is_computed_at_once():
    slices = Slices([], [[number] for number in range(30)], tokens=2048, parts=4)
    slices.take(everything=False)
    part, share = slices.take(everything=True)
    assert (len(part), share, bool(slices)) == (22, 22 / 30, False)


def test_the_more_wait_for_each_who_reads_the_longer_a_step_may_take():
    plain, each = 0.01, 1e-4
    pace = Pace(4096, 4096)
    drive(pace, plain, each, rows=2)
    took = [plain + each * pace.budget(2, waiting) for waiting in (0, 1, 2, 4, 8)]
    assert took == sorted(took)
    assert took[0] == pytest.approx(PATIENCE * plain, rel=0.1)
    assert took[4] > 2 * took[0]
    assert pace.budget(2) == pace.budget(2, 1)  # a single newcomer


def test_nobody_decodes_nobody_waits():
    pace = Pace(512, 2048)
    assert pace.budget(0) == 2048
    assert pace.budget(3) == SMALLEST


def test_a_hiccup_is_soon_forgotten():
    plain, each = 0.01, 1e-4
    pace = Pace(512, 512)
    drive(pace, plain, each)
    before = pace.budget(8)
    drive(pace, plain, each, steps=12, noise=lambda step, seconds: 2.0 if step == 1 else seconds)
    assert pace.budget(8) >= 0.7 * before


def test_steps_of_changing_rows_teach_nothing():
    pace = Pace(512, 512)
    for rows in (1, 2) * 20:
        pace.took(5.0, rows, 0)
        pace.took(9.0, rows + 5, 16)
    assert pace.budget(1) == SMALLEST


def test_capacity_wastes_little():
    for tokens in range(1, 20000, 7):
        capacity = CPU.capacity(tokens)
        assert tokens <= capacity < tokens + max(64, tokens / 15)


def test_padded_chunks_have_few_lengths_and_fit_their_room():
    for total in (*range(1, 700), 1000, 2047, 2049, 3000, 5000, 9001):
        for room in (16, 100, 512, 2048):
            done = passes = 0
            while done < total:
                taken = CUDA.take(total - done, room)
                assert 0 < taken <= total - done
                length = CUDA.chunk(taken)
                assert length in CHUNKS
                assert length <= max(room, CHUNKS[0]) or room not in CHUNKS
                done += taken
                passes += 1
            assert passes <= 4 + total // 16


def test_exact_chunks_take_what_there_is():
    assert CPU.take(100, 30) == 30
    assert CPU.take(7, 30) == 7
    assert CPU.take(7, 0) == 1
    assert CPU.rows(5) == CPU.group(5) == 5
    assert CUDA.rows(5) == 8
    assert CUDA.group(5) == 4


@pytest.mark.parametrize("known", range(0, 6000, 37))
def test_few_shapes_of_chunks_come(known):
    for tokens in (1, 64, 65, 200, 300, 1000, 2048):
        length = CUDA.chunk(tokens, known)
        reach = CUDA.reach(known + length)
        assert length in CHUNKS
        assert length >= tokens
        assert length >= min(256, reach // 4)
        assert CUDA.chunk(length, known) == length  # what is met in advance is what comes
