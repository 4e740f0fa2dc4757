"""JWTs as others sign them, right and wrong ones."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from caracal import clock
from caracal.ids import new_id
from caracal.mandate import encode_base64url

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem_of(key: Any) -> str:
    """The private part of a key, as its owner keeps it."""
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def public_jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """The public part of a key; ``members`` are added."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_numbers()
        x, y = (number(value, 32) for value in (point.x, point.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y, **members}
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **members}


def number(value: int, length: int = 0) -> str:
    return encode_base64url(value.to_bytes(length or (value.bit_length() + 7) // 8)).decode()


def signed(
    key: PrivateKey | bytes | None, header: Mapping[str, Any], claims: Mapping[str, Any]
) -> str:
    """A compact JWT; bytes are the key of an HMAC, and None signs with nothing."""
    text = b".".join(encode_base64url(orjson.dumps(part)) for part in (header, claims))
    signature = encode_base64url(signature_of(key, str(header.get("alg")), text))
    return (text + b"." + signature).decode()


def signature_of(key: PrivateKey | bytes | None, alg: str, text: bytes) -> bytes:
    if key is None:
        return b""
    if isinstance(key, bytes):
        return hmac.new(key, text, sha256).digest()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(text, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)
    if alg == "PS256":
        return key.sign(text, padding.PSS(padding.MGF1(SHA256()), salt_length=32), SHA256())
    return key.sign(text, padding.PKCS1v15(), SHA256())


def dpop_proof(key: PrivateKey, method: str, uri: str, **claims: Any) -> str:
    """A DPoP proof as of now (RFC 9449, section 4.2); a member given as None is left out."""
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(key)}
    now = clock.now().timestamp()
    said = {"jti": new_id(), "htm": method, "htu": uri, "iat": now} | claims
    return signed(key, header, {name: value for name, value in said.items() if value is not None})


def ath_of(token: str) -> str:
    """The digest of an access token, as a proof for a resource names it."""
    return encode_base64url(sha256(token.encode()).digest()).decode()
