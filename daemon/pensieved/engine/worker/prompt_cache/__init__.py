"""The prompt cache: KV caches of prompts and answers, kept so that no prefix is computed twice.

`keeper` is what the batch talks to; it decides what is worth keeping and taking. Beneath it lie `spans` and `wholes`, which
know what there is; `memory`, which keeps it within its bytes; `forms`, which turns mlx-lm's caches into arrays and back;
and `disk`, which lets it outlive the engine.
"""
