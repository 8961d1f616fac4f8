"""Who may come in, decided before anything of a request is read but its headers.

1. `Host` must be a name of this machine. A page on the web can make its own name resolve to 127.0.0.1 and then
   talk to this daemon as if to its own server (DNS rebinding); the name it uses gives it away.
2. `Origin`, which browsers send and clients do not, must be on the list. Without CORS headers a page could not
   read answers anyway, but it could ask, and asking costs.
3. Where keys are configured, one of them must be sent, as `x-api-key` or as `Authorization: Bearer`. What says
   nothing about models or requests stays open: the page, health and readiness, for watchdogs.

A listening address that others can reach needs keys: see `check_exposure`, which `run` asks before it binds.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import TYPE_CHECKING

from pensieved.errors import RequestError, RequestErrorKind, UsageError
from pensieved.settings.keys import api_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from pensieved.settings.schema import ServerSettings

    Header = Callable[[str], str | None]

OPEN_ROUTES = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""What needs no key."""

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/@\[\]]+))(?::[0-9]*)?")


def check_exposure(server: ServerSettings) -> None:
    """Refuse to listen where others could connect, unless they need a key.

    Raises:
        UsageError: `host` is not loopback and there is no key.
        ConfigError: the keys cannot be used; see `api_keys`.
    """
    if not api_keys(server) and not is_loopback(server.host):
        raise UsageError(
            f"server.host {server.host!r} lets other machines connect, and no API key is configured.",
            hint="Put keys into a file, one a line; chmod 600 it; name it in server.api_keys_file. "
            "Or listen on 127.0.0.1.",
        )


class Door:
    """The checks. Without keys any client of this machine may come in."""

    def __init__(self, server: ServerSettings) -> None:
        self.update(server)

    def update(self, server: ServerSettings) -> None:
        """Check by these settings from now on; the keys' file is read again. Raises ConfigError."""
        self._keys = [key.encode() for key in api_keys(server)]
        names = ("localhost", "127.0.0.1", "::1", server.host, *server.allowed_hosts)
        self._hosts = frozenset(_canonical(name) for name in names if name)
        self._everywhere = _is_wildcard(server.host)
        self._origins = frozenset(origin.lower() for origin in server.allowed_origins)

    def refusal(self, path: str, protocol: str, header: Header) -> RequestError | None:
        """Why a request may not come in, or None where it may.

        Args:
            path: as routed, without a trailing slash.
            protocol: ``HTTP/1.1`` or whatever the request line said.
            header: gives a header by its name, None where it was not sent.
        """
        return (
            self._host_refusal(header("host"), protocol)
            or self._origin_refusal(header("origin"))
            or (None if path in OPEN_ROUTES else self._key_refusal(header))
        )

    def admits_origin(self, origin: str | None) -> bool:
        """Whether a page from there may read answers."""
        return origin is not None and origin.lower() in self._origins

    def _host_refusal(self, host: str | None, protocol: str) -> RequestError | None:
        if host is None:
            # Browsers always send it, so this is nobody's rebinding; HTTP/1.1 demands it all the same.
            missing = RequestError(RequestErrorKind.INVALID, "The request has no Host header.")
            return missing if protocol == "HTTP/1.1" else None
        match = _HOST.fullmatch(host)
        name = _canonical(match[1] or match[2]) if match else ""
        # An address cannot be made to point elsewhere; only names can.
        if name in self._hosts or (self._everywhere and _address(name) is not None):
            return None
        return RequestError(
            RequestErrorKind.FORBIDDEN,
            f"This daemon does not answer to the host name {host[:100]!r}. "
            "If it is this machine's, add it to server.allowed_hosts.",
        )

    def _origin_refusal(self, origin: str | None) -> RequestError | None:
        if origin is None or self.admits_origin(origin):
            return None
        return RequestError(
            RequestErrorKind.FORBIDDEN,
            f"Web pages from {origin[:100]!r} may not use this daemon. "
            "To let them, add that origin to server.allowed_origins.",
        )

    def _key_refusal(self, header: Header) -> RequestError | None:
        if not self._keys:
            return None
        sent = [key for key in (header("x-api-key"), _bearer(header("authorization"))) if key]
        if any([self._knows(key) for key in sent]):  # noqa: C419  each is looked at, so that time says nothing
            return None
        what = "The API key is wrong." if sent else "An API key is needed, as x-api-key or as Bearer token."
        return RequestError(RequestErrorKind.AUTHENTICATION, what)

    def _knows(self, key: str) -> bool:
        candidate = key.encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(candidate, known) for known in self._keys]
        return any(matches)


def _bearer(authorization: str | None) -> str | None:
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _canonical(host: str) -> str:
    """One spelling for each host: lower case, no final dot, addresses in their short form."""
    name = host.lower().removesuffix(".")
    address = _address(name.strip("[]"))
    return str(address) if address else name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    address = _address(host)
    return address.is_loopback if address else host.lower() == "localhost"


def _is_wildcard(host: str) -> bool:
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)
