"""Keys that clients have registered for ``private_key_jwt`` (contract, section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from caracal import jwk
from caracal.errors import Unavailable
from caracal.key_sets import KeyCache
from caracal.projections.memory import Row
from caracal.services.jwks import bounded
from caracal.services.upstream_guard import NotAllowed, UpstreamGuard

FETCH_SECONDS = 5.0
MAX_BYTES = 64 * 1024
_CONNECTIONS, _PER_HOST = 20, 2


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A registered key and what its JWK says it is for."""

    key: jwk.PublicKey
    entry: Mapping[str, Any]

    def may_verify(self, alg: str) -> bool:
        """Say whether the key is for signatures of this algorithm."""
        return jwk.may_verify(self.entry, alg)


Keys = Mapping[str, ClientKey]


class ClientKeys:
    """Finds the key of an application; those behind a ``jwks_uri`` are fetched and kept 5 min.

    The URI was chosen by who registered the application: it is fetched as an upstream is called,
    to public addresses only, and never followed elsewhere.
    """

    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard
        self._session = guard.session(
            _CONNECTIONS, _PER_HOST, timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)
        )
        # Not a second longer than 5 minutes: what a client has taken back must not serve.
        self._cache = KeyCache(self._fetch, parse, stale_life=0)

    async def close(self) -> None:
        """End the fetches under way."""
        await self._cache.close()
        await self._session.close()

    async def find(self, application: Row, kid: str) -> ClientKey | None:
        """Return the key of this id; None without one, also when it cannot be fetched."""
        if application["jwks"] is not None:
            return _of(application["jwks"]["keys"]).get(kid)
        if application["jwks_uri"] is None:
            return None
        try:
            return (await self._cache.keys(application["jwks_uri"], kid)).get(kid)
        except Unavailable:
            return None

    async def _fetch(self, uri: str) -> bytes:
        url = URL(uri)
        if url.scheme != "https":
            raise NotAllowed("scheme is not https")
        await self._guard.check(url)
        headers = {"Accept": "application/json", "User-Agent": "caracal-sts"}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ValueError(f"status {answer.status}")
                return await bounded(answer.content, MAX_BYTES)
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error


def parse(body: bytes) -> Keys:
    """Return the acceptable keys of a JWK Set (RFC 7517, section 5); others are passed over.

    Raises:
        ValueError: not a JWK Set, or no acceptable key in it.
    """
    document = orjson.loads(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    keys = _of(entries) if isinstance(entries, list) else {}
    if not keys:
        raise ValueError("no acceptable key")
    return keys


def _of(entries: Iterable[Any]) -> dict[str, ClientKey]:
    return {kid: key for kid, key in map(_read, entries) if key is not None}


def _read(entry: Any) -> tuple[str, ClientKey | None]:
    try:
        key = jwk.public_key(entry)
    except ValueError:
        return "", None
    kid = entry.get("kid", "")
    return kid, ClientKey(key, entry) if kid else None
