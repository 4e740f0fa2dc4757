"""Exchanges bound to agents and delegation edges: claims, anchors, lives, input, evidence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from caracal import clock, mandate
from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.delegation import Delegation
from caracal.policy.input_schema import INPUT_SCHEMA_VERSION, input_warnings
from caracal.secret_hash import of_random
from caracal.services.sts.app import create_app
from tests.backbone import eventually
from tests.sts.test_token_exchange import claims_of
from tests.sts.world import World, new_world, serving

SECRET = "cs_of_an_application"


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    """With a worker: each of the sessions that begin here is seen, not waited for in vain."""
    async with new_world(module_database_url, module_redis_url, worker=True) as made:
        yield made


@contextmanager
def ago(monkeypatch: pytest.MonkeyPatch, **back: float) -> Iterator[None]:
    """Let things be made in the past."""
    then = clock.now() - timedelta(**back)
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: then)
        yield


@dataclass
class Chain:
    """Four agents of four applications, each lends to the next; the third has a parent."""

    applications: list[Application]
    agents: list[Agent]
    edges: list[Delegation]
    parent: Agent

    def form(self, world: World, **members: Any) -> dict[str, Any]:
        """The form by which the last one exercises what it got."""
        return world.tenant.form(
            **{
                "application_id": self.applications[-1].aggregate_id,
                "client_secret": SECRET,
                "agent_session_id": self.agents[-1].aggregate_id,
                "delegation_edge_id": self.edges[-1].aggregate_id,
                "scope": "read",
            }
            | members
        )

    @property
    def ids(self) -> list[str]:
        return [agent.aggregate_id for agent in self.agents]

    @property
    def path(self) -> list[str]:
        return [edge.aggregate_id for edge in self.edges]


async def new_chain(world: World, **members: Any) -> Chain:
    tenant = world.tenant
    applications = [await tenant.add_application(of_random(SECRET)) for _ in range(4)]
    sessions = [await tenant.add_session(application_id=one.aggregate_id) for one in applications]
    parent = await tenant.add_agent(session=sessions[2])
    agents = [
        await tenant.add_agent(parent if number == 2 else None, session=session)
        for number, session in enumerate(sessions)
    ]
    edges: list[Delegation] = []
    for number in range(3):
        edge = await tenant.add_edge(
            agents[number],
            agents[number + 1],
            parent=edges[-1] if edges else None,
            **({"scopes": ["read", "write"]} | members),
        )
        edges.append(edge)
    return Chain(applications, agents, edges, parent)


async def epoch(world: World) -> int:
    """The log position of the zone's last edge change."""
    async with world.log._pool.connection() as db:
        cursor = await db.execute(
            "SELECT position, state FROM log WHERE name LIKE 'delegation.%' ORDER BY position DESC"
        )
        found = await cursor.fetchall()
    zone_id = world.tenant.id
    return next(int(at) for at, state in found if orjson.loads(state)["meta"]["zone_id"] == zone_id)


def granted(world: World, answer: httpx.Response) -> mandate.Claims:
    assert answer.status_code == 200, answer.text
    return claims_of(world, answer.json()["access_token"])


async def test_an_ambient_mandate_of_a_chain_of_three_says_all_of_it(world: World) -> None:
    chain = await new_chain(world)
    answer = await world.post(chain.form(world))
    claims = granted(world, answer)
    for name in ("jti", "iat", "exp", "sid", "root_sid"):
        claims.pop(name)
    apps = [application.aggregate_id for application in chain.applications]
    hops = [
        {"app": app, "session": agent, "edge": edge}
        for app, agent, edge in zip(apps, chain.ids, chain.path, strict=False)
    ]
    assert claims == {
        "iss": "https://sts.example",
        "sub": apps[3],
        "aud": ["https://sts.example"],
        "zone_id": world.tenant.id,
        "client_id": apps[3],
        "use": "ambient",
        "sub_type": "application",
        "target": ["resource://one"],
        "scope": "read",
        "agent_session_id": chain.ids[3],
        "delegation_edge_id": chain.path[2],
        "source_session_id": chain.ids[2],
        "target_session_id": chain.ids[3],
        "delegation_path": chain.path,
        "delegation_chain": [*hops, {"app": apps[3], "session": chain.ids[3]}],
        "hop_count": 3,
        "delegation_graph_epoch": await epoch(world),
        "anchors": sorted(
            [
                world.tenant.resource.aggregate_id,
                chain.parent.aggregate_id,
                chain.agents[3].subject_session_id,
            ]
        ),
    }


async def test_a_call_inherits_agent_and_edge_of_its_token(world: World) -> None:
    chain = await new_chain(world)
    ambient = (await world.post(chain.form(world))).json()["access_token"]
    bare = {"agent_session_id": None, "delegation_edge_id": None, "scope": "read"}
    answer = await world.post(chain.form(world, subject_token=ambient, **bare))
    claims = granted(world, answer)
    before = claims_of(world, ambient)
    same = (
        "agent_session_id",
        "delegation_edge_id",
        "delegation_path",
        "delegation_chain",
        "hop_count",
        "delegation_graph_epoch",
        "sid",
        "anchors",
    )
    assert {name: claims[name] for name in same} == {name: before[name] for name in same}
    assert claims["use"] == "per_call"


async def test_the_gateway_gets_every_anchor_and_runs_as_another_application(world: World) -> None:
    tenant, chain = world.tenant, await new_chain(world)
    front = await tenant.add_application()
    resource = await tenant.add_resource(gateway_application_id=front.aggregate_id)
    ambient = (await world.post(chain.form(world))).json()["access_token"]
    form = tenant.form(
        application_id=front.aggregate_id,
        client_secret=None,
        resource=resource.identifier,
        subject_token=ambient,
    )
    answer = await world.by_gateway(form)
    claims = granted(world, answer)
    assert set(answer.json()["anchors"]) == mandate.anchors_of(claims)
    assert set(answer.json()["anchors"]) == {
        *chain.ids,
        *chain.path,
        chain.parent.aggregate_id,
        chain.agents[3].subject_session_id,
        claims["sid"],
        tenant.id,
        front.aggregate_id,
        chain.applications[3].aggregate_id,
        resource.aggregate_id,
    }


async def test_an_agent_alone_is_bound_too(world: World) -> None:
    parent = await world.tenant.add_agent()
    agent = await world.tenant.add_agent(parent)
    answer = await world.exchange(agent_session_id=agent.aggregate_id)
    claims = granted(world, answer)
    assert claims["agent_session_id"] == agent.aggregate_id
    assert not {name for name in claims if name.startswith(("delegation", "hop", "source"))}
    assert {parent.aggregate_id, agent.subject_session_id} <= set(claims["anchors"])
    again = await world.exchange(
        subject_token=answer.json()["access_token"], agent_session_id=agent.aggregate_id
    )
    assert granted(world, again)["agent_session_id"] == agent.aggregate_id


async def test_policy_and_trail_are_told_who_acts_by_what(world: World) -> None:
    chain = await new_chain(world, constraints={"max_hops": 3, "actions": ["look"]})
    answer = await world.post(chain.form(world))
    (event,) = await world.audit(answer)
    told = event["metadata_json"]
    given = told["policy_input"]
    assert given["schema_version"] == INPUT_SCHEMA_VERSION
    assert input_warnings(given, world.tenant.id) == []
    edge = chain.edges[-1]
    assert given["delegation_edge"] == {
        "id": edge.aggregate_id,
        "source_session_id": chain.ids[2],
        "target_session_id": chain.ids[3],
        "issuer_application_id": chain.applications[2].aggregate_id,
        "receiver_application_id": chain.applications[3].aggregate_id,
        "resource_id": None,
        "scopes": ["read", "write"],
        "edge_version": 0,
        "path": chain.path,
        "graph_epoch": await epoch(world),
        "constraints_json": {"max_hops": 3, "actions": ["look"]},
    }
    assert given["principal"] == {
        "type": "Application",
        "id": chain.applications[3].aggregate_id,
        "zone_id": world.tenant.id,
        "credential_type": "token",
        "registration_method": "managed",
        "agent_session_id": chain.ids[3],
        "agent_kind": "instance",
        "capabilities": [],
    }
    assert given["context"]["delegation_edge_id"] == told["delegation_edge_id"] == edge.aggregate_id
    assert given["context"]["agent_session_id"] == told["agent_session_id"] == chain.ids[3]
    assert told["delegation_chain"] == granted(world, answer)["delegation_chain"]
    assert told["delegation_hop_count"] == 3
    assert told["delegation_graph_epoch"] == await epoch(world)


async def test_policy_sees_kind_and_capabilities_of_the_agent(world: World) -> None:
    agent = await world.tenant.add_agent(kind="service", capabilities=["browse"])
    answer = await world.exchange(agent_session_id=agent.aggregate_id)
    (event,) = await world.audit(answer)
    principal = event["metadata_json"]["policy_input"]["principal"]
    assert (principal["agent_kind"], principal["capabilities"]) == ("service", ["browse"])


async def test_a_mandate_ends_before_what_it_hangs_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = world.tenant
    with ago(monkeypatch, minutes=59):
        session = await tenant.add_session(expires_at=clock.now() + timedelta(hours=9))
        parent = await tenant.add_agent(session=session)
    child = await tenant.add_agent(parent, session=session)
    short = await tenant.add_agent(session=session, ttl_seconds=50)
    other = await tenant.add_agent(session=session)
    ends = clock.now() + timedelta(seconds=40)
    edges = {
        "edge": await tenant.add_edge(other, child, constraints={}, expires_at=ends),
        "constraint": await tenant.add_edge(
            other, child, constraints={"expires_at": clock.rfc3339(ends)}
        ),
        "seconds": await tenant.add_edge(other, child, constraints={"ttl_seconds": 30}),
        "source": await tenant.add_edge(short, other, constraints={}),
    }

    async def life(agent: Agent, by: str | None = None, **more: Any) -> int:
        named = edges[by].aggregate_id if by else None
        form = {"agent_session_id": agent.aggregate_id, "delegation_edge_id": named} | more
        return int((await world.exchange(**form)).json()["expires_in"])

    assert 40 < await life(child) <= 60
    assert 40 < await life(child, subject_token=tenant.token()) <= 60
    assert 40 < await life(short) <= 50
    assert 30 < await life(child, "edge") <= 40
    assert 30 < await life(child, "constraint") <= 40
    assert await life(child, "seconds") == 30
    assert await life(child, "seconds", ttl_seconds=20) == 20
    assert 40 < await life(other, "source") <= 50


async def test_the_life_of_every_edge_of_a_path_counts(world: World) -> None:
    tenant = world.tenant
    a, b, c = [await tenant.add_agent() for _ in range(3)]
    first = await tenant.add_edge(a, b, constraints={"max_hops": 2, "ttl_seconds": 25})
    second = await tenant.add_edge(b, c, parent=first, constraints={})
    answer = await world.exchange(
        agent_session_id=c.aggregate_id, delegation_edge_id=second.aggregate_id
    )
    assert answer.json()["expires_in"] == 25


async def test_an_edge_covers_what_it_names_and_the_rest_is_left_out(world: World) -> None:
    tenant = world.tenant
    named, listed, other = [await tenant.add_resource() for _ in range(3)]
    a, b = [await tenant.add_agent() for _ in range(2)]
    wanted = [named.identifier, listed.identifier, other.identifier]
    for members, covered in (
        ({"resource_id": named.aggregate_id}, [named]),
        ({"constraints": {"resources": [named.identifier, listed.identifier]}}, [named, listed]),
        (
            {
                "resource_id": named.aggregate_id,
                "constraints": {"resources": [named.identifier, listed.identifier]},
            },
            [named],
        ),
    ):
        edge = await tenant.add_edge(a, b, **({"constraints": {}} | members))
        answer = await world.exchange(
            agent_session_id=b.aggregate_id,
            delegation_edge_id=edge.aggregate_id,
            resource=wanted,
        )
        assert answer.json()["target_resources"] == [one.identifier for one in covered]
        told = [event["evaluation_status"] for event in await world.audit(answer)]
        expected = [
            "complete" if one in covered else "resource_outside_delegation"
            for one in (named, listed, other)
        ]
        assert told == expected


async def test_an_actor_stands_in_the_mandate_with_those_before_it(world: World) -> None:
    """RFC 8693, section 4.1."""
    tenant = world.tenant
    agent = await tenant.add_agent()
    prior = {"sub": "first", "client_id": "c"}
    actor = tenant.token(sub="second", agent_session_id=agent.aggregate_id)
    answer = await world.exchange(subject_token=tenant.token(act=prior), actor_token=actor)
    assert granted(world, answer)["act"] == {
        "sub": "second",
        "client_id": tenant.app_id,
        "agent_session_id": agent.aggregate_id,
        "act": prior,
    }
    assert agent.aggregate_id in granted(world, answer)["anchors"]
    assert "act" not in granted(world, await world.per_call())


async def test_a_suspended_agent_is_refused_until_it_is_resumed(world: World) -> None:
    tenant = world.tenant
    parent = await tenant.add_agent()
    child = await tenant.add_agent(parent)
    token = (await world.exchange(agent_session_id=child.aggregate_id)).json()["access_token"]

    async def statuses() -> list[int]:
        ways = ({"agent_session_id": child.aggregate_id}, {"subject_token": token})
        return [(await world.exchange(**way)).status_code for way in ways]

    assert await statuses() == [200, 200]
    await tenant.suspend(parent, child)
    assert await statuses() == [403, 403]
    await tenant.resume(child)  # on its own: what is above it is still suspended
    assert await statuses() == [403, 403]
    await tenant.resume(parent)
    assert await statuses() == [200, 200]


async def test_a_mandate_of_the_same_second_is_not_refused_as_unknown(world: World) -> None:
    """What another process made a moment ago is looked for at the log's head."""
    tenant = world.tenant
    for _ in range(5):
        a, b = [await tenant.add_agent() for _ in range(2)]
        assert (await world.at_once(agent_session_id=a.aggregate_id)).status_code == 200
        edge = await tenant.add_edge(a, b)
        named = {"agent_session_id": b.aggregate_id, "delegation_edge_id": edge.aggregate_id}
        assert (await world.at_once(**named)).status_code == 200


async def test_a_new_process_knows_them_by_the_read_models(
    database_url: str, redis_url: str
) -> None:
    async with new_world(database_url, redis_url, worker=True) as world:
        chain = await new_chain(world, constraints={"max_hops": 3, "resources": ["resource://one"]})
        alone = await world.tenant.add_agent()
        await world.tenant.end(alone)
        before = granted(world, await world.post(chain.form(world)))

        async def projected() -> bool:
            async with world.log._pool.connection() as db:
                cursor = await db.execute(
                    "SELECT (SELECT count(*) FROM delegations),"
                    " (SELECT count(*) FROM agents WHERE status = 'terminated')"
                )
                return await cursor.fetchone() == (3, 1)

        await eventually(projected, what="rows of agents and edges")
        async with serving(create_app(world.settings)) as url:
            other = replace(world, url=url)
            after = granted(other, await other.post(chain.form(other)))
            refused = await other.exchange(agent_session_id=alone.aggregate_id)
        same = ("delegation_chain", "delegation_graph_epoch", "anchors", "agent_session_id")
        assert [after[name] for name in same] == [before[name] for name in same]
        assert refused.status_code == 403


async def test_a_parked_agent_or_edge_is_refused(world: World) -> None:
    tenant = world.tenant
    a, b = [await tenant.add_agent() for _ in range(2)]
    edge = await tenant.add_edge(a, b)
    by_edge = {"agent_session_id": b.aggregate_id, "delegation_edge_id": edge.aggregate_id}
    by_agent = {"agent_session_id": a.aggregate_id}
    for thing in (a, edge):
        async with world.log._pool.connection() as db:
            await db.execute(
                "INSERT INTO parked (projection, aggregate_id, topic, position, n, ids, error,"
                " attempts) VALUES ('agents', %s, 't', 1, 0, %s, 'e', 5)",
                (thing.aggregate_id, [thing.aggregate_id]),
            )
            await db.execute("SELECT pg_notify('caracal_parked', '')")
        await world.parked(1)
        statuses = [(await world.exchange(**form)).status_code for form in (by_agent, by_edge)]
        assert statuses == ([403, 403] if thing is a else [200, 403])
        async with world.log._pool.connection() as db:
            await db.execute("DELETE FROM parked")
            await db.execute("SELECT pg_notify('caracal_parked', '')")
        await world.parked(0)
    assert (await world.exchange(**by_edge)).status_code == 200


async def test_traversals_are_counted(world: World) -> None:
    async def counted() -> tuple[int, int]:
        answer = await world.http.get(
            f"{world.url}/metrics", headers={"Accept": "application/json"}
        )
        counters = answer.json()["sts"]
        return counters["graph_traversals"], counters["graph_traversal_errors"]

    total, errors = await counted()
    a, b = [await world.tenant.add_agent() for _ in range(2)]
    edge = await world.tenant.add_edge(a, b)
    named = {"delegation_edge_id": edge.aggregate_id}
    await world.exchange(agent_session_id=b.aggregate_id, **named)
    assert await counted() == (total + 1, errors)
    await world.exchange(agent_session_id=a.aggregate_id, **named)
    assert await counted() == (total + 2, errors + 1)
    await world.exchange(agent_session_id=a.aggregate_id)
    assert await counted() == (total + 2, errors + 1)
