"""Redaction: what never leaves by an answer, and what never gets into the audit trail."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

REDACTED = "[redacted]"

CREDENTIALS = frozenset(
    {
        "password",
        "passwd",
        "secret",
        "token",
        "access_token",
        "refresh_token",
        "id_token",
        "api_key",
        "apikey",
        "authorization",
        "cookie",
        "set_cookie",
        "client_secret",
        "private_key",
        "assertion",
    }
)
"""Names whose values are not even written."""

HIDDEN = CREDENTIALS | {"session", "session_id"}
"""Names whose values no answer shows: the trail needs session ids, its readers do not."""


def redacted(value: Any, names: Collection[str] = HIDDEN) -> Any:
    """Return a JSON value with the members of these names (in any case) hidden, however deep."""
    if isinstance(value, dict):
        return {
            name: REDACTED if name.lower() in names else redacted(member, names)
            for name, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(member, names) for member in value]
    return value
