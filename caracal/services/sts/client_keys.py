"""Keys that clients have registered for ``private_key_jwt`` (contract, section 5).

A set of trusted issuers' keys is read by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from caracal import jwk
from caracal.errors import Unavailable
from caracal.key_sets import KeyCache
from caracal.projections.memory import Row
from caracal.services.sts.guarded_fetch import GuardedFetch
from caracal.services.upstream_guard import UpstreamGuard

FETCH_SECONDS = 5.0


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

    The URI was chosen by who registered the application: see :class:`GuardedFetch`.
    """

    def __init__(self, guard: UpstreamGuard) -> None:
        self._fetch = GuardedFetch(guard, FETCH_SECONDS)
        # Not a second longer than 5 minutes: what a client has taken back must not serve.
        self._cache = KeyCache(self._fetch.get, parse, stale_life=0)

    async def close(self) -> None:
        """End the fetches under way."""
        await self._cache.close()
        await self._fetch.close()

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
    keys: dict[str, ClientKey | None] = {}
    for kid, key in filter(None, map(_read, entries)):
        keys[kid] = None if kid in keys else key  # of two by one name neither is meant
    return {kid: key for kid, key in keys.items() if key is not None}


def _read(entry: Any) -> tuple[str, ClientKey] | None:
    try:
        key = jwk.public_key(entry)
    except ValueError:
        return None
    kid = entry.get("kid", "")
    is_for_signatures = entry.get("use", "sig") == "sig"
    return (kid, ClientKey(key, entry)) if kid and is_for_signatures else None
