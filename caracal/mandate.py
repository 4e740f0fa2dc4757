"""The mandate: a JWT (RFC 7519) signed with ES256 by a zone's key, and what hangs on it.

One algorithm, no negotiation: any other ``alg`` is refused before a key is looked at (RFC 8725,
section 3.1). Keys are python-jose's, made once and picked by ``kid``; parsing is ours because
jose's base64 skips foreign characters, which would give one token many spellings.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, Literal, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jose import jwk
from jose.exceptions import JWKError

MAX_TOKEN_BYTES = 4096
MAX_JWKS_BYTES = 256 * 1024
_ALG = "ES256"
_MAX_HEADER = 512
_MAX_KID = 128

Claims = dict[str, Any]
Typ = Literal["JWT", "at+jwt"]


class InvalidMandate(ValueError):
    """The token is not a mandate signed by one of the keys. The text is for the log."""


class VerificationKey(Protocol):
    """What a cached key does; python-jose's ``ECKey`` is one."""

    def verify(self, msg: bytes, sig: bytes) -> bool: ...


Keys = Mapping[str, VerificationKey]


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart. Nothing in it is proven until :func:`verify` has said so."""

    claims: Claims
    header: bytes
    signed: bytes
    signature: bytes

    @property
    def kid(self) -> str:
        """Return the id of the signing key named in the header.

        Raises:
            InvalidMandate: another algorithm than ES256, no ``kid``, or a ``crit`` member.
        """
        return _read_header(self.header)


def peek(token: str, limit: int = MAX_TOKEN_BYTES) -> Unverified:
    """Take ``token`` apart without verifying it: at most ``limit`` bytes, three parts, JSON object.

    Raises:
        InvalidMandate: it is not of that form.
    """
    if len(token) > limit or not token.isascii():
        raise InvalidMandate("token too large or not ASCII")
    signed, _, signature = token.encode().rpartition(b".")
    header, dot, payload = signed.partition(b".")
    if not dot or b"." in payload:
        raise InvalidMandate("not three parts")
    return Unverified(json_object(payload), header, signed, signature)


def verify(token: str | Unverified, keys: Keys) -> Claims:
    """Return the claims of ``token`` once its signature is proven; times are not checked.

    Raises:
        InvalidMandate: malformed, not ES256, unknown ``kid``, or a wrong signature.
    """
    parts = peek(token) if isinstance(token, str) else token
    key = keys.get(parts.kid)
    if key is None:
        raise InvalidMandate("unknown kid")
    signature = decode_base64url(parts.signature)
    if len(signature) != 64 or not key.verify(parts.signed, signature):
        raise InvalidMandate("wrong signature")
    return parts.claims


def anchors_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return every id whose end must end the mandate (table "Anchors" of the STS contract).

    Raises:
        InvalidMandate: a claim that holds anchors has another type; it could hide one.
    """
    found = [claims.get(name) for name in _SINGLE]
    found += _listed(claims, "delegation_path") + _listed(claims, "anchors")
    for hop in _listed(claims, "delegation_chain"):
        if not isinstance(hop, dict):
            raise InvalidMandate("malformed delegation_chain")
        found += (hop.get("session"), hop.get("edge"))
    held = [anchor for anchor in found if anchor]
    if not all(isinstance(anchor, str) for anchor in held):
        raise InvalidMandate("malformed anchors")
    return frozenset(held)


_SINGLE = ("sid", "root_sid", "client_id", "zone_id", "agent_session_id", "delegation_edge_id")


def _listed(claims: Mapping[str, Any], name: str) -> list[Any]:
    value = claims.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidMandate(f"malformed {name}")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return claim ``name`` as seconds since 1970 (RFC 7519, section 2), ``None`` if it is none."""
    value = claims.get(name)
    return value if type(value) in (int, float) else None


def begins(claims: Mapping[str, Any]) -> float:
    """Return from when a token holds, seconds since 1970 (RFC 7519, section 4.1.5).

    Ours have no ``nbf`` and hold at once; with one that is no time a token never does.
    """
    if "nbf" not in claims:
        return 0.0
    begin = numeric_date(claims, "nbf")
    return inf if begin is None else begin


class SigningKey:
    """A zone's private key. Signing costs what the curve costs: header and key are made once.

    ``typ`` is of the tokens' header; who reads them takes either (RFC 9068, section 2.1).
    """

    def __init__(self, kid: str, private: ec.EllipticCurvePrivateKey, typ: Typ = "JWT") -> None:
        if not isinstance(private.curve, ec.SECP256R1):
            raise ValueError("signing key is not on P-256")
        self.kid = kid
        self._private = private
        self._key = jwk.construct(private, _ALG)
        self._header = encode_base64url(orjson.dumps({"alg": _ALG, "typ": typ, "kid": kid}))

    @classmethod
    def generate(cls, kid: str) -> SigningKey:
        """Make a new P-256 key."""
        return cls(kid, ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, kid: str, pem: bytes, typ: Typ = "JWT") -> SigningKey:
        """Read what :meth:`pem` wrote.

        Raises:
            ValueError: not a private P-256 key.
        """
        private = load_pem_private_key(pem, password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("signing key is not on P-256")
        return cls(kid, private, typ)

    def pem(self) -> bytes:
        """Return the private part as unencrypted PKCS #8 PEM, for the vault and nowhere else."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_jwk(self) -> dict[str, str]:
        """Return the public part as JWK (RFC 7517), coordinates of 32 bytes."""
        point = self._private.public_key().public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "use": "sig",
            "alg": _ALG,
            "kid": self.kid,
            "x": encode_base64url(point.x.to_bytes(32)).decode(),
            "y": encode_base64url(point.y.to_bytes(32)).decode(),
        }

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return ``claims`` as a signed compact JWT (RFC 7515, section 3.1)."""
        signed = self._header + b"." + encode_base64url(orjson.dumps(claims))
        signature: bytes = self._key.sign(signed)
        return (signed + b"." + encode_base64url(signature)).decode()


def sign(claims: Mapping[str, Any], key: SigningKey) -> str:
    """Return ``claims`` signed with ``key``; the caller checks :data:`MAX_TOKEN_BYTES`."""
    return key.sign(claims)


def public_key(entry: Mapping[str, Any]) -> tuple[str, VerificationKey]:
    """Return ``kid`` and key of a JWK; only EC, P-256, ES256 with a point on the curve pass.

    Raises:
        ValueError: any other key.
    """
    kid = entry.get("kid")
    if (entry.get("kty"), entry.get("crv"), entry.get("alg")) != ("EC", "P-256", _ALG):
        raise ValueError("not an ES256 key")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise ValueError("key without kid")
    point = {name: _coordinate(entry.get(name)) for name in ("x", "y")}
    try:
        return kid, jwk.construct({"kty": "EC", "crv": "P-256", **point}, _ALG)
    except JWKError as error:
        raise ValueError("key cannot be read") from error


def parse_jwks(body: bytes) -> dict[str, VerificationKey]:
    """Return the acceptable keys of a JWK Set (RFC 7517, section 5); others are passed over.

    Raises:
        ValueError: over 256 KiB, not a JWK Set, or no acceptable key in it.
    """
    if len(body) > MAX_JWKS_BYTES:
        raise ValueError("key set too large")
    document = orjson.loads(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a key set")
    keys = dict(filter(None, map(_acceptable, entries)))
    if not keys:
        raise ValueError("no acceptable key")
    return keys


def _acceptable(entry: Any) -> tuple[str, VerificationKey] | None:
    try:
        return public_key(entry) if isinstance(entry, dict) else None
    except ValueError:
        return None


def _coordinate(value: Any) -> str:
    """RFC 7518, section 6.2.1.2: the full 32 bytes of the curve's field, leading zeros kept."""
    if (
        not isinstance(value, str)
        or not value.isascii()
        or len(decode_base64url(value.encode())) != 32
    ):
        raise ValueError("coordinate is not 32 bytes")
    return value


@lru_cache(maxsize=1024)
def _read_header(segment: bytes) -> str:
    """A zone's tokens share one header, so it is read once; unproven, hence bounded."""
    if len(segment) > _MAX_HEADER:
        raise InvalidMandate("header too large")
    header = json_object(segment)
    kid = header.get("kid")
    if header.get("alg") != _ALG or "crit" in header:
        raise InvalidMandate("algorithm not allowed")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise InvalidMandate("no kid")
    return kid


def json_object(segment: bytes) -> Claims:
    """Return the object in a segment of a token.

    Raises:
        InvalidMandate: not base64url, or no JSON object.
    """
    try:
        value = orjson.loads(decode_base64url(segment))
    except orjson.JSONDecodeError as error:
        raise InvalidMandate("not JSON") from error
    if not isinstance(value, dict):
        raise InvalidMandate("not a JSON object")
    return value


def decode_base64url(segment: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2), in its one spelling.

    Raises:
        InvalidMandate: it is none, or in another spelling.
    """
    try:
        data = urlsafe_b64decode(segment + b"==")
    except binascii.Error as error:
        raise InvalidMandate("not base64url") from error
    if encode_base64url(data) != segment:
        raise InvalidMandate("not base64url")
    return data


def encode_base64url(data: bytes) -> bytes:
    """Return base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")
