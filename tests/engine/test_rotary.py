"""Rotation with shared angles is the rotation that the model has."""

import mlx.core as mx
import pytest
from mlx import nn

from pensieved.engine.worker.rotary import SharedRoPE, share_angles

POSITIONS = [0, 1, 7, 200, 8191]


class Model(nn.Module):
    """Layers with one of each kind."""

    def __init__(self, dims=64, **kinds):
        super().__init__()
        self.layers = [nn.RoPE(dims, **kinds) for _ in range(3)]


@pytest.mark.parametrize("kinds", [{}, {"base": 1e6}, {"scale": 0.25}, {"traditional": True}], ids=str)
@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16], ids=str)
def test_it_rotates_as_before(kinds, kind):
    mx.random.seed(5)
    x = mx.random.normal((len(POSITIONS), 3, 1, 64)).astype(kind)
    offset = mx.array(POSITIONS, dtype=mx.int32)
    model = Model(**kinds)
    plain = [layer(x, offset=offset) for layer in model.layers]
    share_angles(model)
    for before, layer in zip(plain, model.layers, strict=True):
        after = layer(x, offset=offset)
        assert after.dtype == kind
        # a position of 8,191 has an angle with ten bits behind the point, in single precision as well
        assert mx.allclose(after, before, rtol=0, atol=2e-3 if kind == mx.float32 else 5e-2)


def test_near_the_start_it_is_exact_to_rounding():
    mx.random.seed(6)
    x = mx.random.normal((4, 2, 1, 64))
    offset = mx.array([0, 1, 2, 90], dtype=mx.int32)
    model = Model()
    before = model.layers[0](x, offset=offset)
    share_angles(model)
    assert mx.allclose(model.layers[0](x, offset=offset), before, rtol=0, atol=2e-5)


def test_angles_are_computed_once_for_a_pass_and_anew_for_the_next():
    model = Model()
    share_angles(model)
    assert {type(layer) for layer in model.layers} == {SharedRoPE}
    first, second = mx.array([3, 4]), mx.array([4, 5])
    tables = [layer.angles.at(first) for layer in model.layers]
    assert all(each is tables[0] for each in tables)
    assert model.layers[0].angles.at(second) is not tables[0]
    assert not mx.array_equal(model.layers[0].angles.at(second)[0], tables[0][0])


def test_layers_that_rotate_otherwise_keep_angles_of_their_own():
    model = Model()
    model.layers.append(nn.RoPE(64, base=1e6))
    model.layers.append(nn.RoPE(32))
    share_angles(model)
    assert len({id(layer.angles) for layer in model.layers}) == 3


@pytest.mark.parametrize(
    ("shape", "offset"),
    [((2, 3, 5, 64), 7), ((2, 3, 5, 64), mx.array([7, 9])), ((2, 3, 1, 96), mx.array([7, 9]))],
)
def test_whatever_else_is_asked_is_left_to_mlx(shape, offset):
    x = mx.random.normal(shape)
    model = Model()
    before = model.layers[0](x, offset=offset)
    share_angles(model)
    assert mx.array_equal(model.layers[0](x, offset=offset), before)
