"""The engine process: MLX, and nothing but token ids in and token ids out.

Started by the supervisor as ``python -m pensieved.engine.worker --fd N --lifeline N``. One thread runs the model
(`loop`), one reads frames (`link`). Importing mlx-lm takes a second, so `__main__` first secures the process's end
and then imports the rest, while the daemon does other things. `batch` is the seam to mlx-lm's generator, `loading`
brings a model into memory, `sampling` turns a request's parameters into mlx-lm's samplers and processors.
"""
