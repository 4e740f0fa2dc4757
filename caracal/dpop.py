"""DPoP: a token that only the holder of a key can use (RFC 9449). Pure.

A proof is a JWT that its sender signs for one request; the caller makes its ``jti`` single use.
It is good for two minutes at most, for one method and URI, and once. Whether a server wants a nonce
of its own in it (section 8) is the caller's to check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

from caracal import jwk
from caracal.foreign_jwt import ForeignJwt, taken_apart
from caracal.mandate import encode_base64url, numeric_date

WINDOW = 60.0
"""Seconds that ``iat`` may lie before or after our time (section 11.1)."""
USE_SECONDS = 180
"""How long a used proof is remembered: it may be good for two minutes, and clocks differ."""

_TYPES = ("dpop+jwt",)
_PORTS = {"http": 80, "https": 443}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, section 2.3


class InvalidProof(ValueError):
    """The proof does not prove that its sender holds the key for this request."""


class Unproven(InvalidProof):
    """Who sends a token is not shown to be its holder.

    Attributes:
        code: what a resource server answers (section 7.1): ``invalid_token``, or
            ``invalid_dpop_proof`` when it is the proof that does not hold.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def challenge(self) -> str:
        """Return the ``WWW-Authenticate`` that goes with it."""
        return challenge(self.code)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that brings a token by the scheme ``DPoP``, as far as a proof speaks of it.

    Attributes:
        method: of the request.
        uri: what it was sent to, as its sender says it; query and fragment do not count.
        proofs: values of its ``DPoP`` headers.
    """

    method: str
    uri: str
    proofs: Sequence[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof whose signature fits.

    Attributes:
        jkt: thumbprint of its key (RFC 7638).
        use: names this very proof, to be taken once.
        nonce: of a server, that it was made with.
    """

    jkt: str
    use: str
    nonce: str | None = None


def check(
    sent: Sequence[bytes], *, method: str, uri: str, now: float, token: str | None = None
) -> Proof:
    """Return the proof of a request (section 4.3).

    Args:
        sent: values of its ``DPoP`` headers.
        method: of the request.
        uri: what the request was sent to.
        now: Unix seconds.
        token: access token that it carries, when it calls a resource.

    Raises:
        InvalidProof: not one proof, or none for this request.
    """
    proof = _read(sent)
    claims, entry = proof.claims, proof.header.get("jwk", {})
    try:
        key = jwk.public_key(entry)
    except ValueError as error:
        raise InvalidProof(str(error)) from None
    if not jwk.may_verify(entry, proof.alg) or not proof.is_signed_by(key):
        raise InvalidProof("wrong signature")
    if claims.get("htm") != method or _normal(claims.get("htu")) != _normal(uri):
        raise InvalidProof("for another request")
    issued_at = numeric_date(claims, "iat")
    if issued_at is None or not abs(now - issued_at) <= WINDOW:
        raise InvalidProof("not made just now")
    if token is not None and not _is_of(token, claims):
        raise InvalidProof("for another token")
    jkt = jwk.thumbprint(key)
    use = sha256(f"{jkt}\n{proof.jti}".encode("utf-8", "surrogatepass")).hexdigest()
    nonce = claims.get("nonce")
    return Proof(jkt, use, nonce if isinstance(nonce, str) else None)


def holder(claims: Mapping[str, Any], token: str, sent: Sent | None, now: float) -> Proof | None:
    """Return the proof that the sender of a token holds its key; None: it is bound to none.

    Whether the proof was used before is the caller's to look at.

    Args:
        claims: of the token, verified.
        token: as it was sent.
        sent: the request; None: the token came as ``Bearer``.
        now: Unix seconds.

    Raises:
        Unproven: bound and sent as ``Bearer`` (section 7.2), not bound and sent as ``DPoP``, bound
            to another key, or the proof is none for this request.
    """
    bound = bound_to(claims)
    if bound is None and sent is None:
        return None
    if bound is None or sent is None:
        scheme = "Bearer" if bound is None else "DPoP"
        raise Unproven("invalid_token", f"the token is to be sent as {scheme}")
    try:
        proof = check(sent.proofs, method=sent.method, uri=sent.uri, now=now, token=token)
    except InvalidProof as error:
        raise Unproven("invalid_dpop_proof", f"DPoP proof: {error}") from None
    if proof.jkt != bound:
        raise Unproven("invalid_token", "the token is bound to another key")
    return proof


def challenge(code: str = "") -> str:
    """Return the challenge of the scheme, for a refusal with this code (section 7.1)."""
    error = f'error="{code}", ' if code else ""
    return f'DPoP {error}algs="{" ".join(jwk.ALGORITHMS)}"'


def bound_to(claims: Mapping[str, Any]) -> str | None:
    """Return the thumbprint of the key that a token is bound to (section 6.1); None: to none.

    Bound to something else it is bound to what no key has: the empty text.
    """
    confirmation = claims.get("cnf")
    if confirmation is None:
        return None
    jkt = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    return jkt if isinstance(jkt, str) else ""


def _read(sent: Sequence[bytes]) -> ForeignJwt:
    if len(sent) != 1 or not sent[0].isascii():
        raise InvalidProof("not one proof")
    proof = taken_apart(sent[0].decode("ascii").strip(), _TYPES)
    if proof is None or proof.jti is None:
        raise InvalidProof("malformed")
    return proof


def _is_of(token: str, claims: Mapping[str, Any]) -> bool:
    digest, ath = encode_base64url(sha256(token.encode()).digest()), claims.get("ath")
    return isinstance(ath, str) and compare_digest(digest, ath.encode("utf-8", "surrogatepass"))


def _normal(uri: Any) -> tuple[str, str, int | None, str] | None:
    """RFC 3986, sections 6.2.2 and 6.2.3; query and fragment do not count."""
    try:
        parts = urlsplit(uri if isinstance(uri, str) else "")
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
        port = parts.port or _PORTS.get(scheme)
    except ValueError:
        return None
    if scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    return scheme, host, port, _ESCAPE.sub(_escape, parts.path) or "/"


def _escape(found: re.Match[str]) -> str:
    plain = chr(int(found[1], 16))
    return plain if _UNRESERVED.fullmatch(plain) else found[0].upper()
