"""Agents and delegations through the Gateway, before a real STS: with them their calls end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal import mandate
from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.delegation import Delegation
from caracal.events.session import Session
from caracal.ids import new_id
from caracal.secret_hash import of_random
from caracal.services.sts.app import create_app as create_sts
from tests.gateway.doubles import Feed, Wire
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.making import in_zone
from tests.sts.world import Tenant, graph_of, serving, working

SECRET = "cs_of_an_agent"
REVOKED = {"x-caracal-revoked": "true"}


@dataclass
class Before:
    """A Gateway before a real STS; facts come by topic and by log."""

    scene: Scene
    sts: str

    @property
    def tenant(self) -> Tenant:
        return self.scene.tenant

    async def ambient(self, agent: Agent, edge: Delegation | None = None) -> str:
        """A token bound to an agent, got from the STS as its application does."""
        form = self.tenant.form(
            application_id=agent.application_id,
            client_secret=SECRET,
            agent_session_id=agent.aggregate_id,
            delegation_edge_id=edge.aggregate_id if edge else None,
        )
        headers = {"Caracal-Min-Position": str(self.tenant.saved)}
        url = f"{self.sts}/oauth/2/token"
        answer = await self.scene.http.post(url, data=form, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def call(self, token: str, **headers: str) -> httpx.Response:
        """Make a call with a token, once Gateway and STS know of all that was saved."""
        return await self.scene.call(headers={"Authorization": f"Bearer {token}", **headers})

    async def mandate_of(self, token: str, **headers: str) -> mandate.Claims:
        """The claims that reach the upstream."""
        self.scene.upstream.requests.clear()
        answer = await self.call(token, **headers)
        assert answer.status_code == 200, answer.text
        (request,) = self.scene.upstream.requests
        (value,) = request.all("Authorization")
        return mandate.peek(value.removeprefix("Bearer ")).claims


@dataclass
class Family:
    """Three generations in one application; another's agent lends to the second, it to the last."""

    application: Application
    grandparent: Agent
    parent: Agent
    child: Agent
    lender: Agent
    lender_parent: Agent
    first: Delegation
    second: Delegation

    @property
    def all(self) -> list[Agent | Delegation]:
        agents = [self.grandparent, self.parent, self.child, self.lender, self.lender_parent]
        return [*agents, self.first, self.second]


@pytest.fixture(scope="module")
async def before(module_database_url: str, module_redis_url: str) -> AsyncIterator[Before]:
    urls = module_database_url, module_redis_url
    async with (
        serving(create_sts(sts_settings(*urls))) as sts,
        new_scene(*urls, sts_url=sts) as scene,
        working(scene.settings),
    ):
        scene.tenant.resource = await scene.resource_with(
            upstream_url=scene.sts.upstream, scopes=["read", "agent:lifecycle"]
        )
        yield Before(scene, sts)


@pytest.fixture(autouse=True)
def quiet(before: Before) -> None:
    """The upstream answers as it does; what a test told it is forgotten."""
    before.scene.upstream.behaviour = None


@pytest.fixture
async def family(before: Before) -> Family:
    tenant, scene = before.tenant, before.scene
    applications = [await tenant.add_application(of_random(SECRET)) for _ in range(2)]
    sessions = [await tenant.add_session(application_id=one.aggregate_id) for one in applications]
    grandparent = await tenant.add_agent(session=sessions[0])
    parent = await tenant.add_agent(grandparent, session=sessions[0])
    child = await tenant.add_agent(parent, session=sessions[0])
    above = await tenant.add_agent(session=sessions[1])
    lender = await tenant.add_agent(above, session=sessions[1])
    first = await tenant.add_edge(lender, parent)
    second = await tenant.add_edge(parent, child, parent=first)
    await scene.save()
    return Family(applications[0], grandparent, parent, child, lender, above, first, second)


End = Callable[[Before, Family], Awaitable[int]]


def ended(name: str) -> End:
    async def end(before: Before, family: Family) -> int:
        return await before.tenant.end(getattr(family, name), *family.all)

    return end


def suspended(name: str, *below: str) -> End:
    async def suspend(before: Before, family: Family) -> int:
        agent, *others = (getattr(family, one) for one in (name, *below))
        return await before.tenant.suspend(agent, *others)

    return suspend


async def served_session_ended(before: Before, family: Family) -> int:
    session = await before.tenant.log.find(Session, family.child.subject_session_id)
    assert session is not None
    with in_zone(before.tenant.id):
        session.revoke("token_revoked")
    return await before.tenant.save(session)


async def application_ended(before: Before, family: Family) -> int:
    graph = graph_of(before.tenant.id, *family.all)
    with in_zone(before.tenant.id):
        family.application.archive(graph.of_application(family.application.aggregate_id))
    return await before.tenant.save(family.application)


ENDS: dict[str, End] = {
    "agent": ended("child"),
    "parent": ended("parent"),
    "grandparent": ended("grandparent"),
    "lender": ended("lender"),
    "above the lender": ended("lender_parent"),
    "edge": ended("second"),
    "first edge": ended("first"),
    "served session": served_session_ended,
    "application": application_ended,
    "agent suspended": suspended("child"),
    "grandparent suspended": suspended("grandparent", "parent", "child"),
    "lender suspended": suspended("lender"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_what_ends_the_authority_cuts_the_stream_and_refuses_the_next_call(
    before: Before, family: Family, end: End
) -> None:
    token = await before.ambient(family.child, family.second)
    before.scene.upstream.behaviour = feed = Feed()
    headers = before.scene.headers() | {"Authorization": f"Bearer {token}"}
    async with Wire.opened(before.scene.url) as wire:
        feed.give(b"data: 1\n\n")
        head = await wire.ask("/events", headers)
        assert head.status_code == 200
        assert await wire.piece() == b"data: 1\n\n"
        await end(before, family)
        assert await wire.rest() == (b"", REVOKED)
    before.scene.upstream.behaviour = None
    seen = len(before.scene.upstream.requests)
    answer = await before.call(token)
    assert (answer.status_code, answer.json()["error_description"]) == (401, "session revoked")
    assert len(before.scene.upstream.requests) == seen


async def test_an_agent_without_an_edge_goes_on_when_the_edge_ends(
    before: Before, family: Family
) -> None:
    """Only what hangs on the edge falls with it; that its target ends is another matter."""
    token = await before.ambient(family.grandparent)
    await before.tenant.end(family.first, *family.all)
    assert (await before.call(token)).status_code == 200


async def test_a_suspended_agent_is_blocked_until_it_is_resumed(
    before: Before, family: Family
) -> None:
    tenant = before.tenant
    token = await before.ambient(family.child, family.second)
    assert (await before.call(token)).status_code == 200
    below = family.parent, family.child
    await tenant.suspend(family.grandparent, *below)
    assert (await before.call(token)).status_code == 401
    await tenant.resume(family.child)  # what is above it is suspended still
    assert (await before.call(token)).status_code == 401
    await tenant.resume(family.grandparent, family.parent)
    assert (await before.call(token)).status_code == 200


async def test_claims_of_agent_and_edge_reach_the_upstream(before: Before, family: Family) -> None:
    claims = await before.mandate_of(await before.ambient(family.child, family.second))
    assert claims["use"] == "per_call"
    assert claims["agent_session_id"] == family.child.aggregate_id
    assert claims["delegation_path"] == [family.first.aggregate_id, family.second.aggregate_id]
    assert claims["hop_count"] == 2


def baggage(agent: Agent | None = None, edge: Delegation | None = None) -> dict[str, str]:
    entries = {"caracal.agent_session": agent, "caracal.delegation_edge": edge}
    said = (f"{name}={one.aggregate_id}" for name, one in entries.items() if one is not None)
    return {"baggage": ",".join(said)}


def bound(claims: mandate.Claims) -> tuple[str | None, str | None]:
    return claims.get("agent_session_id"), claims.get("delegation_edge_id")


async def test_baggage_binds_a_call_to_an_agent_of_the_callers_own(
    before: Before, family: Family
) -> None:
    tenant = before.tenant
    own = {"sub": family.child.application_id, "client_id": family.child.application_id}
    bare, child, parent = tenant.token(**own), family.child, family.parent

    async def sent(token: str, *entries: Any) -> tuple[str | None, str | None]:
        return bound(await before.mandate_of(token, **baggage(*entries)))

    agent_id, edge_id = child.aggregate_id, family.second.aggregate_id
    assert await sent(bare) == (None, None)
    assert await sent(bare, child) == (agent_id, None)
    assert await sent(bare, child, family.second) == (agent_id, edge_id)
    # Who delegates names its own session and the new edge, which it cannot exercise.
    assert await sent(bare, parent, family.second) == (parent.aggregate_id, None)
    assert await sent(bare, None, family.second) == (None, None)
    # Another application's agent, and one that there is not.
    assert await sent(bare, family.lender) == (None, None)
    # What the bearer says stands.
    with_agent = await before.ambient(child)
    assert await sent(with_agent, parent) == (agent_id, None)
    assert await sent(with_agent, parent, family.second) == (agent_id, edge_id)
    with_edge = await before.ambient(child, family.second)
    assert await sent(with_edge, parent, family.first) == (agent_id, edge_id)


async def test_baggage_of_an_agent_that_has_ended_refuses(before: Before, family: Family) -> None:
    own = {"sub": family.child.application_id, "client_id": family.child.application_id}
    token = before.tenant.token(**own)
    await before.tenant.end(family.parent, *family.all)
    answer = await before.call(token, **baggage(family.child))
    assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")
    assert (await before.call(token)).status_code == 200


async def test_a_stream_bound_by_baggage_ends_with_the_agent(
    before: Before, family: Family
) -> None:
    own = {"sub": family.child.application_id, "client_id": family.child.application_id}
    before.scene.upstream.behaviour = feed = Feed()
    headers = before.scene.headers(**own) | baggage(family.child)
    async with Wire.opened(before.scene.url) as wire:
        feed.give(b"data: 1\n\n")
        await wire.ask("/events", headers)
        assert await wire.piece() == b"data: 1\n\n"
        await before.tenant.end(family.grandparent, *family.all)
        assert await wire.rest() == (b"", REVOKED)


async def test_baggage_of_nobody_is_no_agent_and_is_sought_once(before: Before) -> None:
    token, tail = before.tenant.token(), before.scene.gateway.view.following
    hints = {"baggage": f"caracal.agent_session={new_id()},caracal.delegation_edge={new_id()}"}
    assert bound(await before.mandate_of(token, **hints)) == (None, None)
    sought = tail.log_reads
    for _ in range(20):
        assert bound(await before.mandate_of(token, **hints)) == (None, None)
    assert tail.log_reads <= sought + 10  # the tail may look by itself


async def test_an_agent_is_found_that_began_a_moment_ago(before: Before, family: Family) -> None:
    own = {"sub": family.child.application_id, "client_id": family.child.application_id}
    token = before.tenant.token(**own)
    session = await before.tenant.add_session(application_id=family.application.aggregate_id)
    for _ in range(5):
        agent = await before.tenant.add_agent(session=session)
        sent = await before.mandate_of(token, **baggage(agent))
        assert sent["agent_session_id"] == agent.aggregate_id
