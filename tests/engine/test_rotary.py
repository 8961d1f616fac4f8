"""Rotation with shared angles is the rotation that the model has."""

import mlx.core as mx
import pytest
from mlx import nn

from pensieved.engine.worker.passes.cpu.rotary import SharedRoPE, share_angles

POSITIONS = [0, 1, 7, 200, 8191]


class Model(nn.Module):
    """Layers with one of each kind."""

    def __init__(self, dims=64, **kinds):
        super().__init__()
        self.layers = [nn.RoPE(dims, **kinds) for _ in range(3)]


def rotated(model, x, offset):
    """By all layers of the model, in one pass."""
    with share_angles(model).of(offset):
        return [layer(x, offset=offset) for layer in model.layers]


@pytest.mark.parametrize("kinds", [{}, {"base": 1e6}, {"scale": 0.25}, {"traditional": True}], ids=str)
@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16], ids=str)
def test_it_rotates_as_before(kinds, kind):
    mx.random.seed(5)
    x = mx.random.normal((len(POSITIONS), 3, 1, 64)).astype(kind)
    offset = mx.array(POSITIONS, dtype=mx.int32)
    model = Model(**kinds)
    plain = [layer(x, offset=offset) for layer in model.layers]
    for before, after in zip(plain, rotated(model, x, offset), strict=True):
        assert after.dtype == kind
        # a position of 8,191 has an angle with ten bits behind the point, in single precision as well
        assert mx.allclose(after, before, rtol=0, atol=2e-3 if kind == mx.float32 else 5e-2)


def test_near_the_start_it_is_exact_to_rounding():
    mx.random.seed(6)
    x = mx.random.normal((4, 2, 1, 64))
    offset = mx.array([0, 1, 2, 90], dtype=mx.int32)
    model = Model()
    before = model.layers[0](x, offset=offset)
    assert mx.allclose(rotated(model, x, offset)[0], before, rtol=0, atol=2e-5)


def test_angles_are_computed_once_for_a_pass_and_anew_for_the_next():
    model = Model()
    model.layers.append(nn.RoPE(64, base=1e6))
    angles = share_angles(model)
    assert {type(layer) for layer in model.layers} == {SharedRoPE}
    positions = mx.array([3, 4])
    with angles.of(positions):
        first = [angles.at(positions, layer.dims, layer.base, layer.scale) for layer in model.layers]
    assert first[0] is first[1] is first[2]
    assert not mx.array_equal(first[3][0], first[0][0])
    positions += 1  # in place: the same object
    with angles.of(positions):
        second = angles.at(positions, 64, model.layers[0].base, 1.0)
    assert not mx.array_equal(second[0], first[0][0])


def test_a_model_that_is_adapted_twice_has_one_set():
    model = Model()
    assert share_angles(model) is share_angles(model)


def test_outside_of_a_pass_positions_may_change_in_place():
    mx.random.seed(7)
    x, offset = mx.random.normal((2, 3, 1, 64)), mx.array([7, 9])
    plain, model = nn.RoPE(64), Model()
    share_angles(model)
    for _ in range(3):
        assert mx.array_equal(model.layers[0](x, offset=offset), plain(x, offset=offset))
        offset += 1


@pytest.mark.parametrize(
    ("shape", "offset"),
    [((2, 3, 5, 64), 7), ((2, 3, 5, 64), mx.array([7, 9])), ((2, 3, 1, 96), mx.array([7, 9]))],
)
def test_whatever_else_is_asked_is_left_to_mlx(shape, offset):
    x = mx.random.normal(shape)
    model = Model()
    before = model.layers[0](x, offset=offset)
    assert mx.array_equal(rotated(model, x, offset)[0], before)
