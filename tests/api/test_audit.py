"""``/v1/zones/{zone_id}/audit`` over HTTP: from the ledger that the worker fills, and the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from redis.asyncio import Redis

from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.events.topics import AUDIT
from caracal.ids import new_id
from tests.api.running import Plane
from tests.backbone import eventually

KEYS = (bytes.fromhex("ef" * 32),)
MEMBERS = {
    *("id", "zone_id", "event_type", "request_id", "decision", "evaluation_status"),
    *("metadata_json", "occurred_at", "ingested_at"),
}
DETAILS = MEMBERS | {
    *("policy_set_id", "policy_set_version_id", "manifest_sha"),
    *("determining_policies_json", "diagnostics_json"),
}


def decided(zone_id: str, second: int = 0, **members: Any) -> AuditEvent:
    given = {
        "event_type": "token_exchange",
        "request_id": new_id(),
        "decision": "allow",
        "evaluation_status": "complete",
        "occurred_at": f"2026-05-11T20:00:{second:02}.500000Z",
    }
    return AuditEvent(zone_id=zone_id, **{**given, **members})


async def recorded(api: Plane, events: Iterable[AuditEvent]) -> None:
    """Put entries on the audit topic, and wait until the worker has them in the ledger."""
    ids = {event.id for event in events}
    async with Redis.from_url(api.redis_url) as redis:
        for event in events:
            fields: dict[Any, Any] = dict(encode(event, KEYS))
            await redis.xadd(AUDIT, fields)

    async def there() -> bool:
        async with api.database() as db:
            statement = "SELECT count(*) FROM audit_events WHERE id = ANY(%s)"
            row = await (await db.execute(statement, (list(ids),))).fetchone()
        return bool(row and row[0] == len(ids))

    await eventually(there, what="the ledger")


async def application(api: Plane, zone: str, request_id: str) -> str:
    """Create an application by a request of this id; return the fact's position."""
    answer = await api.call(
        "POST",
        f"/zones/{zone}/applications",
        {"name": "app"},
        headers={"X-Request-Id": request_id},
    )
    assert answer.status_code == 201, answer.text
    return answer.headers["Caracal-Position"]


async def ids(api: Plane, path: str) -> list[str]:
    answer = await api.call("GET", path)
    assert answer.status_code == 200, answer.text
    return [event["id"] for event in answer.json()]


async def test_a_list_has_the_contracts_members_newest_first(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    events = [
        decided(zone, 1, policy_set_id="ps", metadata_json={"resource": "r"}),
        decided(zone, 3, evaluation_status=""),
        decided(zone, 2),
        decided(other),
    ]
    await recorded(api, events)
    answer = await api.call("GET", f"/zones/{zone}/audit")
    shown = answer.json()
    assert [event["id"] for event in shown] == [events[1].id, events[2].id, events[0].id]
    assert set(shown[0]) == MEMBERS
    assert shown[2] | {"ingested_at": None} == {
        "id": events[0].id,
        "zone_id": zone,
        "event_type": "token_exchange",
        "request_id": events[0].request_id,
        "decision": "allow",
        "evaluation_status": "complete",
        "metadata_json": {"resource": "r"},
        "occurred_at": "2026-05-11T20:00:01.500000Z",
        "ingested_at": None,
    }
    assert (shown[0]["evaluation_status"], shown[0]["metadata_json"]) == (None, None)
    assert "Link" not in answer.headers


async def test_filters(api: Plane) -> None:
    zone = await api.zone()
    a, b, c, d = events = [
        decided(zone, 0),
        decided(zone, 1, decision="deny"),
        decided(zone, 2, decision="partial", event_type="gateway_resource_request"),
        decided(zone, 3, decision="deny", event_type="replay_detected"),
    ]
    await recorded(api, events)
    for query, expected in (
        ("decision=deny", [d, b]),
        ("decision=partial", [c]),
        ("event_type=replay_detected", [d]),
        ("event_type=unheard_of", []),
        (f"request_id={a.request_id}", [a]),
        ("since=2026-05-11T20:00:01.5Z", [d, c, b]),
        ("until=2026-05-11T20:00:01.5Z", [a]),
        ("since=2026-05-11T22:00:01.5%2B02:00&until=2026-05-11T20:00:03.5Z", [c, b]),
        (f"decision=deny&request_id={b.request_id}&since=2026-05-11T20:00:00Z", [b]),
        (f"decision=deny&request_id={a.request_id}", []),
    ):
        found = await ids(api, f"/zones/{zone}/audit?{query}")
        assert found == [event.id for event in expected], query


@pytest.mark.parametrize(
    "query",
    [
        *("decision=maybe", "decision=", "since=yesterday", "since=2026-05-11T20:00:00"),
        *("since=2026-05-11", "until=0001-01-01T00:00:00%2B23:00", "since=1778529600", "since="),
        *("since=2026-05-11T20:00:00Z%00", "event_type=a%00b", "event_type=", "request_id=%00"),
        *("request_id=a%20b", f"request_id={'a' * 129}", f"event_type={'a' * 129}"),
        *("limit=0", "limit=1001", "limit=x"),
    ],
)
async def test_bad_queries(api: Plane, query: str) -> None:
    zone = await api.zone()
    answer = await api.call("GET", f"/zones/{zone}/audit?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")


@pytest.mark.parametrize("since", ["yesterday", "2026-05-11", "2026-05-11T20:00:00"])
async def test_what_is_no_time_is_told_how_to_write_one(api: Plane, since: str) -> None:
    answer = await api.call("GET", f"/zones/{await api.zone()}/audit?since={since}")
    said = "since: must be a time with offset, such as 2026-05-11T20:00:00Z"
    assert answer.json()["error_description"] == said


async def test_pages(api: Plane) -> None:
    zone = await api.zone()
    events = [decided(zone, number // 2, decision="deny") for number in range(7)]
    await recorded(api, [*events, decided(zone, 59)])
    seen: list[str] = []
    path = f"/v1/zones/{zone}/audit?decision=deny&limit=3"
    for left in (True, True, False):
        answer = await api.client.get(path)
        seen += [event["id"] for event in answer.json()]
        assert ("Link" in answer.headers) is left
        if left:
            path = answer.links["next"]["url"]
    assert seen == [event.id for event in sorted(events, key=_place, reverse=True)]
    answer = await api.call("GET", f"/zones/{zone}/audit?cursor=xx")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_cursor")


def _place(event: AuditEvent) -> tuple[str, str]:
    return event.occurred_at, event.id


async def test_a_request_with_its_decisions_and_its_facts(api: Plane) -> None:
    zone = await api.zone()
    request_id = new_id()
    position = await application(api, zone, request_id)
    events = [
        decided(
            zone,
            request_id=request_id,
            occurred_at=occurred_at,
            policy_set_id="ps",
            policy_set_version_id="psv",
            manifest_sha="ab",
            determining_policies_json=[{"policy": "p1"}],
            diagnostics_json=[],
        )
        for occurred_at in ("2026-05-11T20:00:00.000000Z", "2999-01-01T00:00:00.000000Z")
    ]
    await recorded(api, events)
    answer = await api.call("GET", f"/zones/{zone}/audit/by-request/{request_id}")
    first, fact, last = answer.json()
    assert set(first) == set(fact) == DETAILS
    assert [first["id"], last["id"]] == [event.id for event in events]
    assert first["determining_policies_json"] == [{"policy": "p1"}]
    assert (first["diagnostics_json"], first["manifest_sha"]) == ([], "ab")
    assert fact["id"] == f"fact-{position}"
    assert (fact["event_type"], fact["zone_id"]) == ("application.created", zone)
    assert (fact["request_id"], fact["decision"]) == (request_id, None)
    assert fact["metadata_json"]["name"] == "app"
    assert "client_secret_ref" not in fact["metadata_json"]


async def test_a_request_of_another_zone_is_not_found(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    request_id = new_id()
    await application(api, zone, request_id)
    await recorded(api, [decided(zone, request_id=request_id)])
    assert len(await ids(api, f"/zones/{zone}/audit/by-request/{request_id}")) == 2
    for path in (f"{other}/audit/by-request/{request_id}", f"{zone}/audit/by-request/{new_id()}"):
        answer = await api.call("GET", f"/zones/{path}")
        assert (answer.status_code, answer.json()["error"]) == (404, "request_not_found")
    answer = await api.call("GET", f"/zones/{zone}/audit/by-request/a%20b")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_params")


async def test_secrets_and_sessions_are_redacted(api: Plane) -> None:
    zone = await api.zone()
    metadata = {
        "session_id": "s",
        "resource": "r",
        "policy_input": {"context": [{"Token": "t", "trace_id": "x"}]},
    }
    event = decided(zone, metadata_json=metadata)
    await recorded(api, [event])
    for path in ("audit", f"audit/by-request/{event.request_id}"):
        (shown,) = (await api.call("GET", f"/zones/{zone}/{path}")).json()
        assert shown["metadata_json"] == {
            "session_id": "[redacted]",
            "resource": "r",
            "policy_input": {"context": [{"Token": "[redacted]", "trace_id": "x"}]},
        }


async def test_who_may_look(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    reader = await api.token("zone", zone, "read")
    for path in ("audit", "audit/by-request/nothing"):
        mine = await api.call("GET", f"/zones/{zone}/{path}", headers=reader)
        assert mine.status_code in (200, 404)
        theirs = await api.call("GET", f"/zones/{other}/{path}", headers=reader)
        assert (theirs.status_code, theirs.json()["error"]) == (403, "admin_token_zone_mismatch")
        nobody = await api.call("GET", f"/zones/{zone}/{path}", headers={"Authorization": "no"})
        assert nobody.status_code == 401
        nowhere = await api.call("GET", f"/zones/{new_id()}/{path}")
        assert (nowhere.status_code, nowhere.json()["error"]) == (404, "zone_not_found")
