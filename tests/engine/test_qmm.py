"""The CUDA kernel for a few rows of quantized weights, against MLX's own product."""

import mlx.core as mx
import pytest
from mlx.nn import QuantizedLinear

from pensieved.engine.worker.passes.kernels import qmm

on_cuda_only = pytest.mark.skipif(not mx.cuda.is_available(), reason="a kernel for CUDA")


@on_cuda_only
@pytest.mark.parametrize("shape", [(3072, 3072), (9216, 3072), (3072, 8192), (1000, 128), (24, 256)])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 17, 32])
def test_a_few_rows_give_what_mlx_gives(shape, rows):
    mx.random.seed(rows)
    outputs, inputs = shape
    layer = QuantizedLinear(inputs, outputs, bias=False, group_size=64, bits=4)
    layer.set_dtype(mx.bfloat16)
    x = mx.random.normal((rows, inputs)).astype(mx.bfloat16)
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=64, bits=4, dtype=mx.float32)
    expected = mx.matmul(
        x.astype(mx.float32), weight.T, stream=mx.cpu
    )  # a GPU may round its products to 19 bits
    assert qmm.suits(x, layer)
    found = qmm.multiply(x, layer).astype(mx.float32)
    assert (mx.linalg.norm(found - expected) / mx.linalg.norm(expected)).item() < 5e-3


@on_cuda_only
def test_other_weights_and_more_rows_are_left_to_mlx():
    def layer(**kwargs):
        made = QuantizedLinear(256, 24, bias=False, **kwargs)
        made.set_dtype(mx.bfloat16)
        return made

    x = mx.zeros((8, 256), dtype=mx.bfloat16)
    assert qmm.suits(x, layer(group_size=64, bits=4))
    assert not qmm.suits(x, layer(group_size=32, bits=4))
    assert not qmm.suits(x, layer(group_size=64, bits=8))
    assert not qmm.suits(mx.zeros((33, 256), dtype=mx.bfloat16), layer(group_size=64, bits=4))
    assert not qmm.suits(x.astype(mx.float32), layer(group_size=64, bits=4))


@pytest.mark.parametrize(
    ("product", "works"),
    [(lambda x, layer: layer(x), True), (lambda x, layer: 1.2 * layer(x), False)],
)
def test_a_gpu_that_multiplies_wrongly_is_left_to_mlx(monkeypatch, product, works):
    qmm.works.cache_clear()
    monkeypatch.setattr(qmm, "multiply", product)
    assert qmm.works() == works
    qmm.works.cache_clear()


def test_a_gpu_for_which_it_cannot_be_compiled_is_left_to_mlx(monkeypatch):
    def multiply(_x, _layer):
        raise RuntimeError("Failed to compile kernel")

    qmm.works.cache_clear()
    monkeypatch.setattr(qmm, "multiply", multiply)
    monkeypatch.setattr(qmm, "on_cuda", lambda: True)
    layer = QuantizedLinear(256, 24, bias=False)
    layer.set_dtype(mx.bfloat16)
    assert not qmm.suits(mx.zeros((8, 256), dtype=mx.bfloat16), layer)
    qmm.works.cache_clear()
