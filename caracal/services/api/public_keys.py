"""Public keys of applications for ``private_key_jwt``: a JWK Set (RFC 7517, section 5)."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Annotated, Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from pydantic import AfterValidator

MAX_KEYS = 16
MAX_BYTES = 16 * 1024
_RSA_BITS = range(2048, 8192 + 1)  # a longer modulus only makes verification slow
_RSA_EXPONENTS = range(3, 2**32)
_COORDINATE_BYTES = 32
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))  # RFC 7518, section 6


def check_jwks(jwks: dict[str, Any]) -> dict[str, Any]:
    """Return ``jwks`` when it is a set of public EC P-256 or RSA keys of at least 2048 bits.

    Raises:
        ValueError: anything else, in particular a private member.
    """
    try:
        text = orjson.dumps(jwks)
    except TypeError:
        raise ValueError("must be JSON of valid Unicode and 64-bit numbers") from None
    if len(text) > MAX_BYTES or b"\\u0000" in text:
        raise ValueError(f"must have at most {MAX_BYTES} bytes, and no NUL")
    keys = jwks.get("keys")
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError(f"must have 1-{MAX_KEYS} keys")
    for key in keys:
        _check_key(key)
    return jwks


def _check_key(key: Any) -> None:
    if not isinstance(key, dict):
        raise ValueError("a key is an object")
    if _PRIVATE & key.keys():
        raise ValueError("a key must not have private members")
    if not isinstance(key.get("kid", ""), str):
        raise ValueError("kid is a string")
    match key.get("kty"):
        case "EC":
            _check_ec(key)
        case "RSA":
            _check_rsa(key)
        case _:
            raise ValueError("a key is of type EC or RSA")


def _check_ec(key: dict[str, Any]) -> None:
    point = _bytes(key.get("x")), _bytes(key.get("y"))
    if key.get("crv") != "P-256" or {len(part) for part in point} != {_COORDINATE_BYTES}:
        raise ValueError("an EC key is on P-256, with coordinates of 32 bytes")
    x, y = (int.from_bytes(part) for part in point)
    try:
        EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    except ValueError:
        raise ValueError("an EC key is a point on its curve") from None


def _check_rsa(key: dict[str, Any]) -> None:
    modulus, exponent = (int.from_bytes(_bytes(key.get(name))) for name in ("n", "e"))
    if modulus.bit_length() not in _RSA_BITS or modulus % 2 == 0:
        raise ValueError("an RSA key has an odd modulus of 2048-8192 bits")
    if exponent not in _RSA_EXPONENTS or exponent % 2 == 0:
        raise ValueError("an RSA key has an odd exponent below 2^32")


def _bytes(value: Any) -> bytes:
    """Base64url without padding (RFC 7515, section 2)."""
    if not isinstance(value, str) or not value.isascii() or not value:
        raise ValueError("a number of a key is base64url")
    try:
        return urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:
        raise ValueError("a number of a key is base64url") from None


Jwks = Annotated[dict[str, Any], AfterValidator(check_jwks)]
