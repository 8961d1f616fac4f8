"""A prepared folder's tokenizer: always a tokenizer.json, and what mlx-lm knows about it as plain facts.

The daemon tokenizes with the `tokenizers` package alone; all that needs transformers happens here, once.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from pensieved.errors import UnsupportedModelError
from pensieved.models.manifest import TokenizerFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
_LEGACY_TEMPLATE = "chat_template.json"
_SANE_LENGTH = 10**8  # tokenizer configs write 1e30 for "not known"
_DEFAULT_CONTEXT = 4096
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "max_seq_len",
)


def complete_tokenizer(folder: Path, name: str, *, trust_remote_code: bool) -> None:
    """Build in `folder` what it lacks of tokenizer.json, its configuration and a reachable chat template.

    Raises:
        UnsupportedModelError: the source's tokenizer cannot be turned into a tokenizer.json.
    """
    if not (folder / TOKENIZER).exists() or not (folder / TOKENIZER_CONFIG).exists():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            scratch = folder / ".tokenizer"
            tokenizer.save_pretrained(scratch)
        except Exception as error:
            raise UnsupportedModelError(f"The tokenizer of {name} cannot be read: {error}.") from error
        for path in scratch.iterdir():
            if path.suffix in {".json", ".jinja"} and not (folder / path.name).exists():
                path.rename(folder / path.name)
        shutil.rmtree(scratch)
    if not (folder / TOKENIZER).exists():
        raise UnsupportedModelError(
            f"The tokenizer of {name} has no fast version, so there is no {TOKENIZER} to serve it with.",
            hint="Use a version of the model that ships tokenizer.json.",
        )
    _reach_template(folder)


def _reach_template(folder: Path) -> None:
    """Some models keep their template in chat_template.json, where mlx-lm does not look."""
    legacy = folder / _LEGACY_TEMPLATE
    config = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    if legacy.exists() and not (folder / TEMPLATE).exists() and "chat_template" not in config:
        template = json.loads(legacy.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, str):
            (folder / TEMPLATE).write_text(template, encoding="utf-8")


def tokenizer_facts(
    folder: Path, config: Mapping[str, Any], name: str
) -> tuple[TokenizerFacts, tuple[int, ...], list[int]]:
    """What mlx-lm infers, the ids that end an answer, and a few ids to try the model with."""
    try:
        tokenizer = load_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UnsupportedModelError(f"The tokenizer of {name} cannot be loaded: {error}.") from error
    facts = TokenizerFacts(
        has_chat_template=bool(tokenizer.has_chat_template),
        think_start=tokenizer.think_start or "",
        think_end=tokenizer.think_end or "",
        tool_parser=tokenizer.init_kwargs.get("tool_parser_type") or "",
        tool_call_start=tokenizer.tool_call_start or "",
        tool_call_end=tokenizer.tool_call_end or "",
    )
    trial = list(tokenizer.encode("Hello")) or [0]
    return facts, tuple(sorted(tokenizer.eos_token_ids)), trial


def context_length(folder: Path, config: Mapping[str, Any]) -> int:
    """The longest context the model was made for, in tokens."""
    for source in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(source.get(key), int):
                return int(source[key])
    limit = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8")).get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and limit < _SANE_LENGTH else _DEFAULT_CONTEXT
