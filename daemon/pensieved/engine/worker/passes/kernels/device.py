"""Where kernels of ours can run."""

import mlx.core as mx


def on_cuda() -> bool:
    """Whether what is made now is computed by MLX's CUDA backend."""
    return bool(mx.cuda.is_available()) and mx.default_device().type == mx.DeviceType.gpu
