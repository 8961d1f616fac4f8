"""Rooms of rows that decode: made anew a few layers at a time."""

import mlx.core as mx
import pytest

from pensieved.engine.worker.passes import shelf
from pensieved.engine.worker.passes.shapes import CPU
from pensieved.engine.worker.passes.shelf import Cells, Shelf

LAYERS, ROWS, HEADS, WIDTH = 24, 4, 8, 64


def cells_of(capacity):
    shape = (ROWS, HEADS, capacity, WIDTH)
    made = Cells(*([mx.random.normal(shape) for _ in range(LAYERS)] for _ in range(2)))
    mx.eval(made.arrays)
    return made


def test_making_room_never_holds_much_twice(monkeypatch):
    monkeypatch.setattr(shelf, "AT_ONCE", 4 * 1024**2)
    cells = cells_of(512)
    before = sum(array.nbytes for array in cells.arrays)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    cells.stretch(768)
    mx.eval(cells.arrays)
    after = sum(array.nbytes for array in cells.arrays)
    assert after == pytest.approx(1.5 * before)
    assert mx.get_peak_memory() - held <= after - before + 3 * shelf.AT_ONCE < before


@pytest.mark.parametrize("at_once", [1, 1 << 40])
def test_what_a_row_holds_stays(monkeypatch, at_once):
    monkeypatch.setattr(shelf, "AT_ONCE", at_once)
    cells = cells_of(64)
    known = [mx.array(array) for array in cells.arrays]
    mx.eval(known)
    cells.stretch(128)
    assert cells.capacity == 128
    for now, then in zip(cells.arrays, known, strict=True):
        assert mx.array_equal(now[:, :, :64], then)
        assert not now[:, :, 64:].any()


def test_bringing_rows_together_never_holds_much_twice(monkeypatch):
    monkeypatch.setattr(shelf, "AT_ONCE", 4 * 1024**2)
    kept = Shelf(cells_of(256), [200, 10, 250, 240])
    known = [mx.array(array) for array in kept.cells.arrays]
    mx.eval(known)
    before = sum(array.nbytes for array in kept.cells.arrays)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    assert kept.arrange([0, 2], [], CPU) == [0, 1]
    mx.eval(kept.cells.arrays)
    assert kept.cells.rows == 2
    assert mx.get_peak_memory() - held <= 3 * shelf.AT_ONCE < before // 2
    for now, then in zip(kept.cells.arrays, known, strict=True):
        assert mx.array_equal(now, then[mx.array([0, 2])])


def test_newcomers_are_never_held_twice_either(monkeypatch):
    monkeypatch.setattr(shelf, "AT_ONCE", 4 * 1024**2)
    here, coming = Shelf(cells_of(256), [200, 10, 250, 240]), cells_of(256)
    before = sum(array.nbytes for array in coming.arrays)
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    here.arrange([0, 1, 2, 3], [(coming, row, 100) for row in range(ROWS)], CPU)
    mx.eval(here.cells.arrays)
    assert here.cells.rows == 2 * ROWS
    assert mx.get_peak_memory() - held <= 3 * shelf.AT_ONCE < before // 2


@pytest.mark.parametrize("at_once", [1, 1 << 40])
def test_rows_come_together_with_what_they_hold(monkeypatch, at_once):
    monkeypatch.setattr(shelf, "AT_ONCE", at_once)
    here, coming = Shelf(cells_of(64), [60, 20, 30, 40]), cells_of(128)
    known = [
        (mx.array(mine), mx.array(theirs))
        for mine, theirs in zip(here.cells.arrays, coming.arrays, strict=True)
    ]
    mx.eval(known)
    handed = coming.copy()
    assert here.arrange([3, 0], [(handed, 2, 70), (handed, 0, 65)], CPU) == [0, 1, 2, 3]
    assert here.lengths == [40, 60, 70, 65]
    assert here.cells.capacity == 128
    for now, (mine, theirs) in zip(here.cells.arrays, known, strict=True):
        assert mx.array_equal(now[:2, :, :64], mine[mx.array([3, 0])])
        assert mx.array_equal(now[2:], theirs[mx.array([2, 0])])
        assert not now[:2, :, 64:].any()
    for now, (_, theirs) in zip(coming.arrays, known, strict=True):
        assert mx.array_equal(now, theirs)  # another shelf may want rows of it
