"""A private key of an application: it signs DPoP proofs (RFC 9449) and assertions (RFC 7523).

>>> key = ClientKey.generate()
>>> caracal = Caracal.from_env(dpop=key)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from caracal import jwk
from caracal.mandate import encode_base64url

MAX_KEY_FILE = 1 << 16
ASSERTION_SECONDS = 60
"""How long an assertion is good: for one request."""
_RSA_BITS = range(2048, 8192 + 1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class ClientKey:
    """A private key on P-256 (ES256), or of RSA with 2048-8192 bits (RS256).

    Neither its text nor its pickle has the private part.

    Raises:
        ValueError: a key of another kind.
    """

    def __init__(self, private: PrivateKey) -> None:
        if not _fits(private):
            raise ValueError("a key must be on P-256, or of RSA with 2048-8192 bits")
        self._private = private
        self.alg = "ES256" if isinstance(private, ec.EllipticCurvePrivateKey) else "RS256"
        self._public = jwk.members(private.public_key())
        self.thumbprint = jwk.thumbprint(private.public_key())

    @classmethod
    def generate(cls) -> Self:
        """Make a new key on P-256; it lives as long as the process."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an unencrypted PEM.

        Raises:
            ValueError: it is none, or of another kind of key; nothing of it is repeated.
        """
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("not the unencrypted PEM of a private key") from None
        return cls(private)  # type: ignore[arg-type]  # checked there

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a file with an unencrypted PEM of at most 64 KiB.

        Raises:
            ValueError: it cannot be read, or holds no such key; says which file, never what of it.
        """
        try:
            with Path(path).open("rb") as file:
                pem = file.read(MAX_KEY_FILE)
        except OSError as error:
            raise ValueError(f"key file {path}: {error.strerror or 'cannot be read'}") from None
        try:
            return cls.from_pem(pem)
        except ValueError as error:
            raise ValueError(f"key file {path}: {error}") from None

    def public_jwk(self, **members: str) -> dict[str, str]:
        """Return the public part as JWK (RFC 7517); ``members`` such as ``kid`` are added."""
        return {**self._public, **members}

    def proof(
        self,
        method: str,
        url: str,
        *,
        now: float,
        nonce: str | None = None,
        token: str | None = None,
    ) -> str:
        """Return a DPoP proof (RFC 9449, section 4.2), good once.

        Args:
            method: of the request.
            url: that it is sent to; query and fragment are left out.
            now: Unix seconds, as the server counts them.
            nonce: that the server gave.
            token: the access token that goes along.
        """
        claims = {
            "jti": secrets.token_hex(16),
            "htm": method,
            "htu": url.partition("?")[0].partition("#")[0],
            "iat": int(now),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if token is not None:
            claims["ath"] = encode_base64url(sha256(token.encode()).digest()).decode()
        return self._signed({"typ": "dpop+jwt", "alg": self.alg, "jwk": self._public}, claims)

    def assertion(self, key_id: str, application_id: str, audience: str, *, now: float) -> str:
        """Return a client assertion (RFC 7523, section 3), good once and for a minute."""
        claims = {
            "iss": application_id,
            "sub": application_id,
            "aud": audience,
            "jti": secrets.token_hex(16),
            "iat": int(now),
            "exp": int(now) + ASSERTION_SECONDS,
        }
        return self._signed({"typ": "JWT", "alg": self.alg, "kid": key_id}, claims)

    def _signed(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        text = b".".join(encode_base64url(orjson.dumps(part)) for part in (header, claims))
        return (text + b"." + encode_base64url(self._signature(text))).decode()

    def _signature(self, text: bytes) -> bytes:
        if isinstance(self._private, rsa.RSAPrivateKey):
            return self._private.sign(text, padding.PKCS1v15(), SHA256())
        r, s = decode_dss_signature(self._private.sign(text, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)  # RFC 7518, section 3.4

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.alg}, {self.thumbprint})"

    def __reduce__(self) -> Any:
        raise TypeError("a private key is not copied into pickles")


def _fits(private: Any) -> bool:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return isinstance(private.curve, ec.SECP256R1)
    return isinstance(private, rsa.RSAPrivateKey) and private.key_size in _RSA_BITS
