"""The engine process: MLX, and nothing but token ids in and token ids out.

Started by the supervisor as ``python -m pensieved.engine.worker --fd N --lifeline N``. One thread runs the model
(`loop`), one reads frames (`link`). Importing mlx-lm takes a second, so `__main__` first secures the process's end
and then imports the rest, while the daemon does other things. `loading` brings a model into memory and warms it up;
`batch` is what the loop steps. Below it:

- `runner`: mlx-lm's model and the KV caches. `flat` runs decoding rows and chunks of prompts in one pass (`onepass`,
  `shelf`, `attention`), for models with plain KV caches; `library` leaves batching to mlx-lm's caches, for all others.
- `prefill` says whose prompt comes next, `pace` how much of it those who stream can bear, `shapes` to which sizes arrays
  are rounded on this device.
- `decode` keeps the rows and reads their tokens; `choosing`, `sampling`, `constraint` and `logprobs` get from logits to
  tokens.
"""
