"""Which variables and values are secrets: a plist is readable by everybody (0644), so none may stand in it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_NAME = re.compile(
    r"(?:^|_)(?:TOKENS?|KEYS?|SECRETS?|PASSWORD|PASSWD|PASS|CREDENTIALS?|AUTH)$", re.IGNORECASE
)
_COUNT = re.compile(r"(?:^|_)MAX_TOKENS$", re.IGNORECASE)
_VALUE = re.compile(r"(?<![A-Za-z0-9])(?:hf_|sk-|ghp_|github_pat_|xox[abp]-|AKIA|eyJ)[A-Za-z0-9_-]{12,}")


_SWITCH = frozenset({"0", "1", "true", "false", "yes", "no", "on", "off"})


def is_secret(name: str, value: str) -> bool:
    """Whether a variable or setting holds a secret: HF_TOKEN does; HF_TOKEN_PATH and max_tokens do not."""
    named = _NAME.search(name) is not None and _COUNT.search(name) is None
    return (named and value.lower() not in _SWITCH) or holds_secret(value)


def holds_secret(value: str) -> bool:
    """Whether the text looks like a token, or carries a password in a URL."""
    if _VALUE.search(value):
        return True
    try:
        return any(urlsplit(part).password for part in value.split() if "@" in part)
    except ValueError:
        return False
