"""Public keys that others bring, as JWK (RFC 7517): of clients, and of DPoP proofs.

EC on P-256 and RSA of 2048-8192 bits, nothing else. The type of the key says which algorithms it
may be used with, never the token alone (RFC 8725, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from caracal.mandate import decode_base64url, encode_base64url

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
ALGORITHMS = ("ES256", "RS256", "PS256")

_RSA_BITS = range(2048, 8192 + 1)  # a longer modulus only makes verification slow
_RSA_EXPONENTS = range(3, 2**32)
_COORDINATE_BYTES = 32
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))  # RFC 7518, section 6


def public_key(entry: Any) -> PublicKey:
    """Return the key of a JWK.

    Raises:
        ValueError: of another type or size, malformed, or with a private member.
    """
    if not isinstance(entry, dict):
        raise ValueError("a key is an object")
    if _PRIVATE & entry.keys():
        raise ValueError("a key must not have private members")
    if not isinstance(entry.get("kid", ""), str):
        raise ValueError("kid is a string")
    match entry.get("kty"):
        case "EC":
            return _ec(entry)
        case "RSA":
            return _rsa(entry)
        case _:
            raise ValueError("a key is of type EC or RSA")


def may_verify(entry: Mapping[str, Any], alg: str) -> bool:
    """Say whether a JWK's own members let it verify signatures of this algorithm."""
    fits = alg == "ES256" if entry.get("kty") == "EC" else alg in ("RS256", "PS256")
    return fits and entry.get("alg", alg) == alg and entry.get("use", "sig") == "sig"


def verifies(key: PublicKey, alg: str, signed: bytes, signature: bytes) -> bool:
    """Say whether ``signature`` is that of ``signed`` (RFC 7518, sections 3.3 to 3.5)."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            return alg == "ES256" and _verify_es256(key, signed, signature)
        if alg not in ("RS256", "PS256"):
            return False
        form = padding.PKCS1v15() if alg == "RS256" else _PSS
        key.verify(signature, signed, form, SHA256())
    except InvalidSignature:
        return False
    return True


_PSS = padding.PSS(padding.MGF1(SHA256()), salt_length=SHA256.digest_size)


def thumbprint(key: PublicKey) -> str:
    """Return the SHA-256 thumbprint of a key (RFC 7638, section 3), base64url.

    Made of its numbers, not of what the JWK looked like: a key has one.
    """
    return encode_base64url(sha256(orjson.dumps(members(key))).digest()).decode()


def members(key: PublicKey) -> dict[str, str]:
    """Return the members that a public key needs as JWK, in the order of RFC 7638, section 3.3."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        x, y = (_number(value, _COORDINATE_BYTES) for value in (point.x, point.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    numbers = key.public_numbers()
    return {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}


def _verify_es256(key: ec.EllipticCurvePublicKey, signed: bytes, signature: bytes) -> bool:
    if len(signature) != 2 * _COORDINATE_BYTES:
        return False
    r, s = (int.from_bytes(signature[at : at + _COORDINATE_BYTES]) for at in (0, _COORDINATE_BYTES))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
    return True


def _ec(entry: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    point = _bytes(entry.get("x")), _bytes(entry.get("y"))
    if entry.get("crv") != "P-256" or {len(part) for part in point} != {_COORDINATE_BYTES}:
        raise ValueError("an EC key is on P-256, with coordinates of 32 bytes")
    x, y = (int.from_bytes(part) for part in point)
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError:
        raise ValueError("an EC key is a point on its curve") from None


def _rsa(entry: Mapping[str, Any]) -> rsa.RSAPublicKey:
    modulus, exponent = (int.from_bytes(_bytes(entry.get(name))) for name in ("n", "e"))
    if modulus.bit_length() not in _RSA_BITS or modulus % 2 == 0:
        raise ValueError("an RSA key has an odd modulus of 2048-8192 bits")
    if exponent not in _RSA_EXPONENTS or exponent % 2 == 0:
        raise ValueError("an RSA key has an odd exponent below 2^32")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _bytes(value: Any) -> bytes:
    """Base64url without padding (RFC 7515, section 2)."""
    if not isinstance(value, str) or not value.isascii() or not value:
        raise ValueError("a number of a key is base64url")
    try:
        return decode_base64url(value.encode())
    except ValueError:
        raise ValueError("a number of a key is base64url") from None


def _number(value: int, length: int = 0) -> str:
    return encode_base64url(value.to_bytes(length or (value.bit_length() + 7) // 8)).decode()
