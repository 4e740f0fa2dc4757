"""What ends with a grant, an application, a zone: also with the worker down, also just begun."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import pytest

from caracal import clock
from caracal.errors import NotFound
from caracal.events.agent import Agent
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import CASCADE_LIMIT, Aggregate
from caracal.events.delegation import Delegation
from caracal.events.session import Session
from caracal.events.store.entries import LogReader
from caracal.services import cascade
from tests.api.running import Plane, plane, worker
from tests.backbone import new_zone, opened_log
from tests.making import (
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_grant,
    new_resource,
    new_session,
)


async def status_of(api: Plane, zone: str) -> dict[str, str]:
    rows = (await api.call("GET", f"/zones/{zone}/sessions?limit=1000")).json()
    return {row["id"]: row["status"] for row in rows}


async def cascades(api: Plane, root: str) -> list[dict[str, Any]]:
    """The cascade events of a root: their data."""
    async with api.database() as db:
        records = await LogReader(db).records(0, limit=1_000_000)
    facts = [record.fact() for record in records]
    names = ("grant.revoked", "application.archived", "zone.archived")
    return [fact.data for fact in facts if fact.aggregate_id == root and fact.name in names]


async def world(api: Plane) -> tuple[str, dict[str, str]]:
    zone = await api.zone()
    app, resource = await api.application(zone), await api.resource(zone)
    return zone, {"application_id": app["id"], "resource_id": resource["id"]}


async def started(api: Plane, zone: str, app: str, **members: Any) -> Session:
    session = new_session(app, zone_id=zone, **members)
    await api.log.save(session)
    return session


async def grant_on(api: Plane, zone: str, on: dict[str, str], user: str | None) -> str:
    body = {**on, "scopes": ["read"], "user_id": user}
    return str((await api.made(f"/zones/{zone}/grants", body))["id"])


async def test_a_users_grant_ends_that_users_sessions(api: Plane) -> None:
    zone, on = await world(api)
    other = await api.application(zone)
    ada = await started(api, zone, on["application_id"])
    elsewhere = await started(api, zone, other["id"])
    bob = await started(api, zone, on["application_id"], subject_id="bob")
    past = clock.now() - timedelta(hours=1)
    expired = await started(api, zone, on["application_id"], expires_at=past)
    grant = await grant_on(api, zone, on, "ada")
    assert (await api.call("DELETE", f"/zones/{zone}/grants/{grant}")).status_code == 204
    assert await status_of(api, zone) == {
        ada.aggregate_id: "revoked",
        elsewhere.aggregate_id: "revoked",
        bob.aggregate_id: "active",
        expired.aggregate_id: "active",
    }
    (event,) = await cascades(api, grant)
    assert {root["id"] for root in event["roots"]} == set(event["sessions"])


async def test_an_applications_own_grant_ends_its_own_sessions(api: Plane) -> None:
    zone, on = await world(api)
    app = on["application_id"]
    own = await started(api, zone, app, session_type="application", subject_id=app)
    user = await started(api, zone, app)
    same_name = await started(api, zone, app, subject_id=app)
    grant = await grant_on(api, zone, on, None)
    await api.call("DELETE", f"/zones/{zone}/grants/{grant}")
    assert await status_of(api, zone) == {
        own.aggregate_id: "revoked",
        user.aggregate_id: "active",
        same_name.aggregate_id: "active",
    }


async def test_an_archived_application_ends_its_sessions(api: Plane) -> None:
    zone, on = await world(api)
    other = await api.application(zone)
    gone = await started(api, zone, on["application_id"])
    stays = await started(api, zone, other["id"])
    path = f"/zones/{zone}/applications/{on['application_id']}"
    assert (await api.call("DELETE", path)).status_code == 204
    assert await status_of(api, zone) == {
        gone.aggregate_id: "revoked",
        stays.aggregate_id: "active",
    }
    with pytest.raises(NotFound, match="application_not_found"):
        await started(api, zone, on["application_id"])
    with in_zone(zone):
        gone.revoke("token_revoked")
    with pytest.raises(NotFound, match="session_not_found"):
        await api.log.save(gone)


async def test_an_archived_zone_ends_its_sessions(api: Plane) -> None:
    zone, on = await world(api)
    other_zone, other = await world(api)
    gone = await started(api, zone, on["application_id"])
    stays = await started(api, other_zone, other["application_id"])
    assert (await api.call("DELETE", f"/zones/{zone}")).status_code == 204
    (event,) = await cascades(api, zone)
    assert event["sessions"] == [gone.aggregate_id]
    assert await status_of(api, other_zone) == {stays.aggregate_id: "active"}
    with pytest.raises(NotFound, match="zone_not_found"):
        await started(api, zone, on["application_id"])


async def test_many_sessions_make_many_parts(api: Plane) -> None:
    zone, on = await world(api)
    many = [new_session(on["application_id"], zone_id=zone) for _ in range(CASCADE_LIMIT + 5)]
    await api.save(*many)
    path = f"/zones/{zone}/applications/{on['application_id']}"
    answer = await api.call("DELETE", path)
    assert answer.status_code == 204
    events = await cascades(api, on["application_id"])
    assert [(event["part"], len(event["sessions"])) for event in events] == [(1, 1000), (2, 5)]
    assert {sid for event in events for sid in event["sessions"]} == {
        session.aggregate_id for session in many
    }


async def test_a_session_begun_while_the_cascade_lists_ends_too(
    api: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, on = await world(api)
    grant = await grant_on(api, zone, on, "ada")
    first = await started(api, zone, on["application_id"])
    listing, meanwhile = cascade.sessions_of, list[Session]()

    async def slow(db: Any, whose: Mapping[str, cascade.Whose]) -> cascade.Begun:
        found = await listing(db, whose)
        meanwhile.append(await started(api, zone, on["application_id"]))
        return await listing(db, whose) if len(meanwhile) == 2 else found

    monkeypatch.setattr(cascade, "sessions_of", slow)
    await api.call("DELETE", f"/zones/{zone}/grants/{grant}")
    between, after = meanwhile
    assert await status_of(api, zone) == {
        first.aggregate_id: "revoked",
        between.aggregate_id: "revoked",
        after.aggregate_id: "active",  # began after the revocation: another consent may allow it
    }
    events = await cascades(api, grant)
    assert [(event["part"], event["sessions"]) for event in events] == [
        (1, [first.aggregate_id]),
        (2, [between.aggregate_id]),
    ]


# --- agents and edges ------------------------------------------------------------------------


@dataclass(frozen=True)
class Grove:
    """Agents of two applications: own -> below (of the other), alone; an edge between each two."""

    own: Agent
    below: Agent
    alone: Agent
    inward: Delegation
    outward: Delegation
    narrowed: Delegation

    @classmethod
    async def planted(cls, api: Plane, zone: str, app: str, other: str) -> Self:
        session = new_session(app, zone_id=zone)
        await api.log.save(session)
        own = new_agent(session, zone_id=zone)
        below = new_agent(session, zone_id=zone, parent=own, application_id=other)
        alone, further = (new_agent(session, zone_id=zone, application_id=other) for _ in range(2))
        inward, outward = (
            new_edge(alone, own, zone_id=zone),
            new_edge(below, further, zone_id=zone),
        )
        narrowed = new_edge(further, alone, parent=outward, zone_id=zone)
        for thing in (own, below, alone, further, outward, narrowed):
            await api.log.save(thing)
        # closes no cycle: own has no edge onwards
        await api.log.save(inward)
        return cls(own, below, alone, inward, outward, narrowed)


async def ended_ids(api: Plane, zone: str, table: str) -> set[str]:
    async with api.database() as db:
        cursor = await db.execute(
            f"SELECT id FROM {table} WHERE zone_id = %s AND ended_at IS NOT NULL", (zone,)
        )
        return {row[0] for row in await cursor.fetchall()}


def id_set(*things: Aggregate) -> set[str]:
    return {thing.aggregate_id for thing in things}


async def test_an_archived_application_ends_its_agents_and_edges(api: Plane) -> None:
    zone, on = await world(api)
    app, other = on["application_id"], (await api.application(zone))["id"]
    grove = await Grove.planted(api, zone, app, other)
    await api.call("DELETE", f"/zones/{zone}/applications/{app}")
    assert await ended_ids(api, zone, "agents") == id_set(grove.own, grove.below)
    edges = id_set(grove.inward, grove.outward, grove.narrowed)
    assert await ended_ids(api, zone, "delegations") == edges
    (event,) = await cascades(api, app)
    assert [root["id"] for root in event["roots"] if root["anchor"] == "agent_session"] == [
        grove.own.aggregate_id
    ]
    late = new_session(other, zone_id=zone)
    await api.log.save(late)
    with pytest.raises(NotFound, match="parent_not_found"):
        await api.log.save(new_agent(late, zone_id=zone, parent=grove.below, application_id=other))


async def test_an_archived_zone_ends_all_of_it(api: Plane) -> None:
    zone, on = await world(api)
    other = (await api.application(zone))["id"]
    grove = await Grove.planted(api, zone, on["application_id"], other)
    assert (await api.call("DELETE", f"/zones/{zone}")).status_code == 204
    (event,) = await cascades(api, zone)
    assert id_set(grove.own, grove.below, grove.alone) <= {one["id"] for one in event["agents"]}
    assert len(event["agents"]) == 4
    assert set(event["edges"]) == id_set(grove.inward, grove.outward, grove.narrowed)
    assert len(await ended_ids(api, zone, "agents")) == 4
    assert len(await ended_ids(api, zone, "delegations")) == 3


async def test_closing_registration_ends_the_agents_of_its_clients(api: Plane) -> None:
    """What hangs on two clients falls with one of them."""
    zone = await api.zone(dcr_enabled=True)
    clients = [
        (await api.made(f"/zones/{zone}/applications/dcr", {"name": "a"}))["id"] for _ in "ab"
    ]
    groves = [
        await Grove.planted(api, zone, *clients),
        await Grove.planted(api, zone, *clients[::-1]),
    ]
    body = {"dcr_enabled": False, "dcr_shutdown": "revoke_live"}
    answer = await api.call("PATCH", f"/zones/{zone}", body)
    assert answer.status_code == 200, answer.text
    assert len(await ended_ids(api, zone, "agents")) == 8
    events = [event for client in clients for event in await cascades(api, client)]
    fallen = [one["id"] for event in events for one in event["agents"]]
    assert len(fallen) == len(set(fallen)) == 8
    edges = [one for event in events for one in event.get("edges", ())]
    assert len(edges) == len(set(edges)) == 6
    assert id_set(groves[0].own) < set(fallen)


@pytest.mark.parametrize("kind", ["application", "zone"])
async def test_an_agent_spawned_while_the_cascade_lists_ends_too(
    api: Plane, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    zone, on = await world(api)
    app, other = on["application_id"], (await api.application(zone))["id"]
    grove = await Grove.planted(api, zone, app, other)
    session = new_session(other, zone_id=zone)
    await api.log.save(session)
    listing, late = cascade.zone_graph, list[Aggregate]()

    async def slow(db: Any, zone_id: str, near: Any = None) -> AgentGraph:
        graph = await listing(db, zone_id, near)
        if not late:
            child = new_agent(session, zone_id=zone, parent=grove.own, application_id=other)
            edge = new_edge(child, grove.alone, zone_id=zone)
            late.extend((child, edge))
            await api.log.save(child)
            await api.log.save(edge)
        return graph

    monkeypatch.setattr(cascade, "zone_graph", slow)
    root = app if kind == "application" else zone
    await api.call("DELETE", f"/zones/{zone}" + (f"/applications/{app}" if root == app else ""))
    assert id_set(late[0]) <= await ended_ids(api, zone, "agents")
    assert id_set(late[1]) <= await ended_ids(api, zone, "delegations")
    events = await cascades(api, root)
    assert [event["part"] for event in events] == [1, 2]
    assert [one["id"] for one in events[1]["agents"]] == [late[0].aggregate_id]


@pytest.fixture
async def alone(database_url: str, redis_url: str) -> AsyncIterator[Plane]:
    """An API without a worker; its answers to mutations are all pending."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened_log(database_url))
        yield await stack.enter_async_context(plane(database_url, redis_url, log))


async def test_without_the_worker_nothing_is_missed(alone: Plane) -> None:
    zone = (made := new_zone()).aggregate_id
    app, resource = new_application(zone), new_resource(zone)
    grant = new_grant(app.aggregate_id, resource.aggregate_id, user_id="ada", zone_id=zone)
    await alone.log.save(made, app, resource, grant)
    session = await started(alone, zone, app.aggregate_id)
    own = await started(alone, zone, app.aggregate_id, subject_id="bob")
    agent = new_agent(own, zone_id=zone)
    await alone.log.save(agent)
    answer = await alone.call("DELETE", f"/zones/{zone}/grants/{grant.aggregate_id}")
    assert answer.status_code == 204
    assert answer.headers["caracal-consistency"] == "pending"
    (event,) = await cascades(alone, grant.aggregate_id)
    assert event["sessions"] == [session.aggregate_id]
    await alone.call("DELETE", f"/zones/{zone}/applications/{app.aggregate_id}")
    (event,) = await cascades(alone, app.aggregate_id)
    assert [one["id"] for one in event["agents"]] == [agent.aggregate_id]
    async with worker(alone.database_url, alone.redis_url):
        async with alone.database() as db:
            end = await LogReader(db).end()
            assert await alone.waiter.reached(db, end, timeout=15)
        assert await status_of(alone, zone) == {
            session.aggregate_id: "revoked",
            own.aggregate_id: "revoked",
        }
