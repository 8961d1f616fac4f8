"""The CUDA kernel for rows that decode, against MLX's own attention."""

import mlx.core as mx
import pytest

from pensieved.engine.worker.passes.kernels import attention

pytestmark = pytest.mark.skipif(not mx.cuda.is_available(), reason="a kernel for CUDA")


@pytest.mark.parametrize(
    "sizes",
    [(4, 9, 3, 64, 256), (8, 32, 32, 96, 1024), (3, 16, 4, 128, 448), (2, 8, 2, 256, 300), (1, 4, 1, 32, 64)],
)
@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16])
def test_each_row_sees_what_it_has(sizes, kind):
    rows, heads, kv_heads, width, capacity = sizes
    mx.random.seed(rows)
    queries = mx.random.normal((rows, heads, 1, width)).astype(kind)
    keys, values = (mx.random.normal((rows, kv_heads, capacity, width)).astype(kind) for _ in range(2))
    offsets = mx.array([(row * 97 + capacity - 1) % capacity for row in range(rows)], dtype=mx.int32)
    mask = mx.arange(capacity) <= offsets[:, None, None, None]
    expected = mx.fast.scaled_dot_product_attention(
        *(array.astype(mx.float32) for array in (queries, keys, values)),
        scale=width**-0.5,
        mask=mask,
        stream=mx.cpu,  # a GPU may round its float32 products to 19 bits
    )
    assert attention.suits(queries, keys, values)
    found = attention.attend(queries, keys, values, offsets, width**-0.5).astype(mx.float32)
    error = mx.linalg.norm(found - expected) / mx.linalg.norm(expected)
    assert error.item() < (1e-5 if kind == mx.float32 else 5e-3)
