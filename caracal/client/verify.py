"""Verification of mandates at resource servers: signature, claims, scopes, revocation.

Zero leeway, exact issuer, fail closed: what cannot be proven is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from caracal import clock
from caracal.client.options import check_url
from caracal.client.revocation import RevocationStore
from caracal.errors import Forbidden, Unauthenticated
from caracal.key_sets import JwksCache
from caracal.mandate import (
    MAX_JWKS_BYTES,
    Claims,
    InvalidMandate,
    anchors_of,
    numeric_date,
    peek,
    verify,
)

MAX_HOPS = 10
_TIMEOUT = 5.0
_TEXTS = ("jti", "sub", "client_id", "sid", "root_sid", "zone_id")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mandate:
    """A mandate that has been verified; ``claims`` under their JWT names."""

    claims: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """Return whose authority it is: a user or an application."""
        return str(self.claims["sub"])

    @property
    def client_id(self) -> str:
        """Return the application that holds it."""
        return str(self.claims["client_id"])

    @property
    def scopes(self) -> frozenset[str]:
        """Return what it allows."""
        scope = self.claims.get("scope")
        return frozenset(scope.split()) if isinstance(scope, str) else frozenset()

    @property
    def agent_session_id(self) -> str | None:
        """Return the agent that it is bound to."""
        return self.claims.get("agent_session_id")

    @property
    def delegation_edge_id(self) -> str | None:
        """Return the edge that it was issued on."""
        return self.claims.get("delegation_edge_id")


class Verifier:
    """Verifies mandates for one audience in one zone.

    >>> verifier = Verifier(
    ...     issuer="https://sts.example", audience="resource://files", zone_id="zone1",
    ...     revocations=RedisRevocationStore(redis),
    ... )
    >>> mandate = await verifier.verify(token, "read")

    Args:
        issuer: the exact ``iss`` of the STS.
        audience: the resource's identifier: one of ``aud``.
        zone_id: the resource's zone.
        revocations: where revoked ids are looked up; None checks none, so a mandate lives for
            its whole 15 minutes.
        required_scopes: scopes that every mandate must have.
        sts_url: where the keys are fetched, ``issuer`` by default.
        uses: accepted classes of mandates: of one call only, by default.
        max_hops: longest delegation path.
        http_client: fetches the keys; it stays yours to close.

    Raises:
        ValueError: a URL that cannot work, or nothing to compare with.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        zone_id: str,
        revocations: RevocationStore | None,
        required_scopes: Collection[str] = (),
        sts_url: str | None = None,
        uses: Collection[str] = ("per_call",),
        max_hops: int = MAX_HOPS,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        if not (issuer and audience and zone_id):
            raise ValueError("issuer, audience and zone_id must not be empty")
        if isinstance(required_scopes, str) or isinstance(uses, str):
            raise ValueError("required_scopes and uses are collections of strings")
        base = sts_url or issuer
        check_url("sts_url", base)
        self.issuer, self.audience, self.zone_id = issuer, audience, zone_id
        self._scopes, self._uses, self._max_hops = frozenset(required_scopes), uses, max_hops
        self._revocations = revocations
        self._http = httpx.AsyncClient(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        self._keys = JwksCache(_fetcher(self._http, base), max_zones=1)

    async def verify(self, token: str, *required_scopes: str) -> Mandate:
        """Return the mandate, once everything about it is proven.

        Raises:
            Unauthenticated: 401 ``invalid_token``; the log says why, the answer does not.
            Forbidden: 403 ``missing_scope``.
            Unavailable: 503 ``sts_unavailable``, there are no keys.
        """
        try:
            claims = await self._proven(token)
            self._check(claims)
            anchors = anchors_of(claims)
        except InvalidMandate as cause:
            _log.info("mandate refused: %s", cause)
            raise _invalid() from None
        if self._revocations is not None and await self._revocations.is_any_revoked(anchors):
            _log.info("mandate %s refused: revoked", claims["jti"])
            raise _invalid()
        mandate = Mandate(claims)
        if missing := (self._scopes | set(required_scopes)) - mandate.scopes:
            raise Forbidden("missing_scope", f"needed: {' '.join(sorted(missing))}")
        return mandate

    async def verify_header(self, authorization: str | None, *required_scopes: str) -> Mandate:
        """Verify the value of an ``Authorization`` header.

        Raises:
            Unauthenticated: 401 ``missing_token`` or ``invalid_token``.
            Forbidden: 403 ``missing_scope``.
            Unavailable: 503 ``sts_unavailable``.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("missing_token", "a bearer token is needed")
        return await self.verify(token.strip(), *required_scopes)

    async def aclose(self) -> None:
        """End a fetch of keys under way; close the HTTP client, unless it was given."""
        await self._keys.close()
        if self._is_ours:
            await self._http.aclose()

    async def _proven(self, token: str) -> Claims:
        unverified = peek(token)
        if unverified.claims.get("zone_id") != self.zone_id:
            raise InvalidMandate("another zone")  # before a key is looked for
        return verify(unverified, await self._keys.keys(self.zone_id, unverified.kid))

    def _check(self, claims: Claims) -> None:
        """Check the claims of a genuine mandate.

        Raises:
            InvalidMandate: the first that does not hold.
        """
        for name in _TEXTS:
            if not (isinstance(claims.get(name), str) and claims[name]):
                raise InvalidMandate(f"no {name}")
        now = clock.now().timestamp()
        checks: Mapping[str, Callable[[], bool]] = {
            "iss": lambda: claims.get("iss") == self.issuer,
            "aud": lambda: self.audience in _texts(claims.get("aud")),
            "exp": lambda: (numeric_date(claims, "exp") or 0) > now,
            "iat": lambda: 0 < (numeric_date(claims, "iat") or 0) <= now,
            "nbf": lambda: "nbf" not in claims or (numeric_date(claims, "nbf") or now + 1) <= now,
            "use": lambda: claims.get("use") in self._uses,
            "sub_type": lambda: claims.get("sub_type") in ("user", "application"),
            # RFC 9449, section 7.2: bound to a key, never taken as a plain bearer.
            "cnf": lambda: claims.get("cnf") is None,
            "hop_count": lambda: _within(claims.get("hop_count", 0), self._max_hops),
        }
        for name, holds in checks.items():
            if not holds():
                raise InvalidMandate(f"wrong {name}")


def challenge(error: Unauthenticated | Forbidden) -> str:
    """Return the ``WWW-Authenticate`` of a refusal (RFC 6750, section 3)."""
    if error.code == "missing_token":
        return "Bearer"
    said = "insufficient_scope" if isinstance(error, Forbidden) else "invalid_token"
    return f'Bearer error="{said}"'


def _invalid() -> Unauthenticated:
    return Unauthenticated("invalid_token", "the token is not valid")


def _texts(value: object) -> Iterable[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _within(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _fetcher(http: httpx.AsyncClient, sts_url: str) -> Callable[[str], Any]:
    base = f"{sts_url.rstrip('/')}/.well-known/jwks.json?zone_id="

    async def fetch(zone_id: str) -> bytes:
        body = bytearray()
        url = base + quote(zone_id, safe="")
        try:
            async with http.stream("GET", url, timeout=_TIMEOUT, follow_redirects=False) as answer:
                if answer.status_code != 200:
                    raise ValueError(f"status {answer.status_code}")
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_JWKS_BYTES:
                        raise ValueError("key set too large")
        except httpx.HTTPError as error:
            raise OSError(str(error)) from error
        return bytes(body)

    return fetch
