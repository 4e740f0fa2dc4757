"""Public keys of applications for ``private_key_jwt``: a JWK Set (RFC 7517, section 5)."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator

from caracal.jwk import public_key

MAX_KEYS = 16
MAX_BYTES = 16 * 1024


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
        public_key(key)
    return jwks


Jwks = Annotated[dict[str, Any], AfterValidator(check_jwks)]
