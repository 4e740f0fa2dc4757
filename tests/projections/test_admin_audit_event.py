"""Read model of the admin audit: given facts, when reduced, then one row a request."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from caracal.events.base import acting
from caracal.events.store.memory import MemoryLog
from caracal.projections.admin_audit_event import ADMIN_AUDIT_EVENTS, admin_audit, entity_of
from caracal.projections.memory import MemoryMarks, Row, apply
from caracal.projections.table import Applied, mark
from tests.backbone import new_zone
from tests.making import facts

REQUEST = {
    "actor": "token-1",
    "actor_name": "ada",
    "actor_scope": "global",
    "request_id": "req-1",
    "call_id": "call-1",
    "status_code": 200,
}


async def stored(*changes: dict[str, Any]) -> MemoryLog:
    """A zone, changed by a command for each of ``changes``: its metadata."""
    log, zone = MemoryLog(), new_zone("z")
    for number, meta in enumerate(changes):
        with acting(zone_id="z", **meta):
            zone.change({"name": f"name {number}"})
    await log.save(zone)
    return log


def rows_of(log: MemoryLog, order: tuple[int, ...] | None = None) -> dict[str, Row]:
    table, given = MemoryMarks(ADMIN_AUDIT_EVENTS), facts(log)
    for place in order or range(len(given)):
        apply({ADMIN_AUDIT_EVENTS.name: table}, admin_audit.reduce(given[place]))
    return table.rows


async def test_one_row_however_many_facts_and_in_any_order() -> None:
    request = REQUEST | {"action": "PATCH /v1/zones/z"}
    log = await stored(request, request, request)
    expected = rows_of(log)
    (row,) = expected.values()
    assert row == {
        "id": "call-1",
        "request_id": "req-1",
        "actor_id": "token-1",
        "actor_name": "ada",
        "actor_scope": "global",
        "action": "PATCH /v1/zones/z",
        "method": "PATCH",
        "path": "/v1/zones/z",
        "zone_id": "z",
        "entity_type": "zones",
        "entity_id": "z",
        "status_code": 200,
        "changed": True,
        "occurred_at": facts(log)[-1].occurred_at,
    }
    for order in permutations(range(4)):
        assert rows_of(log, order + order) == expected


async def test_what_no_administrator_asked_for_is_no_row() -> None:
    others = [
        {"actor": "system"},
        {"actor": "app", "action": "POST /oauth/2/token", "request_id": "r"},
    ]
    assert rows_of(await stored(*others)) == {}


async def test_facts_that_name_no_call_are_told_apart_by_their_request() -> None:
    old = {"actor": "token-1", "action": "PATCH /v1/zones/z", "request_id": "r1"}
    log = await stored(old, old, old | {"request_id": "r2"})
    found = sorted((row["request_id"], row["status_code"]) for row in rows_of(log).values())
    assert found == [("r1", None), ("r2", None)]


async def test_what_changed_something_and_failed_then_has_the_greater_status() -> None:
    log = await stored(REQUEST | {"action": "PATCH /v1/zones/z"})
    table = MemoryMarks(ADMIN_AUDIT_EVENTS)
    failed = mark(ADMIN_AUDIT_EVENTS, ["call-1"], status_code=503, changed=False)
    operations = [op for fact in facts(log) for op in admin_audit.reduce(fact)]
    apply({ADMIN_AUDIT_EVENTS.name: table}, [Applied(0, failed), *operations])
    (row,) = table.rows.values()
    assert (row["status_code"], row["changed"]) == (503, True)


async def test_every_topic_is_read_but_that_of_sessions() -> None:
    assert "session.started" not in admin_audit.reducers
    assert {topic.name for topic in admin_audit.topics} >= {
        *("caracal.zones.events", "caracal.grants.events", "caracal.admin_tokens.events"),
    }
    assert admin_audit.group == "worker.admin_audit"


@pytest.mark.parametrize(
    ("path", "entity"),
    [
        ("/v1/zones", (None, None)),
        ("/v1/zones/z1", ("zones", "z1")),
        ("/v1/zones/z1/applications", ("zones", "z1")),
        ("/v1/zones/z1/applications/dcr", ("zones", "z1")),
        ("/v1/zones/z1/policy-sets/s1/versions/v1", ("versions", "v1")),
        ("/v1/zones/z1/policy-sets/s1/activate", ("policy-sets", "s1")),
        ("/v1/zones/z1/signing-key/rotate", ("zones", "z1")),
        ("/v1/zones/zones/grants/grants", ("grants", "grants")),
        ("/v1/policies/validate", (None, None)),
        ("/zones/z1/agents/a1/suspend", ("agents", "a1")),
        ("/zones/z1/delegations/active", ("zones", "z1")),
        ("/v1/begin", (None, None)),
        ("", (None, None)),
        ("/v1/zones/", (None, None)),
    ],
)
def test_entities(path: str, entity: tuple[str | None, str | None]) -> None:
    assert entity_of(path) == entity
