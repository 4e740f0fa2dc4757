"""Ids: UUIDv7 (RFC 9562, section 5.7), and the log's key for ids that are no UUID."""

from __future__ import annotations

import re
from functools import lru_cache
from uuid import UUID, uuid5

import uuid_utils

ID_PATTERN = re.compile(r"^[A-Za-z0-9_.\-:]{1,128}$")
_NAMESPACE = UUID("6f0c1f5e-63a4-5c0e-9d4b-3a1b0c4f7a10")


def new_id() -> str:
    """Return a new UUIDv7 as text; later ids sort after earlier ones."""
    return str(uuid_utils.uuid7())


@lru_cache(maxsize=65536)
def log_key(product_id: str) -> UUID:
    """Return the key of ``product_id`` in the log: itself, or its ``uuid5`` when it is no UUID.

    Only the canonical lower-case form counts as a UUID, so no two ids share a key.
    """
    try:
        key = UUID(product_id)
    except ValueError:
        return uuid5(_NAMESPACE, product_id)
    return key if str(key) == product_id else uuid5(_NAMESPACE, product_id)
