"""Where the Gateway may connect to: no private address, however it is spelt or resolved.

Checked twice. :meth:`UpstreamGuard.check` judges a URL before anything is sent; the connector of
:meth:`UpstreamGuard.connector` resolves once more at the dial, and its sockets are only made for
an address that passes, so a name that has changed its mind (DNS rebinding) gets nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from caracal.errors import Forbidden
from caracal.settings import Settings

Mode = Literal["false", "loopback", "true"]
Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[Iterable[str]]]

_VERDICT_LIFE = 5.0
_MAX_VERDICTS = 1024
_PRIVATE_4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
_PRIVATE_6 = (
    "::/96",  # ::, ::1 and the deprecated IPv4-compatible form
    "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765, section 2.1)
    "64:ff9b:1::/48",  # NAT64 for local use (RFC 8215)
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",  # site-local
    "ff00::/8",
)
_PRIVATE = {4: tuple(map(ip_network, _PRIVATE_4)), 6: tuple(map(ip_network, _PRIVATE_6))}
_NAT64 = ip_network("64:ff9b::/96")


class NotAllowed(Forbidden):
    """403: the upstream, or an address that its name resolves to, may not be connected to."""

    def __init__(self, reason: str) -> None:
        super().__init__("access_denied", "upstream not allowed")
        self.reason = reason


class UpstreamGuard:
    """The rules for upstreams of one process.

    Args:
        mode: ``false`` public addresses only, ``loopback`` also loopback, ``true`` any.
        allowlist: exact host names, or empty for any.
        lookup: resolves (host, port) to addresses as text; raises ``OSError``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        mode: Mode = "false",
        allowlist: Iterable[str] = (),
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode = mode
        self._allowlist = frozenset(host.lower() for host in allowlist)
        self._lookup = lookup or _getaddrinfo
        self._clock = clock
        self._passed: OrderedDict[str, float] = OrderedDict()

    async def check(self, url: URL) -> None:
        """Pass ``url`` if it may be called.

        A name that has passed is not resolved again for 5 s: only connections whose address was
        checked at the dial can be reused meanwhile.

        Raises:
            NotAllowed: scheme, user info, host, allowlist, resolution or one of the addresses.
        """
        host = self._host(url)
        if self._passed.get(host, 0.0) > self._clock():
            return
        await self.resolve(host, url.port or 0)
        self._passed[host] = self._clock() + _VERDICT_LIFE
        self._passed.move_to_end(host)
        if len(self._passed) > _MAX_VERDICTS:
            self._passed.popitem(last=False)

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of ``host``, all of which pass.

        Raises:
            NotAllowed: it does not resolve, or to an address that does not pass.
        """
        if (literal := _literal(host)) is not None:
            addresses = [str(literal)]
        elif _looks_numeric(host):
            raise NotAllowed("host is a number but no canonical address")
        else:
            addresses = await self._resolved(host, port)
        for address in addresses:
            if not self.allows(address):
                raise NotAllowed(f"{host} resolves to {address}")
        return addresses

    def allows(self, address: str) -> bool:
        """Whether ``address`` (IPv4 or IPv6 as text) may be connected to."""
        literal = _literal(address)
        if literal is None or self._mode == "true":
            return literal is not None
        plain = _unmapped(literal)
        return is_public(plain) or (self._mode == "loopback" and plain.is_loopback)

    def connector(self, **options: Any) -> aiohttp.TCPConnector:
        """Return a connector that dials checked addresses only; ``options`` go to aiohttp."""
        return aiohttp.TCPConnector(
            resolver=_CheckedResolver(self),
            use_dns_cache=False,
            socket_factory=self._socket,
            **options,
        )

    def session(self, connections: int, per_host: int, **options: Any) -> aiohttp.ClientSession:
        """Return a session for calls of ours to what others have named; ``options`` to aiohttp.

        No cookies, no proxies of the environment, and the certificates that the system trusts.
        """
        connector = self.connector(
            limit=connections, limit_per_host=per_host, ssl=ssl.create_default_context()
        )
        cookies = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=cookies, trust_env=False, **options
        )

    def _host(self, url: URL) -> str:
        if url.scheme not in ("http", "https"):
            raise NotAllowed("scheme is not http or https")
        if "@" in url.raw_authority:
            raise NotAllowed("user info in the URL")
        host = (url.raw_host or "").lower()
        if not host or not host.isascii():
            raise NotAllowed("no host, or one that is not in its ASCII form")
        if self._allowlist and host not in self._allowlist:
            raise NotAllowed("host is not on the allowlist")
        return host

    async def _resolved(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(await self._lookup(host, port))
        except (OSError, UnicodeError) as error:
            raise NotAllowed(f"{host} does not resolve") from error
        if not addresses:
            raise NotAllowed(f"{host} does not resolve")
        return addresses

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Last gate, right before each connect; literal addresses never meet a resolver."""
        family, kind, protocol, _, address = info
        if not self.allows(address[0]):
            raise PermissionError(f"upstream address {address[0]} not allowed")
        return socket.socket(family, kind, protocol)


class _CheckedResolver(AbstractResolver):
    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._guard.resolve(host, port)
        except NotAllowed as refusal:
            raise PermissionError(refusal.reason) from refusal
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def is_public(address: Address) -> bool:
    """Whether ``address`` lies in none of the ranges that are not public (Gateway contract §8).

    Forms that carry an IPv4 address (mapped, NAT64, 6to4, Teredo) count as what they carry.
    """
    if any(address in block for block in _PRIVATE[address.version]):
        return False
    return all(map(is_public, _carried(address)))


def _carried(address: Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    if address.teredo:
        return list(address.teredo)
    embedded = address.ipv4_mapped or address.sixtofour
    return [embedded] if embedded else []


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _looks_numeric(host: str) -> bool:
    """A C library takes 2130706433, 127.1 and 0x7f.1 for addresses (WHATWG URL, section 3.5)."""
    last = host.rstrip(".").rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


async def _getaddrinfo(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def public_only(settings: Settings, hosts: Iterable[str] = ()) -> UpstreamGuard:
    """Return the guard of what we fetch for ourselves: public addresses, whoever named the URL.

    In runtime mode ALLOW_PRIVATE_UPSTREAMS opens private addresses to the Gateway alone: its
    upstreams are called with a mandate, but these with secrets, or for keys that let clients in.
    """
    mode = "false" if settings.is_runtime else settings.allow_private_upstreams
    return UpstreamGuard(mode, hosts)
