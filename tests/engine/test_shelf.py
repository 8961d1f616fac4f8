"""Rooms of rows that decode: made larger a few layers at a time."""

import mlx.core as mx
import pytest

from pensieved.engine.worker import shelf
from pensieved.engine.worker.shelf import Cells

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
