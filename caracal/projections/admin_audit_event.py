"""Read model of the admin audit: who changed what, and whose request was refused.

One row a request: its facts say what it changed, a decision ``admin_request`` says that it was
refused; a request that has both (it changed something and failed then) has the greater status.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from caracal.events.base import Fact
from caracal.events.catalogue import EVENTS
from caracal.events.store.audit_entry import ADMIN_REQUEST, NO_ZONE
from caracal.ids import ID_PATTERN, log_key
from caracal.projections.audit_row import Row
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, moments
from caracal.projections.table import Mark, Merged, mark

ADMIN_AUDIT_EVENTS = Merged(
    "admin_audit_events",
    columns={
        "request_id": "text",
        "actor_id": "text",
        "actor_name": "text",
        "actor_scope": "text",
        "action": "text",
        "method": "text",
        "path": "text",
        "zone_id": "text",
        "entity_type": "text",
        "entity_id": "text",
        "status_code": "int",
        "changed": "boolean",
        "occurred_at": "timestamptz",
    },
    indexes=(
        "(zone_id, occurred_at DESC, id DESC)",
        "(occurred_at DESC, id DESC)",
    ),
)

_OF_OTHERS = tuple(name for name in EVENTS if name.startswith("session."))
"""Made by exchanges and sweepers alone; those who wait for them shall not wait for us."""

_PATHS = ("/v1/", "/zones/")
_COLLECTIONS = frozenset(
    {
        *("zones", "applications", "resources", "providers", "policies", "policy-sets"),
        *("versions", "grants", "provider-grants", "sessions", "step-up-challenges"),
        *("policy-templates", "admin-tokens", "trusted-issuers"),
        *("agents", "agent-services", "delegations", "invocations"),
    }
)
_NO_IDS = frozenset({"dcr", "validate", "active", "inbound", "outbound", "oauth", "revoke"})
"""What may follow a collection and names an action or a list, not a thing."""

_TEXTS = ("actor_id", "actor_name", "actor_scope", "method", "path")
_STATUS = range(100, 600)

admin_audit = Projection("admin_audit", ADMIN_AUDIT_EVENTS, ignored=_OF_OTHERS)


@admin_audit.on(*(event for name, event in EVENTS.items() if name not in _OF_OTHERS))
def changed(fact: Fact) -> list[Mark]:
    meta = fact.metadata
    method, _, path = str(meta.get("action", "")).partition(" ")
    if not path.startswith(_PATHS):
        return []  # no request of a person's: a sweeper, an exchange
    return [
        mark(
            ADMIN_AUDIT_EVENTS,
            [meta.get("call_id") or _same_request(meta)],
            request_id=meta.get("request_id"),
            actor_id=meta["actor"],
            actor_name=meta.get("actor_name"),
            actor_scope=meta.get("actor_scope"),
            method=method,
            path=path,
            zone_id=fact.zone_id or NO_ZONE,
            status_code=meta.get("status_code"),
            changed=True,
            occurred_at=fact.occurred_at,
            **_derived(method, path),
        )
    ]


@admin_audit.on_decision(ADMIN_REQUEST)
def refused(decision: Row) -> list[Mark]:
    meta = orjson.loads(decision.metadata_json)
    if not isinstance(meta, dict) or not ID_PATTERN.fullmatch(_text(meta, "call_id")):
        return []
    status = meta.get("status_code")
    known = {name: _text(meta, name) for name in _TEXTS}
    return [
        mark(
            ADMIN_AUDIT_EVENTS,
            [meta["call_id"]],
            request_id=decision.request_id or None,
            zone_id=decision.zone_id,
            status_code=status if isinstance(status, int) and status in _STATUS else None,
            changed=False,
            occurred_at=decision.occurred_at,
            **{name: value or None for name, value in known.items()},
            **_derived(known["method"], known["path"]),
        )
    ]


def entity_of(path: str) -> tuple[str | None, str | None]:
    """Return the last collection of a path that is followed by an id, and that id."""
    found: tuple[str | None, str | None] = (None, None)
    segments = iter(path.strip("/").split("/"))
    for segment in segments:
        if segment in _COLLECTIONS and (thing := next(segments, "")):
            found = found if thing in _NO_IDS else (segment, thing)
    return found


async def list_admin_audit(
    db: Db,
    page: Page,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    **equal: Any,
) -> list[dict[str, Any]]:
    """Return a page of the admin audit, newest first, one more than the page holds.

    ``since`` <= ``occurred_at`` < ``until``; ``equal`` names columns; None does not filter.
    """
    return await moments(
        db, "*", ADMIN_AUDIT_EVENTS.name, page, since=since, until=until, equal=equal
    )


async def forget_refused(db: Db, start: datetime, end: datetime) -> None:
    """Delete what only the ledger's rows of ``[start, end)`` said: they are being dropped.

    A rebuild afterwards would not find them either.
    """
    await db.execute(
        "DELETE FROM admin_audit_events WHERE NOT changed AND occurred_at >= %s"
        " AND occurred_at < %s",
        (start, end),
    )


def _derived(method: str, path: str) -> dict[str, Any]:
    entity_type, entity_id = entity_of(path)
    return {"action": f"{method} {path}", "entity_type": entity_type, "entity_id": entity_id}


def _same_request(meta: Mapping[str, Any]) -> str:
    """Return what facts of one request share, for those that name no call."""
    return str(log_key(f"{meta.get('request_id')} {meta['actor']} {meta['action']}"))


def _text(meta: Mapping[str, Any], name: str) -> str:
    value = meta.get(name)
    return value.replace("\x00", "") if isinstance(value, str) else ""  # no database takes a NUL
