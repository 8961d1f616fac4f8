"""Where a daemon is reached from this machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pensieved.settings.keys import api_keys

if TYPE_CHECKING:
    from pensieved.settings.schema import ServerSettings


@dataclass(frozen=True)
class Address:
    """Where a daemon is reached from this machine, and a key it lets in, where it asks for one."""

    url: str
    key: str | None = field(default=None, repr=False)


def address_of(server: ServerSettings) -> Address:
    """Where a daemon with these settings is reached from this machine.

    Raises:
        ConfigError: the file of its keys cannot be read.
    """
    return Address(local_url(server.host, server.port), next(iter(api_keys(server)), None))


def local_url(host: str, port: int) -> str:
    """The URL of a listener on this machine: one on every address is reached through loopback."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")  # noqa: PLR2004  IPv6
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"  # noqa: PLR2004
