"""A row of the ledger: read from an entry, hashed, chained (spec: tamper evidence). Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from operator import attrgetter
from typing import Any

import orjson

from caracal import clock
from caracal.events.store.audit_entry import Keys, verify

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_END_YEAR = 9999
_SEPARATOR = b"\x1f"


@dataclass(frozen=True, slots=True)
class Row:
    """What is hashed of an audit event, in that order. JSON members are canonical text."""

    id: str
    zone_id: str
    event_type: str
    request_id: str
    decision: str
    policy_set_id: str
    policy_set_version_id: str
    manifest_sha: str
    evaluation_status: str
    determining_policies_json: str
    diagnostics_json: str
    metadata_json: str
    occurred_at: datetime

    def content_sha256(self) -> str:
        """Return the hex digest of the members, each but the last closed by ``0x1f``."""
        *texts, occurred_at = _members(self)
        parts = [text.encode() for text in texts]
        nanoseconds = (occurred_at - _EPOCH) // _MICROSECOND * 1000
        return sha256(_SEPARATOR.join([*parts, str(nanoseconds).encode()])).hexdigest()


TEXTS = tuple(name for name in Row.__slots__ if not name.endswith(("_json", "_at")))
JSONS = tuple(name for name in Row.__slots__ if name.endswith("_json"))
COLUMNS = tuple(Row.__slots__)
_members = attrgetter(*COLUMNS)


def chain_hmac(key: bytes | None, content: str, prev: str | None) -> str:
    """Return what ties a row to the one before it; empty without a key."""
    if key is None:
        return ""
    return hmac.digest(key, f"{content}|{prev or ''}".encode(), "sha256").hex()


def canonical(value: Any) -> str:
    """Return JSON text: keys sorted, no spaces, UTF-8 unescaped."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


class Refused(Exception):
    """An entry that is no evidence. Its text is the dead letter's reason."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """An entry that counts."""

    row: Row
    content_sha256: str
    signature: str


def read_entry(fields: Mapping[bytes, bytes], keys: Keys) -> Evidence:
    """Return what an entry says.

    Raises:
        Refused: no data, a bad signature, or not the JSON of an audit event.
    """
    if (data := fields.get(b"data")) is None:
        raise Refused("missing_data_field")
    signature = fields.get(b"sig", b"")
    if not verify(keys, data, signature):
        raise Refused("hmac_verify_failed")
    try:
        row = _row(orjson.loads(data))
        return Evidence(row, row.content_sha256(), signature.decode())
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(f"json_parse_error:{_one_line(error)}") from None


def _row(members: Any) -> Row:
    if not isinstance(members, dict):
        raise TypeError("no object")
    texts = {name: _text(members, name) for name in TEXTS}
    for name in ("id", "zone_id"):
        if not texts[name]:
            raise ValueError(f"{name} is missing")
    jsons = {name: canonical(members.get(name)) for name in JSONS}
    occurred_at = clock.parse(_text(members, "occurred_at"))
    if not _EPOCH.year <= occurred_at.year < _END_YEAR:
        raise ValueError("occurred_at is out of range")
    return Row(**texts, **jsons, occurred_at=occurred_at)


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str | None):
        raise TypeError(f"{name} is no text")
    return value or ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
