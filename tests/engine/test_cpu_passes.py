"""What an x86 CPU computes in its own way gives what MLX's way gives."""

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models import activations, llama

from pensieved.engine.worker.passes.attention import Attention
from pensieved.engine.worker.passes.cpu import attention, device, linear, numbers
from pensieved.engine.worker.passes.cpu.linear import FewRowsLinear, multiply_few_rows
from pensieved.engine.worker.passes.cpu.meanwhile import computed_meanwhile
from pensieved.engine.worker.passes.cpu.powers import (
    PER_UNIT,
    activate_by_powers,
    power_of_two,
    swiglu,
)
from pensieved.engine.worker.passes.shapes import CPU

needs_x86 = pytest.mark.skipif(not device.on_x86(), reason="for a CPU that is x86")


def test_a_power_of_two_is_as_exact_as_an_exponential():
    x = mx.linspace(-87, 20, 10001)
    wanted, found = mx.exp(x.astype(mx.float64), stream=mx.cpu), power_of_two(x * PER_UNIT)
    assert mx.max(mx.abs(found - wanted) / wanted).item() < 1e-5


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("near", [1, 200, 1 << 17])
def test_the_activation_is_mlx_lms(monkeypatch, kind, at_once, near):
    monkeypatch.setattr(numbers, "NEAR", near)
    monkeypatch.setattr(numbers, "LEAST", 1)
    monkeypatch.setattr(numbers.openblas, "threads", lambda: 3)
    gate, x = (mx.random.normal((5, 1, 96), key=mx.random.key(seed)).astype(kind) * 9 for seed in (1, 2))
    wanted = activations.swiglu(gate, x)
    mx.eval(wanted)
    with computed_meanwhile(at_once):
        found = swiglu(gate * 1, x)
    assert found.dtype == wanted.dtype
    assert mx.allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at_once", [True, False])
def test_the_activation_bears_any_gate(monkeypatch, at_once):
    monkeypatch.setattr(numbers, "LEAST", 1)
    gate = mx.array([[-1e4, -200.0, -88.0, 0.0, 88.0, 200.0, 1e4]])
    wanted = mx.maximum(gate, 0.0)
    mx.eval(wanted)
    with computed_meanwhile(at_once):
        found = swiglu(gate, mx.ones_like(gate))
    assert mx.allclose(found, wanted, atol=1e-5)


def test_of_a_part_of_an_array_nothing_is_written_over(monkeypatch):
    monkeypatch.setattr(numbers, "LEAST", 1)
    both = mx.random.normal((4, 1, 32), key=mx.random.key(1))
    before = mx.array(both)
    gate, x = mx.split(both, 2, axis=-1)
    mx.eval(both, before, gate, x)
    with computed_meanwhile(True):
        found = swiglu(gate, x)
    assert mx.allclose(found, activations.swiglu(*mx.split(before, 2, axis=-1)), rtol=1e-5, atol=1e-5)
    assert mx.array_equal(both, before)


def test_a_models_layers_find_the_activation(monkeypatch):
    monkeypatch.setattr(llama, "swiglu", activations.swiglu)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama", num_hidden_layers=1, rms_norm_eps=1e-5, vocab_size=16, rope_theta=1e4, **sizes
        )
    )
    activate_by_powers(model)
    assert llama.swiglu is swiglu


@needs_x86
def test_scores_of_any_size_are_weighed():
    queries, keys = mx.full((1, 1, 1, 4), 1e3), mx.array([[[[1e3] * 4, [-1e3] * 4, [1e3] * 4]]])
    values = mx.array([[[[1.0] * 4, [5.0] * 4, [3.0] * 4]]])
    assert mx.allclose(Attention("causal", CPU)(queries, keys, values, 1.0, None), mx.full((1, 1, 1, 4), 2.0))


def test_other_numbers_and_sinks_are_left_to_mlx(monkeypatch):
    monkeypatch.setattr(attention, "attend", lambda *_: pytest.fail("not for these"))
    queries, keys = mx.random.normal((1, 2, 3, 8)), mx.random.normal((1, 2, 3, 8))
    halves = queries.astype(mx.bfloat16), keys.astype(mx.bfloat16)
    mx.eval(Attention("causal", CPU)(halves[0], halves[1], halves[1], 1.0, None))
    mx.eval(Attention("causal", CPU)(queries, keys, keys, 1.0, mx.zeros((2,))))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(48, 20, bias=False)
        self.biased = nn.Linear(48, 20)
        self.quantized = nn.QuantizedLinear(64, 8)


@pytest.mark.parametrize(
    "shape", [(5, 1, 48), (2, 3, 48), (1, 1, 48), (64, 1, 48), (65, 1, 48), (4, 48), (48,)]
)
@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16], ids=str)
def test_weights_first_gives_the_same_in_the_same_shape(shape, kind):
    model, x = Layers(), mx.random.normal(shape).astype(kind)
    model.set_dtype(kind)
    before = [model.plain(x), model.biased(x)]
    multiply_few_rows(model)
    assert [type(model.plain), type(model.biased)] == [FewRowsLinear] * 2
    assert type(model.quantized) is nn.QuantizedLinear
    for one, other in zip(before, [model.plain(x), model.biased(x)], strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_many_rows_are_multiplied_as_ever(monkeypatch):
    taken = []
    theirs = nn.Linear.__call__
    monkeypatch.setattr(nn.Linear, "__call__", lambda self, x: taken.append(x.shape[0]) or theirs(self, x))
    model = Layers()
    multiply_few_rows(model)
    for rows in (1, linear.MOST_ROWS, linear.MOST_ROWS + 1):
        mx.eval(model.plain(mx.zeros((rows, 1, 48))))
    assert taken == [linear.MOST_ROWS + 1]
