"""Attention of rows that decode, each to as much of its keys and values as it has.

MLX's fused kernels for one query a row take no mask on CUDA, so rows of different lengths fall back to half a dozen
launches a layer, over the whole capacity. There, a kernel of our own does it in one and reads only what a row has.
Metal's fused kernel takes the mask, and on a CPU nothing is gained.

The kernel: one block for each row and query head. Its warps take keys in turn, four at a time; the lanes of a warp
share a key's width. Each warp keeps a running softmax (maximum, sum, weighted values), and in the end they are merged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx

from pensieved.engine.worker.passes.kernels.device import on_cuda

WARP = 32
WARPS = 16
"""Warps of a block."""
WIDEST = 256
"""Width of a head up to which a lane's share stays in registers."""

_SOURCE = """
    constexpr int SHARE = WIDTH / 32, AT_ONCE = 4;
    const int head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int known = offsets[row] + 1;
    const size_t capacity = keys_shape[2];
    const size_t first = ((size_t)row * KV_HEADS + head / (HEADS / KV_HEADS)) * capacity * WIDTH + lane * SHARE;
    const size_t mine = ((size_t)row * HEADS + head) * WIDTH;

    float query[SHARE], sum_values[SHARE];
    for (int i = 0; i < SHARE; i++) {
        query[i] = static_cast<float>(queries[mine + lane * SHARE + i]) * scale[0];
        sum_values[i] = 0;
    }
    float most = -1e30f, sum = 0;
    for (int start = warp * AT_ONCE; start < known; start += WARPS * AT_ONCE) {
        float score[AT_ONCE];
        #pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const size_t at = first + (size_t)min(start + u, known - 1) * WIDTH;
            score[u] = 0;
            for (int i = 0; i < SHARE; i++) score[u] += query[i] * static_cast<float>(keys[at + i]);
        }
        #pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            for (int d = 16; d; d >>= 1) score[u] += __shfl_xor_sync(0xffffffffu, score[u], d);
            if (start + u >= known) score[u] = -1e30f;
        }
        float now = most;
        for (int u = 0; u < AT_ONCE; u++) now = fmaxf(now, score[u]);
        const float keep = __expf(most - now);
        most = now;
        sum *= keep;
        for (int i = 0; i < SHARE; i++) sum_values[i] *= keep;
        #pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            if (start + u >= known) break;
            const float weight = __expf(score[u] - now);
            const size_t at = first + (size_t)(start + u) * WIDTH;
            sum += weight;
            for (int i = 0; i < SHARE; i++) sum_values[i] += weight * static_cast<float>(values[at + i]);
        }
    }

    __shared__ float all_most[WARPS], all_sum[WARPS], all_values[WARPS][WIDTH];
    if (lane == 0) {
        all_most[warp] = most;
        all_sum[warp] = sum;
    }
    for (int i = 0; i < SHARE; i++) all_values[warp][lane * SHARE + i] = sum_values[i];
    __syncthreads();
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, all_most[w]);
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += all_sum[w] * __expf(all_most[w] - most);
    for (int i = threadIdx.x; i < WIDTH; i += blockDim.x) {
        float value = 0;
        for (int w = 0; w < WARPS; w++) value += all_values[w][i] * __expf(all_most[w] - most);
        out[mine + i] = static_cast<T>(value / sum);
    }
"""


def suits(queries: mx.array, keys: mx.array, values: mx.array) -> bool:
    """Whether `attend` can do it: on CUDA, with heads of ordinary widths."""
    width = queries.shape[-1]
    return (
        on_cuda()
        and width % WARP == 0
        and width <= WIDEST
        and values.shape[-1] == keys.shape[-1] == width
        and queries.dtype == keys.dtype == values.dtype
    )


def attend(queries: mx.array, keys: mx.array, values: mx.array, offsets: mx.array, scale: float) -> mx.array:
    """Attention of one query a row to the first `offsets` + 1 positions of that row.

    Args:
        queries: (rows, heads, 1, width).
        keys: (rows, KV heads, capacity, width).
        values: like `keys`.
        offsets: (rows,), int32.
        scale: what scores are multiplied by.
    """
    rows, heads, _, width = queries.shape
    template = [("T", queries.dtype), ("WIDTH", width), ("HEADS", heads), ("KV_HEADS", keys.shape[1])]
    (out,) = _kernel()(
        inputs=[queries, keys, values, offsets, _constant(scale)],
        template=[*template, ("WARPS", WARPS)],
        grid=(heads * WARPS * WARP, rows, 1),
        threadgroup=(WARPS * WARP, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    return out  # type: ignore[no-any-return]


@cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="decode_attention",
        input_names=["queries", "keys", "values", "offsets", "scale"],
        output_names=["out"],
        source=_SOURCE,
    )


@cache
def _constant(value: float) -> mx.array:
    return mx.array([value], dtype=mx.float32)
