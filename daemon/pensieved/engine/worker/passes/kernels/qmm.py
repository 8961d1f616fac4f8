"""A few rows times 4-bit weights, for CUDA.

MLX multiplies few rows by quantized weights one after the other there, and is bound by turning 4-bit numbers into
floats: on an H200, a decode step of Phi-3-mini takes 3 ms with one row and 10 ms with four (`tests/bench/step.py`), though its
weights are read in half a millisecond. Here every weight is unpacked once for all rows, and tensor cores do the rest.

The kernel: a block computes `TILES` times 16 outputs; its warps take groups of quantized weights in turn and are added up
in the end. A 4-bit number q becomes a bfloat16 by setting bits: 0x4300 | q is 128 + q. What the 128 is too much is
taken off with the group's bias, both times the sum of the row's inputs, which tensor cores find as a product by ones.

A tile's product is `mma.m16n8k16`: 16 outputs, 8 rows, 16 inputs. Which input is which of the 16 does not matter as long as
weights and rows agree: lane t of four holds inputs 16t to 16t+15 of a group, in pairs as the mask below finds them in
a word: inputs 0 and 4, 1 and 5, 2 and 6, 3 and 7.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedLinear

from pensieved.engine.worker.passes.kernels.device import on_cuda

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ROWS = 32
"""Beyond, it pays to unpack the weights into memory."""
GROUP, BITS = 64, 4
"""What the kernel is written for: mlx-lm's defaults."""
EIGHT = 8
"""Rows of a tensor core's product."""
WARPS, TILES = 8, 2
"""Warps of a block, and 16 outputs that each of them works on at once."""
ROUNDING = 0.05
"""Share of the largest output by which one may differ from MLX's."""
_SPAN = 2 * GROUP  # inputs that a warp takes at once

_HEADER = """
__device__ __forceinline__ void mma_16_8_16(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ unsigned bf16_pair(unsigned word, int place) { return (word >> (4 * place)) & 0x000f000f | 0x43004300; }
"""

_SOURCE = """
    constexpr int EIGHTS = ROWS / 8;
    const int rows = x_shape[0], width = x_shape[1], outs = weight_shape[0];
    const int groups = width / 64, words = width / 8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * TILES * 16;
    const unsigned ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};

    size_t mine[TILES][2];
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++)
        for (int half = 0; half < 2; half++) mine[tile][half] = min(first + tile * 16 + half * 8 + g, outs - 1);
    float sum[TILES][EIGHTS][4] = {};

    for (int start = warp * 2; start < groups; start += WARPS * 2) {
        uint2 packed[2][TILES][2];
        float scale[2][TILES][2], bias[2][TILES][2];
        #pragma unroll
        for (int u = 0; u < 2; u++)
            #pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    const size_t row = mine[tile][half];
                    packed[u][tile][half] = *reinterpret_cast<const uint2*>(weight + row * words + (start + u) * 8 + 2 * t);
                    scale[u][tile][half] = static_cast<float>(scales[row * groups + start + u]);
                    bias[u][tile][half] = static_cast<float>(biases[row * groups + start + u]) - 128 * scale[u][tile][half];
                }
        #pragma unroll
        for (int u = 0; u < 2; u++) {
            #pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++) {
                const T* inputs = x + (size_t)min(eight * 8 + g, rows - 1) * width + (start + u) * 64 + 16 * t;
                float total[4] = {}, part[TILES][4] = {};
                #pragma unroll
                for (int w = 0; w < 2; w++) {
                    const uint4 in = reinterpret_cast<const uint4*>(inputs)[w];
                    const unsigned b[4] = {
                        __byte_perm(in.x, in.z, 0x5410), __byte_perm(in.x, in.z, 0x7632),
                        __byte_perm(in.y, in.w, 0x5410), __byte_perm(in.y, in.w, 0x7632)};
                    #pragma unroll
                    for (int i = 0; i < 4; i += 2) {
                        mma_16_8_16(total, ones, b[i], b[i + 1]);
                        #pragma unroll
                        for (int tile = 0; tile < TILES; tile++) {
                            const unsigned upper = w ? packed[u][tile][0].y : packed[u][tile][0].x;
                            const unsigned lower = w ? packed[u][tile][1].y : packed[u][tile][1].x;
                            const unsigned a[4] = {
                                bf16_pair(upper, i), bf16_pair(lower, i), bf16_pair(upper, i + 1), bf16_pair(lower, i + 1)};
                            mma_16_8_16(part[tile], a, b[i], b[i + 1]);
                        }
                    }
                }
                #pragma unroll
                for (int tile = 0; tile < TILES; tile++)
                    #pragma unroll
                    for (int i = 0; i < 4; i++)
                        sum[tile][eight][i] += scale[u][tile][i / 2] * part[tile][i] + bias[u][tile][i / 2] * total[i % 2];
            }
        }
    }

    __shared__ float all[WARPS][TILES][EIGHTS][4][32];
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++)
        #pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++)
            for (int i = 0; i < 4; i++) all[warp][tile][eight][i][lane] = sum[tile][eight][i];
    __syncthreads();
    for (int at = threadIdx.x; at < TILES * EIGHTS * 128; at += WARPS * 32) {
        const int from = at % 32, i = at / 32 % 4, eight = at / 128 % EIGHTS, tile = at / 128 / EIGHTS;
        float value = 0;
        for (int w = 0; w < WARPS; w++) value += all[w][tile][eight][i][from];
        const int n = first + tile * 16 + i / 2 * 8 + from / 4, m = eight * 8 + from % 4 * 2 + i % 2;
        if (n < outs && m < rows) out[(size_t)m * outs + n] = static_cast<T>(value);
    }
"""


def suits(x: mx.array, layer: Any) -> bool:
    """Whether `multiply` can do it: on CUDA, a few rows, and weights quantized as most are."""
    width = x.shape[-1]
    return (
        on_cuda()
        and works()
        and (layer.bits, layer.group_size, layer.mode) == (BITS, GROUP, "affine")
        and x.size <= MOST_ROWS * width
        and width % _SPAN == 0
        and x.dtype == layer["scales"].dtype == mx.bfloat16
    )


def multiply(x: mx.array, layer: Any) -> mx.array:
    """Rows times quantized weights: (rows, outputs), without a bias.

    Args:
        x: (rows, inputs), bfloat16.
        layer: a quantized layer with `weight`, (outputs, inputs / 8), `scales` and `biases`, (outputs, inputs / 64).
    """
    rows, outputs = x.shape[0], layer["weight"].shape[0]
    rounded = EIGHT << ((rows - 1) // EIGHT).bit_length()
    (out,) = _kernel()(
        inputs=[x, layer["weight"], layer["scales"], layer["biases"]],
        template=[("T", x.dtype), ("ROWS", rounded), ("WARPS", WARPS), ("TILES", TILES)],
        grid=(-(-outputs // (TILES * 16)) * WARPS * 32, 1, 1),
        threadgroup=(WARPS * 32, 1, 1),
        output_shapes=[(rows, outputs)],
        output_dtypes=[x.dtype],
    )
    return out  # type: ignore[no-any-return]


@cache
def works() -> bool:
    """Whether this GPU can do it: found out by trying, since not all know bfloat16. Not to be asked first while a pass is traced."""
    try:
        return _is_right(3)
    except RuntimeError:  # it could not be compiled
        return False


def every_size() -> Iterator[None]:
    """Compile it for each number of rows that it is made for, one at a time."""
    rows = EIGHT
    while rows <= MOST_ROWS:
        _is_right(rows)
        yield
        rows *= 2


def _is_right(rows: int) -> bool:
    """Whether a product with a small layer is what MLX says."""
    layer = QuantizedLinear(_SPAN, 2 * EIGHT, bias=False, group_size=GROUP, bits=BITS)
    layer.set_dtype(mx.bfloat16)
    x = mx.sin(mx.arange(rows * _SPAN)).reshape(rows, -1).astype(mx.bfloat16)
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=GROUP, bits=BITS)
    expected = x @ weight.T
    wrong = mx.abs(multiply(x, layer) - expected).max()
    return bool((wrong < ROUNDING * mx.abs(expected).max()).item())


@cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="few_rows_qmm",
        input_names=["x", "weight", "scales", "biases"],
        output_names=["out"],
        header=_HEADER,
        source=_SOURCE,
    )
