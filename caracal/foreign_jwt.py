"""JWTs that others sign: client assertions (RFC 7523), DPoP proofs (RFC 9449), id_tokens.

Other than a mandate, such a token may use one of several algorithms; which one is up to the type
of its key. A type of token is never taken for another one (RFC 8725, section 3.11).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from caracal import jwk
from caracal.mandate import (
    MAX_TOKEN_BYTES,
    Claims,
    InvalidMandate,
    decode_base64url,
    json_object,
    peek,
)

_MAX_ID = 256


@dataclass(frozen=True, slots=True)
class ForeignJwt:
    """A token taken apart. Nothing in it is proven until :meth:`is_signed_by` has said so."""

    header: dict[str, Any]
    claims: Claims
    signed: bytes
    signature: bytes

    @property
    def alg(self) -> str:
        """Return the algorithm, which is one of ours."""
        return str(self.header["alg"])

    @property
    def jti(self) -> str | None:
        """Return the token's id; None without one of sensible length."""
        jti = self.claims.get("jti")
        return jti if isinstance(jti, str) and 0 < len(jti) <= _MAX_ID else None

    def is_signed_by(self, key: jwk.PublicKey) -> bool:
        """Say whether ``key`` has signed it."""
        return jwk.verifies(key, self.alg, self.signed, self.signature)


def taken_apart(
    token: str, types: Collection[str | None], limit: int = MAX_TOKEN_BYTES
) -> ForeignJwt | None:
    """Return the parts of a compact JWT of at most ``limit`` bytes; None: no acceptable one.

    Args:
        token: as it was sent.
        types: acceptable values of ``typ``, in lower case; None: it may be left out.
    """
    try:
        parts = peek(token, limit)
        header, signature = json_object(parts.header), decode_base64url(parts.signature)
    except InvalidMandate:
        return None
    typ = header.get("typ")
    if (typ.lower() if isinstance(typ, str) else typ) not in types:
        return None
    if header.get("alg") not in jwk.ALGORITHMS or "crit" in header:
        return None
    return ForeignJwt(header, parts.claims, parts.signed, signature)
