"""What a model folder says about its chat format: the template and the special tokens' names.

Places and precedence are those of transformers: `chat_template.jinja`, then `chat_template.json`, then
`tokenizer_config.json`, whose `chat_template` is a string or a list of named templates.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pensieved.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The named special tokens of transformers, which chat templates may mention.
_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` completed by `special_tokens_map.json`; empty where neither exists."""
    return _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of the special tokens, `extra_special_tokens` with names of their own included."""
    named = {name: config.get(name) for name in _TOKEN_NAMES}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    texts = {name: _token_text(token) for name, token in named.items()}
    return {name: text for name, text in texts.items() if text is not None}


def read_chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template's source, or None for a base model."""
    jinja_file = folder / "chat_template.jinja"
    if jinja_file.is_file():
        return jinja_file.read_text(encoding="utf-8")
    template = _read_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(template, list):
        named = {str(entry["name"]): str(entry["template"]) for entry in template}
        template = named.get("default") or next(iter(named.values()), None)
    return str(template) if template else None


def _token_text(token: object) -> str | None:
    if isinstance(token, dict):  # a serialized AddedToken
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not valid JSON: {error}.") from error
    return content if isinstance(content, dict) else {}
