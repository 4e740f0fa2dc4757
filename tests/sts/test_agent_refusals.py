"""Every refusal of agents and delegation edges: its text, and what the trail says (section 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from caracal import clock
from caracal.events.agent import Agent
from caracal.events.base import Fall
from caracal.events.delegation import Delegation
from caracal.ids import new_id
from caracal.secret_hash import of_random
from tests.making import in_zone, new_agent, new_application, new_session, row_of
from tests.sts.test_agents import SECRET, ago
from tests.sts.world import World, graph_of, new_tenant

Exercise = Callable[["Pair"], Awaitable[dict[str, Any]]]


class Pair:
    """Two agents of the tenant's, and what a test makes of them."""

    def __init__(self, world: World, source: Agent, target: Agent) -> None:
        self.world, self.tenant, self.source, self.target = world, world.tenant, source, target
        self.monkeypatch = pytest.MonkeyPatch()

    async def edge(self, **members: Any) -> Delegation:
        """An edge from one to the other, of both scopes that policy allows."""
        given = {"scopes": ["read", "agent:lifecycle"], "constraints": {}} | members
        source, target = given.pop("between", (self.source, self.target))
        return await self.tenant.add_edge(source, target, **given)

    async def agent(self, *parent: Agent, **members: Any) -> Agent:
        return await self.tenant.add_agent(*parent, **members)

    async def of_another_application(self, *parent: Agent) -> Agent:
        application = await self.tenant.add_application(of_random(SECRET))
        session = await self.tenant.add_session(application_id=application.aggregate_id)
        return await self.agent(*parent, session=session)

    async def in_the_past(self) -> Agent:
        """An agent whose hour is over."""
        with ago(self.monkeypatch, hours=1, seconds=1):
            return await self.tenant.add_agent()

    async def alone(self, thing: Agent | Delegation) -> None:
        """End or revoke one thing and nothing else, which no command does."""
        with in_zone(self.tenant.id):
            if isinstance(thing, Agent):
                fall = graph_of(self.tenant.id, thing).of_agents([thing.aggregate_id])
                thing.terminate(Fall(agents=fall.agents))
            else:
                thing.revoke(Fall(edges=(thing.aggregate_id,)))
        await self.tenant.save(thing)

    def by(self, edge: Delegation, agent: Agent | None = None, **more: Any) -> dict[str, Any]:
        """The form members by which an agent exercises an edge."""
        agent_id = agent.aggregate_id if agent else edge.target_session_id
        named = {"agent_session_id": agent_id, "delegation_edge_id": edge.aggregate_id}
        return named | more


def row(name: str, make: Exercise, said: str, *audit: str) -> Any:
    return pytest.param(make, said, list(audit or ("delegation_invalid",)), id=name)


def as_agent(make: Callable[[Pair], Awaitable[Agent]]) -> Exercise:
    async def exercise(pair: Pair) -> dict[str, Any]:
        return {"agent_session_id": (await make(pair)).aggregate_id}

    return exercise


async def suspended(pair: Pair) -> Agent:
    await pair.tenant.suspend(pair.target)
    return pair.target


async def ended(pair: Pair) -> Agent:
    await pair.tenant.end(pair.target)
    return pair.target


async def ended_by_itself(pair: Pair) -> Agent:
    await pair.alone(pair.target)
    return pair.target


async def below_a_suspended_one(pair: Pair) -> Agent:
    child = await pair.agent(pair.target)
    await pair.tenant.suspend(pair.target)
    return child


async def below_an_ended_one(pair: Pair) -> Agent:
    """The end was listed before the child was there."""
    child = await pair.agent(await pair.agent(pair.target))
    await pair.alone(pair.target)
    return child


async def below_one_in_the_past(pair: Pair) -> Agent:
    return await pair.agent(await pair.in_the_past())


async def of_another_zone(pair: Pair) -> Agent:
    return await (await new_tenant(pair.world.log)).add_agent()


def with_edge(**members: Any) -> Exercise:
    async def exercise(pair: Pair) -> dict[str, Any]:
        more = {name: members[name] for name in ("scope", "resource") if name in members}
        made = {name: value for name, value in members.items() if name not in more}
        return pair.by(await pair.edge(**made), **more)

    return exercise


def after(what: Callable[[Pair, Delegation], Awaitable[Any]]) -> Exercise:
    """Exercise an edge after something has happened to it or its agents."""

    async def exercise(pair: Pair) -> dict[str, Any]:
        edge = await pair.edge()
        await what(pair, edge)
        return pair.by(edge)

    return exercise


async def without_agent(pair: Pair) -> dict[str, Any]:
    return {"delegation_edge_id": (await pair.edge()).aggregate_id}


async def unknown_edge(pair: Pair) -> dict[str, Any]:
    return {"agent_session_id": pair.target.aggregate_id, "delegation_edge_id": new_id()}


async def edge_of_another_zone(pair: Pair) -> dict[str, Any]:
    other = await new_tenant(pair.world.log)
    edge = await other.add_edge(await other.add_agent(), await other.add_agent())
    return pair.by(edge, pair.target)


async def used_by_its_source(pair: Pair) -> dict[str, Any]:
    return pair.by(await pair.edge(), pair.source)


async def source_in_the_past(pair: Pair) -> dict[str, Any]:
    return pair.by(await pair.edge(between=(await pair.in_the_past(), pair.target)))


async def target_in_the_past(pair: Pair) -> dict[str, Any]:
    return pair.by(await pair.edge(between=(pair.source, await pair.in_the_past())))


async def source_below_a_suspended_one(pair: Pair) -> dict[str, Any]:
    edge = await pair.edge(between=(await pair.agent(pair.source), pair.target))
    await pair.tenant.suspend(pair.source)
    return pair.by(edge)


async def target_of_another_application(pair: Pair) -> dict[str, Any]:
    return pair.by(await pair.edge(between=(pair.source, await pair.of_another_application())))


def misnamed(end: str) -> Exercise:
    async def exercise(pair: Pair) -> dict[str, Any]:
        wrong = {**row_of(getattr(pair, end)), "application_id": new_id()}
        return pair.by(await pair.edge(**{end: wrong}))

    return exercise


async def too_many_hops(pair: Pair) -> dict[str, Any]:
    """The root allows one more edge, and two follow."""
    agents = [pair.source, pair.target, await pair.agent(), await pair.agent()]
    edge = None
    for number, hops in enumerate((2, 9, 9)):
        between = agents[number], agents[number + 1]
        edge = await pair.edge(between=between, parent=edge, constraints={"max_hops": hops})
    assert edge is not None
    return pair.by(edge)


async def eleven_edges(pair: Pair) -> dict[str, Any]:
    agents = [pair.source, pair.target, *[await pair.agent() for _ in range(10)]]
    edge = None
    for source, target in pairwise(agents):
        edge = await pair.edge(between=(source, target), parent=edge, constraints={"max_hops": 10})
    assert edge is not None
    return pair.by(edge)


async def its_own_parent(pair: Pair) -> dict[str, Any]:
    edge_id = new_id()
    parent = {"id": edge_id, "path": []}
    return pair.by(await pair.edge(edge_id=edge_id, parent=parent, constraints={"max_hops": 9}))


async def unreadable_parent(pair: Pair) -> dict[str, Any]:
    first = await pair.edge(constraints={"max_hops": 2, "magic": 1})
    third = await pair.agent()
    return pair.by(await pair.edge(between=(pair.target, third), parent=first))


def under(what: Any = None, **members: Any) -> Exercise:
    """Exercise an edge below one with ``members``, after ``what`` happened to that."""

    async def exercise(pair: Pair) -> dict[str, Any]:
        more = {name: members[name] for name in ("scope", "resource") if name in members}
        made = {"constraints": {"max_hops": 2}} | {
            name: value for name, value in members.items() if name not in more
        }
        first = await pair.edge(**made)
        edge = await pair.edge(between=(pair.target, await pair.agent()), parent=first)
        if what is not None:
            await what(pair, first)
        return pair.by(edge, **more)

    return exercise


async def parent_of_another_zone(pair: Pair) -> dict[str, Any]:
    other = await new_tenant(pair.world.log)
    foreign = await other.add_edge(await other.add_agent(), await other.add_agent())
    return pair.by(await pair.edge(parent={"id": foreign.aggregate_id, "path": []}))


async def leap(pair: Pair) -> dict[str, Any]:
    """The edge begins where the one before does not end."""
    first = await pair.edge(constraints={"max_hops": 2})
    between = await pair.agent(), await pair.agent()
    return pair.by(await pair.edge(between=between, parent=first))


async def root_of_another_application(pair: Pair) -> dict[str, Any]:
    wrong = {**row_of(pair.source), "application_id": new_id()}
    first = await pair.edge(source=wrong, constraints={"max_hops": 2})
    return pair.by(await pair.edge(between=(pair.target, await pair.agent()), parent=first))


async def suspend_source(pair: Pair, edge: Delegation) -> None:
    await pair.tenant.suspend(pair.source)


async def end_source(pair: Pair, edge: Delegation) -> None:
    await pair.alone(pair.source)


async def suspend_target(pair: Pair, edge: Delegation) -> None:
    await pair.tenant.suspend(pair.target)


async def end_target(pair: Pair, edge: Delegation) -> None:
    await pair.alone(pair.target)


async def revoke(pair: Pair, edge: Delegation) -> None:
    await pair.tenant.end(edge, pair.target)


async def revoke_alone(pair: Pair, edge: Delegation) -> None:
    await pair.alone(edge)


async def expire(pair: Pair, edge: Delegation) -> None:
    with in_zone(pair.tenant.id):
        edge.expire()
    await pair.tenant.save(edge)


async def past(pair: Pair) -> dict[str, Any]:
    return pair.by(await pair.edge(expires_at=clock.now() - timedelta(seconds=1)))


async def outside(pair: Pair) -> dict[str, Any]:
    other = await pair.tenant.add_resource()
    return pair.by(await pair.edge(resource_id=other.aggregate_id))


async def outside_of_the_parent(pair: Pair) -> dict[str, Any]:
    other = await pair.tenant.add_resource()
    constraints = {"max_hops": 2, "resources": [other.identifier]}
    return await under(constraints=constraints)(pair)


def inherited(**members: str) -> Exercise:
    """A subject token with these claims, and the agent of the pair in the form."""

    async def exercise(pair: Pair) -> dict[str, Any]:
        edge = await pair.edge()
        given = {name: value or pair.target.aggregate_id for name, value in members.items()}
        return pair.by(edge, subject_token=pair.tenant.token(**given))

    return exercise


async def inherited_and_ended(pair: Pair) -> dict[str, Any]:
    token = pair.tenant.token(agent_session_id=pair.target.aggregate_id)
    await pair.tenant.end(pair.target)
    return {"subject_token": token}


async def agent_of_an_ended_session(pair: Pair) -> dict[str, Any]:
    session = await pair.tenant.add_session()
    agent = await pair.agent(session=session)
    with in_zone(pair.tenant.id):
        session.revoke("token_revoked")
    await pair.tenant.save(session)
    return {"agent_session_id": agent.aggregate_id}


async def actor_that_has_ended(pair: Pair) -> dict[str, Any]:
    actor = pair.tenant.token(sub="actor", agent_session_id=pair.target.aggregate_id)
    await pair.tenant.end(pair.target)
    return {"subject_token": pair.tenant.token(), "actor_token": actor}


async def inherited_from_another(pair: Pair) -> dict[str, Any]:
    """On behalf of a subject whose agent is not the caller's."""
    agent = await pair.of_another_application()
    claims = {"client_id": agent.application_id, "sub": agent.application_id}
    subject = pair.tenant.token(**claims, agent_session_id=agent.aggregate_id)
    return {"subject_token": subject, "actor_token": pair.tenant.token()}


PAST = clock.rfc3339(clock.now() - timedelta(hours=1))
AGENT = "agent session inactive or not owned by caller"
INACTIVE = "delegation edge inactive or expired"
SOURCE = "delegation source inactive or expired"
TARGET = "delegation target inactive or unauthorized"
MISMATCH = "delegation application mismatch"
CONSTRAINTS = "delegation constraints invalid"
SCOPES = "requested scopes exceed delegation scopes"
BUDGET = "requested scopes exceed delegation budget"
PATH = "delegation path invalid"
PATH_EDGE = "delegation path edge inactive or revoked"
BOTH = "read agent:lifecycle"
SESSION = "session_invalid"

ROWS = [
    # an agent without an edge
    row("unknown", as_agent(lambda pair: _named(new_agent(_session(pair)))), AGENT, SESSION),
    row("suspended", as_agent(suspended), AGENT, SESSION),
    row("ended", as_agent(ended), AGENT, SESSION),
    row("ended alone", as_agent(ended_by_itself), AGENT, SESSION),
    row("past", as_agent(Pair.in_the_past), AGENT, SESSION),
    row("below suspended", as_agent(below_a_suspended_one), AGENT, SESSION),
    row("below ended", as_agent(below_an_ended_one), AGENT, SESSION),
    row("below past", as_agent(below_one_in_the_past), AGENT, SESSION),
    row("other zone", as_agent(of_another_zone), AGENT, SESSION),
    row("other's", as_agent(Pair.of_another_application), AGENT, SESSION),
    row("on behalf", inherited_from_another, AGENT, SESSION),
    # section 7: inherited
    row("other agent", inherited(agent_session_id="x"), "agent session mismatch", SESSION),
    row("other edge", inherited(delegation_edge_id="x"), "delegation edge mismatch"),
    row("5 actor", actor_that_has_ended, "session revoked", SESSION),
    row("14", agent_of_an_ended_session, "session revoked", "complete", SESSION),
    row("4 inherited", inherited_and_ended, "session revoked", SESSION),
    # section 9, row by row
    row("1", without_agent, "delegation edge requires agent session"),
    row("2 unknown", unknown_edge, INACTIVE),
    row("2 other zone", edge_of_another_zone, INACTIVE),
    row("2 revoked", after(revoke), INACTIVE),
    row("2 revoked alone", after(revoke_alone), INACTIVE),
    row("2 expired", after(expire), INACTIVE),
    row("2 past", past, INACTIVE),
    row("2 constraint past", with_edge(constraints={"expires_at": PAST}), INACTIVE),
    row("3", used_by_its_source, "delegation edge target mismatch"),
    row("4 suspended", after(suspend_source), SOURCE),
    row("4 ended", after(end_source), SOURCE),
    row("4 past", source_in_the_past, SOURCE),
    row("4 below suspended", source_below_a_suspended_one, SOURCE),
    row("5 suspended", after(suspend_target), TARGET),
    row("5 ended", after(end_target), TARGET),
    row("5 past", target_in_the_past, TARGET),
    row("5 other's", target_of_another_application, TARGET),
    row("6 issuer", misnamed("source"), MISMATCH),
    row("6 receiver", misnamed("target"), MISMATCH),
    *(
        row(f"7 {name}", with_edge(constraints=constraints), CONSTRAINTS)
        for name, constraints in {
            "unknown key": {"magic": True},
            "negative": {"budget": -1},
            "zero": {"ttl_seconds": 0},
            "type": {"max_hops": "2"},
            "true": {"max_hops": True},
            "above ten": {"max_hops": 11},
            "both": {"max_hops": 2, "max_depth": 3},
            "text": {"resources": "resource://one"},
            "no time": {"expires_at": "soon"},
            "budget of numbers": {"budget": [1]},
        }.items()
    ),
    row("8", with_edge(scopes=["read"], scope=BOTH), SCOPES),
    row("8 none", with_edge(scopes=[], scope="read"), SCOPES),
    row("9 number", with_edge(constraints={"budget": 1}, scope=BOTH), BUDGET),
    row("9 list", with_edge(constraints={"budget": ["read"]}, scope=BOTH), BUDGET),
    row("10 hops", too_many_hops, PATH),
    row("10 default of one hop", under(constraints={}), PATH),
    row("10 eleven", eleven_edges, PATH),
    row("10 repeat", its_own_parent, PATH),
    row("10 unreadable", unreadable_parent, PATH),
    row("12 revoked", under(revoke_alone), PATH_EDGE),
    row("12 expired", under(expire), PATH_EDGE),
    row("12 past", under(expires_at=clock.now() - timedelta(seconds=1)), PATH_EDGE),
    row("12 constraint past", under(constraints={"max_hops": 2, "expires_at": PAST}), PATH_EDGE),
    row("12 suspended", under(suspend_source), PATH_EDGE),
    row("12 ended", under(end_source), PATH_EDGE),
    row("12 other zone", parent_of_another_zone, PATH_EDGE),
    row("12 leap", leap, "delegation chain discontinuous"),
    row("12 root", root_of_another_application, "delegation chain endpoints mismatch"),
    row("12 scopes", under(scopes=["read"], scope=BOTH), SCOPES),
    row("12 budget", under(constraints={"max_hops": 2, "budget": 1}, scope=BOTH), BUDGET),
    # section 8, step C
    row("C id", outside, "policy denied", "resource_outside_delegation", "exchange_denied"),
    row(
        "C list",
        with_edge(constraints={"resources": ["resource://two"]}),
        "policy denied",
        "resource_outside_delegation",
        "exchange_denied",
    ),
    row(
        "C parent",
        outside_of_the_parent,
        "policy denied",
        "resource_outside_delegation",
        "exchange_denied",
    ),
]


def _session(pair: Pair) -> Any:
    return new_session(pair.tenant.app_id, zone_id=pair.tenant.id)


async def _named(agent: Agent) -> Agent:
    return agent


@pytest.mark.parametrize(("make", "said", "audit"), ROWS)
async def test_each_refusal_has_its_text_and_its_evidence(
    world: World, make: Exercise, said: str, audit: list[str]
) -> None:
    tenant = world.tenant
    session = await tenant.add_session()
    pair = Pair(world, *[await tenant.add_agent(session=session) for _ in range(2)])
    answer = await world.exchange(**await make(pair))
    body = answer.json()
    assert (answer.status_code, body["error"]) == (403, "access_denied"), answer.text
    assert body["error_description"] == said
    events = await world.audit(answer)
    assert [event["evaluation_status"] for event in events] == audit
    assert events[-1]["decision"] == "deny"
    assert "access_token" not in body


async def test_the_trail_names_what_was_inherited(world: World) -> None:
    tenant = world.tenant
    a, b = [await tenant.add_agent() for _ in range(2)]
    edge = await tenant.add_edge(a, b, constraints={"budget": 1})
    named = {"agent_session_id": b.aggregate_id, "delegation_edge_id": edge.aggregate_id}
    answer = await world.exchange(subject_token=tenant.token(**named), scope=BOTH)
    (event,) = await world.audit(answer)
    told = event["metadata_json"]
    assert {name: told[name] for name in named} == named
    assert told["reason"] == SCOPES


async def test_what_the_application_may_an_application_of_another_may_not(world: World) -> None:
    """The owner of an ordinary call is who calls, whatever the subject token says."""
    tenant = world.tenant
    application = new_application(tenant.id)
    await tenant.save(application)
    session = await tenant.add_session(application_id=application.aggregate_id)
    agent = await tenant.add_agent(session=session)
    claims = {"client_id": application.aggregate_id, "sub": application.aggregate_id}
    token = tenant.token(**claims, agent_session_id=agent.aggregate_id)
    form = tenant.form(
        application_id=application.aggregate_id, client_secret=None, subject_token=token
    )
    assert (await world.by_gateway(form)).status_code == 200
    named = {"agent_session_id": (await tenant.add_agent()).aggregate_id}
    other = form | named | {"subject_token": tenant.token(**claims)}
    assert (await world.by_gateway(other)).status_code == 403
