"""Queries of the audit trail: decisions from the ledger, the facts of a request from the log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from caracal import clock
from caracal.events.catalogue import export_of
from caracal.events.record import Record
from caracal.events.store.audit_entry import ADMIN_REQUEST
from caracal.projections.query import Db, Page, moments, select

_SHOWN = (
    "id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id,"
    " manifest_sha, evaluation_status, determining_policies_json, diagnostics_json,"
    " metadata_json, occurred_at, ingested_at"
)
MAX_DECISIONS, MAX_FACTS = 2_000, 5_000
"""Of one request id; a request has at most 256 resources, only an id used again has more."""

_JSON = ("determining_policies_json", "diagnostics_json", "metadata_json")


async def list_decisions(
    db: Db,
    zone_id: str,
    page: Page,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    **equal: str | None,
) -> list[dict[str, Any]]:
    """Return a page of a zone's decisions, newest first, one more than the page holds.

    ``since`` <= ``occurred_at`` < ``until``; ``equal`` may name ``decision``, ``event_type``
    and ``request_id``; None does not filter.
    """
    equal = {"zone_id": zone_id, **equal}
    rows = await moments(db, _SHOWN, "audit_events", page, since=since, until=until, equal=equal)
    return [_decision(row) for row in rows]


async def search_decisions(
    db: Db,
    zone_id: str,
    *,
    since: datetime,
    until: datetime | None,
    after: int,
    limit: int,
    **equal: str | None,
) -> list[dict[str, Any]]:
    """Return a zone's decisions in the order of its chain, after the number ``after``.

    ``since`` <= ``occurred_at`` < ``until``; ``equal`` may name ``decision`` and ``request_id``;
    None does not filter.
    """
    given = {name: value for name, value in equal.items() if value is not None}
    conditions = ["zone_id = %s", "chain_seq > %s", "occurred_at >= %s"]
    values: list[Any] = [zone_id, after, since]
    if until is not None:
        conditions.append("occurred_at < %s")
        values.append(until)
    conditions += [f"{name} = %s" for name in given]
    rows = await select(
        db,
        f"SELECT {_SHOWN}, chain_seq, content_sha256 FROM audit_events"
        f" WHERE {' AND '.join(conditions)} ORDER BY chain_seq LIMIT %s",
        [*values, *given.values(), limit],
    )
    return [_decision(row) for row in rows]


async def trail_of_request(db: Db, zone_id: str, request_id: str) -> list[dict[str, Any]]:
    """Return what a request led to in a zone, oldest first: decisions, and facts it caused.

    Of more than :data:`MAX_DECISIONS` or :data:`MAX_FACTS` these many.
    """
    trail = await decisions_of_request(db, zone_id, request_id)
    facts = await select(
        db,
        "SELECT position, version, name, state"
        " FROM (SELECT * FROM log WHERE request_of(state) = %s OFFSET 0) AS of_request"
        " WHERE convert_from(state, 'UTF8')::json #>> '{meta,zone_id}' = %s"
        " ORDER BY position LIMIT %s",
        [request_id, zone_id, MAX_FACTS],
    )
    trail += [_fact(Record.read(**row)) for row in facts]
    return sorted(trail, key=_place)


async def decisions_of_request(db: Db, zone_id: str, request_id: str) -> list[dict[str, Any]]:
    """Return the decisions on a request in a zone, oldest first, at most :data:`MAX_DECISIONS`.

    Anyone may name the id of a request: those whom he was refused as an administrator come last,
    and what denied comes first, so none of both is hidden by many others.
    """
    rows = await select(
        db,
        f"SELECT {_SHOWN} FROM audit_events WHERE zone_id = %s AND request_id = %s"
        " ORDER BY event_type = %s, decision <> 'deny', occurred_at, id LIMIT %s",
        [zone_id, request_id, ADMIN_REQUEST, MAX_DECISIONS],
    )
    return sorted(map(_decision, rows), key=_place)


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value or None for name, value in row.items()} | {
        name: orjson.loads(row[name]) for name in _JSON
    }


def _fact(record: Record) -> dict[str, Any]:
    """Return a fact as the trail shows it: in the log since it occurred."""
    fact = record.fact()
    moment = clock.parse(fact.occurred_at)
    return {
        "id": f"fact-{fact.position}",
        "zone_id": fact.zone_id,
        "event_type": fact.name,
        "request_id": fact.metadata["request_id"],
        "metadata_json": export_of(fact.name, fact.data),
        "occurred_at": moment,
        "ingested_at": moment,
        "position": fact.position,
    }


def _place(entry: dict[str, Any]) -> tuple[datetime, int, str]:
    return entry["occurred_at"], entry.get("position", 0), entry["id"]
