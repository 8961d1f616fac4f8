"""Attention of chunks on CUDA: the mask is made into what cuDNN takes, once for all heads and layers."""

import mlx.core as mx
import pytest

from pensieved.engine.worker.passes import attention
from pensieved.engine.worker.passes.attention import Attention
from pensieved.engine.worker.passes.shapes import CUDA

SCALE = 0.25


@pytest.fixture
def masks(monkeypatch):
    """What MLX's attention is asked to mask with, as on CUDA."""
    seen, plain = [], mx.fast.scaled_dot_product_attention

    def attend(*args, mask, **options):
        seen.append(mask)
        return plain(*args, mask=mask, **options)

    monkeypatch.setattr(attention, "on_cuda", lambda: True)
    monkeypatch.setattr(attention.mx.fast, "scaled_dot_product_attention", attend)
    return seen


def inputs(kind, tokens=5, positions=16):
    def made(seed, length):
        return mx.random.normal((2, 4, length, 16), key=mx.random.key(seed)).astype(kind)

    return made(1, tokens), made(2, positions), made(3, positions)


@pytest.mark.parametrize("kind", [mx.bfloat16, mx.float16], ids=str)
def test_what_is_added_hides_what_the_mask_hides(masks, kind):
    queries, keys, values = inputs(kind)
    mask = mx.arange(16) <= mx.arange(4, 9)[:, None]
    wanted = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=SCALE, mask=mask)
    found = Attention(mask, CUDA)(queries, keys, values, SCALE, None)
    assert masks[-1].dtype == kind
    assert masks[-1].shape == (5, 16)
    assert mx.isfinite(masks[-1]).all()
    assert mx.allclose(found, wanted, atol=1e-2)


def test_it_is_made_once_for_all_layers(masks):
    queries, keys, values = inputs(mx.bfloat16)
    layers = Attention(mx.arange(16) <= mx.arange(4, 9)[:, None], CUDA)
    for _ in range(3):
        layers(queries, keys, values, SCALE, None)
    assert len(masks) == 3
    assert all(mask is masks[0] for mask in masks)


def test_causal_attention_needs_none(masks):
    Attention("causal", CUDA)(*inputs(mx.bfloat16), SCALE, None)
    assert masks == ["causal"]
