"""DPoP: a token that only the holder of a key can use (RFC 9449). Pure.

A proof is a JWT that its sender signs for one request; the caller makes its ``jti`` single use.
It is good for two minutes at most, for one method and URI, and once. Whether a server wants a nonce
of its own in it (section 8) is the caller's to check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
