"""CUDA kernels of our own, for what MLX's backend there has none or a slow one."""
