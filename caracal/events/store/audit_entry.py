"""Audit entries: a decision as it is written to the audit topic (spec: audit events).

An entry is ``id``, ``data`` (JSON of the whole event) and ``sig``, the HMAC of exactly these
bytes. Pure: who adds entries is :class:`caracal.events.store.audit_writer.AuditWriter`, or a
Lua script that embeds :class:`Prebuilt`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from caracal import clock
from caracal.events.store.redaction import CREDENTIALS, redacted
from caracal.events.topics import AUDIT
from caracal.ids import new_id

Keys = Sequence[bytes]
"""The ring of ``AUDIT_HMAC_KEY``: the first signs, all verify; empty: nothing is checked."""

ADMIN_REQUEST = "admin_request"
"""Event type of a refused request to the control plane or the Coordinator."""

NO_ZONE = "system"
"""Zone of what concerns none that exists."""

_OMITTED_WHEN_EMPTY = ("policy_set_id", "policy_set_version_id", "manifest_sha")
_REPLAYED = "policy_input"


def _now() -> str:
    return clock.rfc3339(clock.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One decision, or one refusal. Attributes are the contract's members.

    ``zone_id`` is ``system`` for requests of no existing zone; ``decision`` is ``allow``,
    ``deny`` or ``partial``; ``occurred_at`` is RFC 3339. ``metadata_json`` holds JSON values
    and must have no secret: known names are hidden (but inside of ``policy_input``, which a
    replay needs as it was).
    """

    zone_id: str
    event_type: str
    request_id: str
    decision: str
    evaluation_status: str
    policy_set_id: str = ""
    policy_set_version_id: str = ""
    manifest_sha: str = ""
    determining_policies_json: Sequence[Any] | None = None
    diagnostics_json: Sequence[Any] | None = None
    metadata_json: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    occurred_at: str = field(default_factory=_now)

    @property
    def grants(self) -> bool:
        """Whether an answer may only be given once this is written: no evidence, no mandate."""
        return self.decision != "deny"


@dataclass(frozen=True, slots=True)
class Prebuilt:
    """An entry ready to be added: ``XADD topic * fields…``."""

    id: str
    occurred_at: str
    fields: tuple[bytes, ...]
    """Name, value, name, value …"""
    topic: str = AUDIT


def encode(event: AuditEvent, keys: Keys) -> dict[str, bytes]:
    """Return the fields of an event's entry; no ``sig`` without keys."""
    data = orjson.dumps(_members(event))
    entry = {"id": event.id.encode(), "data": data}
    return {**entry, "sig": sign(keys, data)} if keys else entry


def prebuilt(event: AuditEvent, keys: Keys) -> Prebuilt:
    """Return an event's entry, ready to be added."""
    pairs = encode(event, keys).items()
    fields = tuple(text for name, value in pairs for text in (name.encode(), value))
    return Prebuilt(event.id, event.occurred_at, fields)


def sign(keys: Keys, data: bytes) -> bytes:
    """Return the signature of an entry's data: lower-case hex, by the first key."""
    return hmac.digest(keys[0], data, "sha256").hex().encode()


def verify(keys: Keys, data: bytes, sig: bytes) -> bool:
    """Say whether one of the keys made ``sig``; everything is well without keys."""
    matches = [hmac.compare_digest(sig, sign((key,), data)) for key in keys]
    return any(matches) or not keys


def _members(event: AuditEvent) -> dict[str, Any]:
    members: dict[str, Any] = {
        "id": event.id,
        "zone_id": event.zone_id,
        "event_type": event.event_type,
        "request_id": event.request_id,
        "decision": event.decision,
        "evaluation_status": event.evaluation_status,
        "determining_policies_json": event.determining_policies_json,
        "diagnostics_json": event.diagnostics_json,
        "occurred_at": event.occurred_at,
    }
    for name in _OMITTED_WHEN_EMPTY:
        if value := getattr(event, name):
            members[name] = value
    if event.metadata_json:
        members["metadata_json"] = _without_secrets(event.metadata_json)
    return members


def _without_secrets(metadata: Mapping[str, Any]) -> dict[str, Any]:
    hidden = redacted({k: v for k, v in metadata.items() if k != _REPLAYED}, CREDENTIALS)
    kept = {_REPLAYED: metadata[_REPLAYED]} if _REPLAYED in metadata else {}
    return {**hidden, **kept}
