"""The vault: secrets stand here, sealed, and events hold only their ``ref``.

ChaCha20-Poly1305 (RFC 8439) under ``ZONE_KEK``, associated data = the ref, so a ciphertext moved
to another ref does not open. The first key seals, all open.
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from psycopg import AsyncConnection

from caracal.events.guards import Secret
from caracal.ids import new_id

_NONCE_BYTES = 12


class Unreadable(Exception):
    """The vault has no such secret, or none of the keys opens it."""


class Vault:
    """Seals and opens secrets with the keys of ``ZONE_KEK`` (32 bytes each)."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._ciphers = {_key_id(key): ChaCha20Poly1305(key) for key in keys}
        self._first = next(iter(self._ciphers))

    def seal(self, plaintext: bytes, ref: str | None = None) -> Secret:
        """Return the guard that stores ``plaintext`` with its event."""
        ref = ref or f"secret-{new_id()}"
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ciphertext = self._ciphers[self._first].encrypt(nonce, plaintext, ref.encode())
        return Secret(ref, self._first, nonce, ciphertext)

    def open(self, ref: str, key_id: str, nonce: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            Unreadable: unknown key, or not what was sealed under this ref.
        """
        if (cipher := self._ciphers.get(key_id)) is None:
            raise Unreadable(f"{ref}: sealed with an unknown key")
        try:
            return cipher.decrypt(nonce, ciphertext, ref.encode())
        except InvalidTag:
            raise Unreadable(f"{ref}: does not open") from None

    async def read(self, database: AsyncConnection[Any], ref: str) -> bytes:
        """Read a secret from the database and open it.

        Raises:
            Unreadable: it is not there, or does not open.
        """
        cursor = await database.execute(
            "SELECT key_id, nonce, ciphertext FROM vault WHERE ref = %s", (ref,)
        )
        if (row := await cursor.fetchone()) is None:
            raise Unreadable(f"{ref}: not in the vault")
        return self.open(ref, *row)


def _key_id(key: bytes) -> str:
    return sha256(key).hexdigest()[:16]
