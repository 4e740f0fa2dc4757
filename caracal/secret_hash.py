"""Stored forms of client secrets, and their verification (contracts: control plane §3, STS §5).

Secrets that a server made are random, so one SHA-256 is enough; those that a caller chose get
Argon2id (RFC 9106), which takes 64 MiB and tens of milliseconds: run it in a thread.
"""

from __future__ import annotations

import binascii
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from hashlib import sha256

from argon2.low_level import Type, hash_secret_raw

_TIME, _MEMORY_KIB, _LANES, _BYTES, _SALT_BYTES = 3, 64 * 1024, 2, 32, 16
_QUICK = re.compile(r"sha256\$([0-9a-f]{64})")
_SLOW = re.compile(r"argon2id\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})")
_NO_SALT = bytes(_SALT_BYTES)


def of_random(secret: str) -> str:
    """Return the stored form of a secret that the server made: ``sha256$<hex>``."""
    return f"sha256${sha256(secret.encode()).hexdigest()}"


def of_chosen(secret: str) -> str:
    """Return the stored form of a secret that a caller made: ``argon2id$<salt>$<hash>``. Slow."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"argon2id${_text(salt)}${_text(_argon2id(secret, salt))}"


def is_slow(stored: str) -> bool:
    """Say whether :func:`verify` takes long on this form; on one that cannot be read it does."""
    return _QUICK.fullmatch(stored) is None


def verify(stored: str, secret: str) -> bool:
    """Say whether ``secret`` is the one stored, in constant time.

    A form that cannot be read costs one derivation, too, and is never right.
    """
    if (quick := _QUICK.fullmatch(stored)) is not None:
        return hmac.compare_digest(quick[1], sha256(secret.encode()).hexdigest())
    salt, expected = _parsed(stored)
    return hmac.compare_digest(_argon2id(secret, salt or _NO_SALT), expected) and salt is not None


def _parsed(stored: str) -> tuple[bytes | None, bytes]:
    slow = _SLOW.fullmatch(stored)
    try:
        return (_bytes(slow[1]), _bytes(slow[2])) if slow else (None, b"")
    except binascii.Error:
        return None, b""


def _argon2id(secret: str, salt: bytes) -> bytes:
    return hash_secret_raw(secret.encode(), salt, _TIME, _MEMORY_KIB, _LANES, _BYTES, Type.ID)


def _text(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4), validate=True)
