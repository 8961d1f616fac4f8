"""The engine's batch in this process, on a CPU, with tiny random models: what came out for whom, and from where it started."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx_lm.models import gemma3_text, llama, mamba

from pensieved.engine.protocol import Submit
from pensieved.engine.worker.batch import Batch
from pensieved.engine.worker.prompt_cache.disk import Disk
from pensieved.engine.worker.prompt_cache.folder import Folder
from pensieved.engine.worker.prompt_cache.forms import is_plain
from pensieved.engine.worker.prompt_cache.keeper import PromptCache
from pensieved.engine.worker.prompt_cache.policy import CPU, Policy

if TYPE_CHECKING:
    from pathlib import Path

    from pensieved.engine.protocol import Recalled
    from pensieved.engine.worker.passes.shapes import Shapes

VOCABULARY = 64
CPU_DEVICE = mx.Device(mx.cpu)


def text(length: int, seed: int) -> list[int]:
    """Token ids that nobody else asks for."""
    chance = random.Random(seed)
    return [chance.randrange(VOCABULARY) for _ in range(length)]


def plain_model(seed: int = 0):
    """Two layers with plain KV caches."""
    mx.set_default_device(CPU_DEVICE)
    mx.random.seed(seed)
    return llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            vocab_size=VOCABULARY,
            tie_word_embeddings=False,
        )
    )


def sliding_model(seed: int = 0):
    """Three layers, two of which see the last 24 tokens only."""
    mx.set_default_device(CPU_DEVICE)
    mx.random.seed(seed)
    return gemma3_text.Model(
        gemma3_text.ModelArgs(
            model_type="gemma3_text",
            hidden_size=32,
            num_hidden_layers=3,
            intermediate_size=64,
            num_attention_heads=2,
            head_dim=16,
            num_key_value_heads=1,
            vocab_size=VOCABULARY,
            sliding_window=24,
            sliding_window_pattern=3,
        )
    )


def state_space_model(seed: int = 0):
    """Two layers without any cache of single tokens."""
    mx.set_default_device(CPU_DEVICE)
    mx.random.seed(seed)
    return mamba.Model(
        mamba.ModelArgs(
            model_type="mamba",
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            state_size=8,
            num_hidden_layers=2,
            conv_kernel=4,
            use_bias=False,
            use_conv_bias=True,
            time_step_rank=2,
        )
    )


def begun(batch: Batch, prompt, tokens: int) -> None:
    """Have a request decode, number 100."""
    batch.insert(Submit(100, tuple(prompt), tokens, ()))
    while not any(output.request == 100 for output in batch.step()):
        pass


MODELS = {"plain": plain_model, "sliding": sliding_model, "state space": state_space_model}


@dataclass
class Answered:
    """What came of one request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    recalled: Recalled | None = None


class Machine:
    """An engine's inside.

    Args:
        model: one of the above.
        budget: bytes of the prompt cache; 0: none.
        folder: where it keeps its entries on disk, if anywhere.
    """

    def __init__(
        self,
        model,
        *,
        budget: int = 1 << 30,
        folder: Path | None = None,
        quota: int = 1 << 30,
        ttl: float = 0.0,
        fingerprint: str = "one",
        policy: Policy = CPU,
        max_concurrent: int = 4,
        chunk: int = 32,
        shapes: Shapes | None = None,
    ) -> None:
        self.recalled: list[Recalled] = []
        self.disk = Disk(Folder(folder, quota, ttl), fingerprint) if folder else None
        self.keeper = None
        if budget:
            plain = is_plain(model)
            self.keeper = PromptCache(
                plain=plain, policy=policy, budget=budget, report=self.recalled.append, disk=self.disk
            )
        self.batch = Batch(
            model,
            CPU_DEVICE,
            max_concurrent=max_concurrent,
            prefill_chunk=chunk,
            keeper=self.keeper,
            shapes=shapes,
        )
        self._ids = itertools.count(1)

    def ask(self, *prompts, max_tokens: int = 8, breakpoints=()) -> list[Answered]:
        """Greedy answers to prompts that come together."""
        running = {}
        for prompt in prompts:
            submit = Submit(
                next(self._ids),
                tuple(prompt),
                max_tokens,
                (),
                logprobs=0,
                breakpoints=tuple(breakpoints),
            )
            running[submit.request] = Answered()
            self.batch.insert(submit)
        while len(self.batch):
            for output in self.batch.step():
                running[output.request].tokens += output.tokens
                running[output.request].logprobs += [each.chosen for each in output.logprobs]
            if self.keeper is not None:
                self.keeper.write_on()
        for recalled in self.recalled:
            if recalled.request in running:
                running[recalled.request].recalled = recalled
        return list(running.values())

    def cached(self, prompt, **options) -> int:
        """How many tokens of `prompt` were taken from the cache."""
        (answered,) = self.ask(prompt, **options)
        return answered.recalled.cached

    def close(self) -> None:
        """As if the engine ended in peace."""
        if self.disk:
            self.disk.close()
