"""The client as the proxy in front of us saw it (``TRUST_PROXY``).

Proxies append to ``X-Forwarded-For``, so only its last entry is the proxy's word; all before it
is the client's own. Whoever believed the first one would let each client choose the address by
which it is limited.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from caracal.services.http import App, Receive, Scope, Send, header

_ENTRY = re.compile(
    r"\[(?P<v6>[^\]]+)\](:\d{1,5})?|(?P<v4>[0-9.]+)(:\d{1,5})?|(?P<bare>[0-9a-fA-F:.]+)"
)
_FORWARDED = (b"x-forwarded-for", b"forwarded")
_SCHEMES = ("http", "https")


def behind_proxy(app: App) -> App:
    """Return ``app`` that sees the address and scheme which the nearest proxy tells.

    What is missing or malformed changes nothing.
    """

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _correct(scope)
        await app(scope, receive, send)

    return seen


def _correct(scope: Scope) -> None:
    if (address := _address(_last(scope, b"x-forwarded-for"))) is not None:
        scope.setdefault("state", {})["peer"] = scope.get("client")
        scope["client"] = (address, 0)
    if (scheme := _last(scope, b"x-forwarded-proto").lower()) in _SCHEMES:
        scope["scheme"] = scheme


def is_local(scope: Scope) -> bool:
    """Say whether the caller is on this machine.

    Behind a proxy both must be, the proxy and the client that it tells of; what says that it was
    forwarded, by a proxy that is not trusted, is not.
    """
    clients = [scope.get("client")]
    if any(header(scope, name) is not None for name in _FORWARDED):
        clients.append(scope.get("state", {}).get("peer"))
    return all(client is not None and _is_loopback(client[0]) for client in clients)


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _last(scope: Scope, name: bytes) -> str:
    values = [value for key, value in scope["headers"] if key == name]
    return values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""


def _address(entry: str) -> str | None:
    found = _ENTRY.fullmatch(entry)
    try:
        return str(ip_address(found["v6"] or found["v4"] or found["bare"])) if found else None
    except ValueError:
        return None
