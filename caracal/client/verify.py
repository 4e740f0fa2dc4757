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
from caracal.client.proofs import InMemoryProofs, ProofMemory
from caracal.client.revocation import RevocationStore
from caracal.dpop import USE_SECONDS, Proof, Sent, Unproven, holder
from caracal.dpop import challenge as dpop_challenge
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
        public_url: what callers call this server, without the path. Needed for mandates that are
            bound to a key (DPoP, RFC 9449): a proof names what it was made for. Without it they
            are refused, unless the request is given to :meth:`verify`.
        proofs: remembers used proofs, in this process by default; replicas share
            ``RedisProofs``.
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
        public_url: str | None = None,
        proofs: ProofMemory | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        if not (issuer and audience and zone_id):
            raise ValueError("issuer, audience and zone_id must not be empty")
        if isinstance(required_scopes, str) or isinstance(uses, str):
            raise ValueError("required_scopes and uses are collections of strings")
        base = sts_url or issuer
        check_url("sts_url", base)
        if public_url is not None:
            check_url("public_url", public_url)
        self.public_url = public_url and public_url.rstrip("/")
        self._proofs: ProofMemory = InMemoryProofs() if proofs is None else proofs
        self.issuer, self.audience, self.zone_id = issuer, audience, zone_id
        self._scopes, self._uses, self._max_hops = frozenset(required_scopes), uses, max_hops
        self._revocations = revocations
        self._http = httpx.AsyncClient(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        self._keys = JwksCache(_fetcher(self._http, base), max_zones=1)

    async def verify(self, token: str, *required_scopes: str, sent: Sent | None = None) -> Mandate:
        """Return the mandate, once everything about it is proven.

        Args:
            token: the mandate.
            required_scopes: scopes that it must have.
            sent: the request, of a mandate that came by the scheme ``DPoP``: then it must be
                bound to a key, and the request prove that its sender holds it (RFC 9449, section
                4.3), once. Without, the mandate must be bound to none.

        Raises:
            Unauthenticated: 401 ``invalid_token``; the log says why, the answer does not. Of who
                sends a bound mandate it does, and so do ``invalid_dpop_proof``.
            Forbidden: 403 ``missing_scope``.
            Unavailable: 503 ``sts_unavailable``, there are no keys; ``unavailable``, whether a
                proof was used before cannot be known.
        """
        try:
            claims = await self._proven(token)
            self._check(claims)
            anchors = anchors_of(claims)
            proof = holder(claims, token, sent, clock.now().timestamp())
        except InvalidMandate as cause:
            _log.info("mandate refused: %s", cause)
            raise _invalid(sent) from None
        except Unproven as cause:
            _log.info("mandate refused: %s", cause)
            raise SenderUnproven(cause.code, str(cause)) from None
        if self._revocations is not None and await self._revocations.is_any_revoked(anchors):
            _log.info("mandate %s refused: revoked", claims["jti"])
            raise _invalid(sent)
        mandate = Mandate(claims)
        if missing := (self._scopes | set(required_scopes)) - mandate.scopes:
            raise Forbidden("missing_scope", f"needed: {' '.join(sorted(missing))}")
        await self._use(proof)  # last: what is refused for another reason uses no proof up
        return mandate

    async def verify_header(
        self, authorization: str | None, *required_scopes: str, sent: Sent | None = None
    ) -> Mandate:
        """Verify the value of an ``Authorization`` header: ``Bearer …`` or ``DPoP …``.

        Args:
            authorization: the value.
            required_scopes: scopes that the mandate must have.
            sent: the request, for what comes by ``DPoP``; without, that is refused.

        Raises:
            Unauthenticated: 401 ``missing_token``, ``invalid_token``, ``invalid_dpop_proof``.
            Forbidden: 403 ``missing_scope``.
            Unavailable: 503 ``sts_unavailable``, ``unavailable``.
        """
        scheme, _, token = (authorization or "").strip().partition(" ")
        scheme, token = scheme.lower(), token.strip()
        if scheme not in ("bearer", "dpop") or not token:
            raise _missing(takes_bound=self.public_url is not None)
        if scheme == "bearer":
            return await self.verify(token, *required_scopes)
        if sent is None:
            _log.warning("mandate refused: bound to a key, and public_url is not set")
            raise SenderUnproven("invalid_token", "bound tokens are not accepted here")
        return await self.verify(token, *required_scopes, sent=sent)

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

    async def _use(self, proof: Proof | None) -> None:
        if proof is not None and not await self._proofs.is_first(proof.use, USE_SECONDS):
            _log.info("mandate refused: DPoP proof used before")
            raise SenderUnproven("invalid_dpop_proof", "DPoP proof: used before")

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
            "hop_count": lambda: _within(claims.get("hop_count", 0), self._max_hops),
        }
        for name, holds in checks.items():
            if not holds():
                raise InvalidMandate(f"wrong {name}")


class SenderUnproven(Unauthenticated):
    """401: who sends a mandate does not show the key that it is bound to (RFC 9449, 7.1)."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code, description)
        self.authenticate = dpop_challenge(code)


def challenge(error: Unauthenticated | Forbidden) -> str:
    """Return the ``WWW-Authenticate`` of a refusal (RFC 6750, section 3; RFC 9449, 7.1)."""
    if isinstance(error, SenderUnproven) or error.code == "missing_token":
        return getattr(error, "authenticate", "Bearer")
    said = "insufficient_scope" if isinstance(error, Forbidden) else "invalid_token"
    return f'Bearer error="{said}"'


def _invalid(sent: Sent | None) -> Unauthenticated:
    kind = Unauthenticated if sent is None else SenderUnproven
    return kind("invalid_token", "the token is not valid")


def _missing(*, takes_bound: bool) -> Unauthenticated:
    error = Unauthenticated("missing_token", "a token is needed")
    if takes_bound:
        error.authenticate = f"Bearer, {dpop_challenge()}"
    return error


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
