"""Nonces for DPoP proofs: a proof is made with one, so not before we gave it (RFC 9449, section 8).

Without them who has a key for a moment can make proofs for tomorrow. Nothing is stored: a nonce is
a code of the minute, by a key that all replicas derive from the one they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from hmac import compare_digest

from caracal.mandate import encode_base64url

STEP_SECONDS = 60.0
_PERSON = b"caracal nonce"  # another use of the key gives other codes


class Nonces:
    """Gives nonces and knows them again, for one to two minutes; ``secret`` is all replicas'."""

    def __init__(self, secret: bytes) -> None:
        self._key = blake2b(secret, digest_size=32, person=_PERSON).digest()

    def fresh(self, now: float) -> str:
        """Return the nonce to use from now on; ``now`` in Unix seconds."""
        return self._of(int(now // STEP_SECONDS))

    def takes(self, nonce: str | None, now: float) -> bool:
        """Say whether a proof's nonce is one that was given in this step or in the one before."""
        given = (nonce or "").encode("utf-8", "surrogatepass")
        return any(compare_digest(given, known) for known in self._known(now))

    def _known(self, now: float) -> Iterator[bytes]:
        step = int(now // STEP_SECONDS)
        # One ahead: the clock of the replica that gave it may be.
        return (self._of(number).encode() for number in (step + 1, step, step - 1))

    def _of(self, step: int) -> str:
        code = blake2b(str(step).encode(), key=self._key, digest_size=16).digest()
        return encode_base64url(code).decode()
