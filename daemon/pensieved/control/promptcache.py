"""What the engine is to keep of prompts, and under which name: whatever a KV cache depends on is part of it."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from pensieved.engine.protocol import PromptCacheWish
from pensieved.settings.paths import PROMPTS

if TYPE_CHECKING:
    from pensieved.models.manifest import Manifest
    from pensieved.models.preparation import PreparedModel
    from pensieved.settings import Settings


def prompt_cache_wish(settings: Settings, prepared: PreparedModel) -> PromptCacheWish:
    """How much is kept for `prepared`, and where."""
    wanted = settings.prompt_cache
    digest = fingerprint(prepared.manifest, settings.engine.device)
    return PromptCacheWish(
        memory=None if wanted.memory == "auto" else wanted.memory,
        disk=wanted.disk,
        ttl=wanted.ttl,
        folder=str(settings.cache.dir / PROMPTS / f"{_model(prepared.manifest)}+{digest[:16]}"),
        fingerprint=digest,
    )


def fingerprint(manifest: Manifest, device: str) -> str:
    """A digest of everything by which two KV caches of the same tokens may differ.

    Weights, tokenizer and chat template are among the files; mlx-lm is the model's code.
    """
    depends = {
        "files": sorted((file.path, file.sha256) for file in manifest.files),
        "quantization": manifest.effective_quantization,
        "backend": manifest.backend,
        "device": device,
        "mlx-lm": version("mlx-lm"),
    }
    return hashlib.sha256(msgspec.json.encode(depends)).hexdigest()


def _model(manifest: Manifest) -> str:
    """The same for a model whose files changed: then what was kept of it before is of no use any more."""
    known = f"{manifest.source} {manifest.quantization} {manifest.backend}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]
