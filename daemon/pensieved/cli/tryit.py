"""The line that shows a stranger that it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pensieved.cli.address import Address


def curl_line(address: Address) -> str:
    """A request to paste into a shell; a key is the reader's to fill in."""
    key = ' -H "x-api-key: $KEY"' if address.key else ""
    return f"""\
curl -s {address.url}/v1/messages{key} -H 'content-type: application/json' -d '{{"model": "local", "max_tokens": 32,
  "temperature": 0, "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'"""
