"""Quantized layers that see one matrix give what they gave."""

import mlx.core as mx
import pytest
from mlx import nn

from pensieved.engine.worker.passes import quantized
from pensieved.engine.worker.passes.quantized import MatrixEmbedding, MatrixLinear, see_matrices


class Model(nn.Module):
    """One layer of each kind that there is."""

    def __init__(self, bits, mode):
        super().__init__()
        group = 32 if mode == "mxfp4" else 64
        self.linear = nn.QuantizedLinear(64, 128, bias=True, group_size=group, bits=bits, mode=mode)
        self.linear.bias = mx.random.normal((128,))
        self.embedding = nn.QuantizedEmbedding(128, 64, group_size=group, bits=bits, mode=mode)
        self.plain = nn.Linear(64, 8)


@pytest.mark.parametrize(("bits", "mode"), [(4, "affine"), (8, "affine"), (4, "mxfp4")])
@pytest.mark.parametrize("shape", [(5, 1, 64), (2, 3, 64), (1, 1, 64), (2, 40, 64), (4, 64), (64,)], ids=str)
@pytest.mark.parametrize("unpacks", [False, True])
def test_same_numbers_in_the_same_shape(monkeypatch, bits, mode, shape, unpacks):
    monkeypatch.setattr(quantized, "on_cuda", lambda: unpacks)
    mx.random.seed(3)
    model, x = Model(bits, mode), mx.random.normal(shape)
    ids = mx.array([[3, 5]])
    before = [model.linear(x), model.embedding.as_linear(x), model.embedding(ids)]
    see_matrices(model)
    assert (type(model.linear), type(model.embedding), type(model.plain)) == (
        MatrixLinear,
        MatrixEmbedding,
        nn.Linear,
    )
    after = [model.linear(x), model.embedding.as_linear(x), model.embedding(ids)]
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, None])
def test_whether_a_gpu_knows_the_kernel_is_asked_before_any_pass_and_for_quantized_models_alone(
    monkeypatch, bits
):
    asked = []
    monkeypatch.setattr(quantized, "on_cuda", lambda: True)
    monkeypatch.setattr(quantized.qmm, "works", lambda: asked.append(1))
    model = nn.Sequential(nn.Linear(64, 64))
    if bits:
        nn.quantize(model, bits=bits)
    see_matrices(model)
    assert len(asked) == bool(bits)
