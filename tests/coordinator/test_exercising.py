"""What two STSs and a Gateway say of agents and edges that a Coordinator made (STS, section 9).

Every state comes of routes, and time of the clock. Three rows no route can bring about (6, 7 and
10, parts of 12): there the Coordinator refuses what would be needed, and the log is written to.
Row 11 is a view that lacks a change it should have: ``tests/sts/test_delegation.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from caracal import clock, mandate
from caracal.events.agent import Agent
from caracal.ids import new_id
from caracal.secret_hash import of_random
from caracal.services.gateway.app import create_app as gateway_app
from caracal.services.sts.app import create_app as sts_app
from tests.coordinator.edges import Edge, edge_of, told
from tests.coordinator.running import Crew, Ship, unknown
from tests.gateway.doubles import Upstream
from tests.gateway.scene import settings as gateway_settings
from tests.making import new_edge, row_of
from tests.sts.test_agents import ago
from tests.sts.world import VAULT, serving
from tests.sts.world import settings as sts_settings

SECRET = "of-the-other-application"
ADMIN = "coordinator.admin"
Form = dict[str, Any]


@dataclass(frozen=True)
class Doors:
    """Where mandates are had, and where they are shown."""

    stss: tuple[str, ...]
    gateway: str
    upstream: str


@pytest.fixture(scope="module")
async def doors(coordinator: Ship) -> AsyncIterator[Doors]:
    urls = coordinator.settings.database_url, coordinator.settings.redis_url
    first = coordinator.settings.sts_url
    async with (
        serving(sts_app(sts_settings(*urls))) as second,
        serving(gateway_app(gateway_settings(*urls, second))) as gateway,
        serving(Upstream()) as upstream,
    ):
        yield Doors((first, second), gateway, upstream)


class Cast:
    """Agents of two applications, and what a test makes of them by the Coordinator's routes."""

    def __init__(self, crew: Crew, other: Crew, doors: Doors, patch: pytest.MonkeyPatch) -> None:
        self.crew, self.other, self.doors, self.patch = crew, other, doors, patch
        self._tokens = {one.application_id: one.token(ADMIN) for one in (crew, other)}

    async def agent(self, by: Crew | None = None, **members: Any) -> Edge:
        owner = by or self.crew
        given = {"subject_session_id": owner.sid, **members}
        return await self._made("/agents", owner.application_id, **given)

    async def in_the_past(self, **members: Any) -> Edge:
        """An agent whose hour is over."""
        with ago(self.patch, hours=1, seconds=1):
            return await self.agent(**members)

    async def edge(self, source: Edge, target: Edge, **members: Any) -> Edge:
        body = edge_of(source, target, **members)
        return await self._made("/delegations", source["application_id"], **body)

    async def _made(self, path: str, application_id: str, **body: Any) -> Edge:
        body = {"application_id": application_id, **body}
        answer = await self.crew.call("POST", path, body, token=self._tokens[application_id])
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def pair(self, **members: Any) -> Edge:
        """An edge between two new agents."""
        return await self.edge(await self.agent(), await self.agent(), **members)

    async def chain(self, **members: Any) -> tuple[Edge, Edge]:
        """An edge, and one that was narrowed from it."""
        a, b, c = [await self.agent() for _ in range(3)]
        first = await self.edge(a, b, constraints={"max_hops": 3}, **members)
        return first, await self.edge(b, c, parent_edge_id=first["id"], **members)

    async def call(self, method: str, path: str) -> None:
        answer = await self.crew.call(method, path, scopes=[ADMIN])
        assert answer.status_code in (200, 204), answer.text

    async def suspend(self, agent: str) -> None:
        await self.call("PATCH", f"/agents/{agent}/suspend")

    async def resume(self, agent: str) -> None:
        await self.call("PATCH", f"/agents/{agent}/resume")

    async def end(self, agent: str) -> None:
        await self.call("DELETE", f"/agents/{agent}")

    async def refused(self, code: str, source: Edge, target: Edge, **members: Any) -> None:
        """The Coordinator makes no such edge."""
        body = edge_of(source, target, **members)
        answer = await self.crew.call("POST", "/delegations", body, scopes=[ADMIN])
        assert told(answer)[1] == code, answer.text

    async def in_log(self, source: Edge, target: Edge, /, **members: Any) -> Edge:
        """An edge as no route makes it."""
        found = await self.crew.log.find_all(Agent, (source["id"], target["id"]))
        agents = {one.aggregate_id: one for one in found}
        given = {"constraints": {}, "zone_id": self.crew.zone} | members
        made = new_edge(agents[source["id"]], agents[target["id"]], **given)
        await self.crew.save(made)
        return {"id": made.aggregate_id, "target_session_id": target["id"], "made": made}

    async def exchange(self, sts: str, **form: Any) -> httpx.Response:
        """Ask an STS that has seen all that the log has."""
        async with self.crew.database() as db:
            row = await (await db.execute("SELECT max(position) FROM log")).fetchone()
        assert row is not None
        url, headers = f"{sts}/oauth/2/token", {"Caracal-Min-Position": str(row[0])}
        given = self.crew.tenant.form(**form)
        return await self.crew.client.post(url, data=given, headers=headers)

    async def minted(self, **form: Any) -> str:
        answer = await self.exchange(self.doors.stss[0], **form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def as_other(self) -> Form:
        return {"application_id": self.other.application_id, "client_secret": SECRET}


@pytest.fixture(scope="module")
async def cast(coordinator: Ship, doors: Doors) -> AsyncIterator[Cast]:
    """One zone for all tests here: each makes agents of its own."""
    crew, secret = await coordinator.crew(), VAULT.seal(of_random(SECRET).encode())
    with pytest.MonkeyPatch.context() as patch:
        yield Cast(crew, await crew.another(secret=secret), doors, patch)


def by(edge: Edge, agent: Edge | None = None, **more: Any) -> Form:
    """The members by which an agent exercises an edge."""
    agent_id = agent["id"] if agent else edge["target_session_id"]
    return {"agent_session_id": agent_id, "delegation_edge_id": edge["id"], **more}


def alone(agent: Edge, **more: Any) -> Form:
    return {"agent_session_id": agent["id"], **more}


# --- an agent without an edge -----------------------------------------------------------------


async def nobody(cast: Cast) -> Form:
    return {"agent_session_id": unknown()}


async def suspended(cast: Cast) -> Form:
    agent = await cast.agent()
    await cast.suspend(agent["id"])
    return alone(agent)


async def under_a_suspended_one(cast: Cast) -> Form:
    parent = await cast.agent()
    child = await cast.agent(parent_id=parent["id"])
    await cast.suspend(parent["id"])
    return alone(child)


async def resumed_under_a_suspended_one(cast: Cast) -> Form:
    form = await under_a_suspended_one(cast)
    await cast.resume(form["agent_session_id"])
    return form


async def ended(cast: Cast) -> Form:
    agent = await cast.agent()
    await cast.end(agent["id"])
    return alone(agent)


async def under_an_ended_one(cast: Cast) -> Form:
    root = await cast.agent()
    parent = await cast.agent(parent_id=root["id"])
    child = await cast.agent(parent_id=parent["id"])
    await cast.end(root["id"])
    return alone(child)


async def in_the_past(cast: Cast) -> Form:
    return alone(await cast.in_the_past())


async def under_one_in_the_past(cast: Cast) -> Form:
    """The child has time left; it began when its parent still had."""
    with ago(cast.patch, hours=1, seconds=1):
        parent = await cast.agent()
        child = await cast.agent(parent_id=parent["id"], ttl_seconds=80_000)
    return alone(child)


async def of_another_application(cast: Cast) -> Form:
    return alone(await cast.agent(cast.other))


async def shown_by_another_application(cast: Cast) -> Form:
    return alone(await cast.agent(), **cast.as_other())


async def of_a_revoked_session(cast: Cast) -> Form:
    """What an agent acts for has ended: the agent lives on, and nobody acts by it."""
    token = await cast.minted()
    sid = mandate.peek(token).claims["sid"]
    agent = await cast.agent(subject_session_id=sid)
    form = cast.crew.tenant.form(resource=None, token=token)
    answer = await cast.crew.client.post(f"{cast.doors.stss[1]}/oauth/2/revoke", data=form)
    assert answer.status_code == 200, answer.text
    return alone(agent)


# --- an edge, row by row ----------------------------------------------------------------------


async def row_1(cast: Cast) -> Form:
    return {"delegation_edge_id": (await cast.pair())["id"]}


async def row_2_unknown(cast: Cast) -> Form:
    return {**alone(await cast.agent()), "delegation_edge_id": unknown()}


async def row_2_revoked(cast: Cast) -> Form:
    edge = await cast.pair()
    await cast.call("PATCH", f"/delegations/{edge['id']}/revoke")
    return by(edge)


async def row_2_in_the_past(cast: Cast) -> Form:
    a, b = await cast.agent(ttl_seconds=80_000), await cast.agent(ttl_seconds=80_000)
    past = clock.rfc3339(clock.now() - timedelta(seconds=1))
    with ago(cast.patch, seconds=30):
        return by(await cast.edge(a, b, expires_at=past))


async def row_2_constraint_in_the_past(cast: Cast) -> Form:
    a, b = await cast.agent(ttl_seconds=80_000), await cast.agent(ttl_seconds=80_000)
    past = clock.rfc3339(clock.now() - timedelta(seconds=1))
    with ago(cast.patch, seconds=30):
        return by(await cast.edge(a, b, constraints={"expires_at": past}))


async def row_2_with_an_ended_source(cast: Cast) -> Form:
    edge = await cast.pair()
    await cast.end(edge["source_session_id"])
    return by(edge)


async def row_2_with_an_ended_target(cast: Cast) -> Form:
    edge = await cast.pair()
    await cast.end(edge["target_session_id"])
    return by(edge)


async def row_2_below_a_revoked_edge(cast: Cast) -> Form:
    first, second = await cast.chain()
    await cast.call("PATCH", f"/delegations/{first['id']}/revoke")
    return by(second)


async def row_2_below_an_ended_root(cast: Cast) -> Form:
    first, second = await cast.chain()
    await cast.end(first["source_session_id"])
    return by(second)


async def row_3(cast: Cast) -> Form:
    edge = await cast.pair()
    return by(edge, {"id": edge["source_session_id"]})


async def row_4_suspended(cast: Cast) -> Form:
    edge = await cast.pair()
    await cast.suspend(edge["source_session_id"])
    return by(edge)


async def row_4_under_a_suspended_one(cast: Cast) -> Form:
    parent = await cast.agent()
    child = await cast.agent(parent_id=parent["id"])
    edge = await cast.edge(child, await cast.agent())
    await cast.suspend(parent["id"])
    return by(edge)


async def row_4_in_the_past(cast: Cast) -> Form:
    with ago(cast.patch, hours=1, seconds=1):
        source, target = await cast.agent(), await cast.agent(ttl_seconds=80_000)
        return by(await cast.edge(source, target))


async def row_5_suspended(cast: Cast) -> Form:
    edge = await cast.pair()
    await cast.suspend(edge["target_session_id"])
    return by(edge)


async def row_5_in_the_past(cast: Cast) -> Form:
    with ago(cast.patch, hours=1, seconds=1):
        source, target = await cast.agent(ttl_seconds=80_000), await cast.agent()
        return by(await cast.edge(source, target))


async def row_5_of_another_application(cast: Cast) -> Form:
    return by(await cast.edge(await cast.agent(), await cast.agent(cast.other)))


async def row_5_shown_by_another_application(cast: Cast) -> Form:
    return by(await cast.pair(), **cast.as_other())


async def row_6(cast: Cast) -> Form:
    source, target = await cast.agent(), await cast.agent()
    wrong = {"receiver_application_id": cast.other.application_id}
    await cast.refused("delegation_application_mismatch", source, target, **wrong)
    (found,) = await cast.crew.log.find_all(Agent, (source["id"],))
    row = {**row_of(found), "application_id": new_id()}
    return by(await cast.in_log(source, target, source=row))


async def row_7(cast: Cast) -> Form:
    source, target, magic = await cast.agent(), await cast.agent(), {"magic": True}
    await cast.refused("invalid_delegation_constraint", source, target, constraints=magic)
    return by(await cast.in_log(source, target, constraints=magic))


async def row_8(cast: Cast) -> Form:
    return by(await cast.pair(), scope="read agent:lifecycle")


async def row_8_nothing(cast: Cast) -> Form:
    return by(await cast.pair(scopes=[]), scope="read")


async def row_9(cast: Cast) -> Form:
    both = ["read", "agent:lifecycle"]
    edge = await cast.pair(scopes=both, constraints={"budget": 1})
    return by(edge, scope=" ".join(both))


async def row_10(cast: Cast) -> Form:
    a, b, c = [await cast.agent() for _ in range(3)]
    first = await cast.edge(a, b)
    code = "delegation_exceeds_parent_authority"
    await cast.refused(code, b, c, parent_edge_id=first["id"])
    parent = {"id": first["id"], "path": [first["id"]]}
    return by(await cast.in_log(b, c, parent=parent))


async def row_12_suspended_root(cast: Cast) -> Form:
    first, second = await cast.chain()
    await cast.suspend(first["source_session_id"])
    return by(second)


async def row_12_root_in_the_past(cast: Cast) -> Form:
    with ago(cast.patch, hours=1, seconds=1):
        a = await cast.agent()
        b, c = await cast.agent(ttl_seconds=80_000), await cast.agent(ttl_seconds=80_000)
        first = await cast.edge(a, b, constraints={"max_hops": 3})
        return by(await cast.edge(b, c, parent_edge_id=first["id"]))


async def row_12_discontinuous(cast: Cast) -> Form:
    a, b, c, d = [await cast.agent() for _ in range(4)]
    first = await cast.edge(a, b, constraints={"max_hops": 3})
    await cast.edge(d, c)
    code = "parent_delegation_not_active"
    await cast.refused(code, c, await cast.agent(), parent_edge_id=first["id"])
    parent = {"id": first["id"], "path": [first["id"]]}
    return by(await cast.in_log(c, await cast.agent(), parent=parent))


async def row_12_endpoints(cast: Cast) -> Form:
    a, b, c = [await cast.agent() for _ in range(3)]
    (found,) = await cast.crew.log.find_all(Agent, (a["id"],))
    row = {**row_of(found), "application_id": new_id()}
    first = await cast.in_log(a, b, source=row, constraints={"max_hops": 2})
    return by(await cast.in_log(b, c, parent=first["made"]))


AGENT = "agent session inactive or not owned by caller"
INACTIVE = "delegation edge inactive or expired"
SOURCE = "delegation source inactive or expired"
TARGET = "delegation target inactive or unauthorized"
SCOPES = "requested scopes exceed delegation scopes"
PATH_EDGE = "delegation path edge inactive or revoked"

ROWS: dict[str, list[Callable[[Cast], Awaitable[Form]]]] = {
    AGENT: [
        nobody,
        suspended,
        under_a_suspended_one,
        resumed_under_a_suspended_one,
        ended,
        under_an_ended_one,
        in_the_past,
        under_one_in_the_past,
        of_another_application,
        shown_by_another_application,
    ],
    "session revoked": [of_a_revoked_session],
    "delegation edge requires agent session": [row_1],
    INACTIVE: [
        row_2_unknown,
        row_2_revoked,
        row_2_in_the_past,
        row_2_constraint_in_the_past,
        row_2_with_an_ended_source,
        row_2_with_an_ended_target,
        row_2_below_a_revoked_edge,
        row_2_below_an_ended_root,
    ],
    "delegation edge target mismatch": [row_3],
    SOURCE: [row_4_suspended, row_4_under_a_suspended_one, row_4_in_the_past],
    TARGET: [
        row_5_suspended,
        row_5_in_the_past,
        row_5_of_another_application,
        row_5_shown_by_another_application,
    ],
    "delegation application mismatch": [row_6],
    "delegation constraints invalid": [row_7],
    SCOPES: [row_8, row_8_nothing],
    "requested scopes exceed delegation budget": [row_9],
    "delegation path invalid": [row_10],
    PATH_EDGE: [row_12_suspended_root, row_12_root_in_the_past],
    "delegation chain discontinuous": [row_12_discontinuous],
    "delegation chain endpoints mismatch": [row_12_endpoints],
}
CASES = [
    pytest.param(make, said, id=make.__name__) for said, makes in ROWS.items() for make in makes
]


@pytest.mark.parametrize(("make", "said"), CASES)
async def test_each_row_is_refused_at_every_replica(
    cast: Cast, make: Callable[[Cast], Awaitable[Form]], said: str
) -> None:
    form = await make(cast)
    answers = [await cast.exchange(sts, **form) for sts in cast.doors.stss]
    refused = (403, "access_denied", said)
    for answer in answers:
        body = answer.json()
        assert (answer.status_code, body["error"], body["error_description"]) == refused


# --- what was minted before -------------------------------------------------------------------


async def shown(cast: Cast, token: str, resource: str) -> list[bool]:
    """Whether a mandate is accepted: by introspection at each STS, by the Gateway."""
    async with cast.crew.database() as db:
        row = await (await db.execute("SELECT max(position) FROM log")).fetchone()
    assert row is not None
    seen, http = {"Caracal-Min-Position": str(row[0])}, cast.crew.client
    form = cast.crew.tenant.form(resource=None, token=token)
    asked = [http.post(f"{sts}/oauth/2/introspect", data=form, headers=seen) for sts in _stss(cast)]
    actives = [answer.json()["active"] for answer in await asyncio.gather(*asked)]
    headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": resource, **seen}
    headers["X-Caracal-Scope"] = "read"
    passed = await http.get(f"{cast.doors.gateway}/things", headers=headers)
    assert passed.status_code in (200, 401), passed.text
    return [*actives, passed.status_code == 200]


def _stss(cast: Cast) -> tuple[str, ...]:
    return cast.doors.stss


@dataclass(frozen=True)
class Line:
    """root -> middle -> last by birth; lender -> middle -> last by edges; mandates of all."""

    root: str
    middle: str
    last: str
    lender: str
    first: str
    second: str
    resource: str
    tokens: dict[str, str]

    async def accepted(self, cast: Cast) -> set[str]:
        """Whose mandates are accepted everywhere; the others are nowhere."""
        found = set()
        for name, token in self.tokens.items():
            said = await shown(cast, token, self.resource)
            assert len(set(said)) == 1, (name, said)
            found |= {name} if said[0] else set()
        return found


@pytest.fixture
async def line(cast: Cast) -> Line:
    resource = await cast.crew.tenant.add_resource(
        upstream_url=cast.doors.upstream, scopes=["read", "agent:lifecycle"]
    )
    root, lender = await cast.agent(), await cast.agent()
    middle = await cast.agent(parent_id=root["id"])
    last = await cast.agent(parent_id=middle["id"])
    first = await cast.edge(lender, middle, constraints={"max_hops": 3})
    second = await cast.edge(middle, last, parent_edge_id=first["id"])
    forms = {
        "root": alone(root),
        "lender": alone(lender),
        "middle": alone(middle),
        "last": alone(last),
        "first": by(first),
        "second": by(second),
    }
    named = {"resource": resource.identifier, "scope": "read"}
    tokens = {name: await cast.minted(**form, **named) for name, form in forms.items()}
    return Line(
        root["id"],
        middle["id"],
        last["id"],
        lender["id"],
        first["id"],
        second["id"],
        resource.identifier,
        tokens,
    )


EVERYTHING = {"root", "lender", "middle", "last", "first", "second"}


async def test_suspended_is_blocked_everywhere_and_resumed_is_not(cast: Cast, line: Line) -> None:
    assert await line.accepted(cast) == EVERYTHING
    await cast.suspend(line.root)
    assert await line.accepted(cast) == {"lender"}
    await cast.resume(line.last)  # those above it are suspended still
    assert await line.accepted(cast) == {"lender"}
    await cast.resume(line.root)
    assert await line.accepted(cast) == EVERYTHING
    await cast.suspend(line.lender)
    assert await line.accepted(cast) == {"root", "middle", "last"}
    await cast.resume(line.lender)
    assert await line.accepted(cast) == EVERYTHING


ENDS: dict[str, tuple[Callable[[Cast, Line], Awaitable[None]], set[str]]] = {
    "root": (lambda cast, line: cast.end(line.root), {"lender"}),
    "middle": (lambda cast, line: cast.end(line.middle), {"root", "lender"}),
    "last": (lambda cast, line: cast.end(line.last), {"root", "lender", "middle", "first"}),
    "lender": (lambda cast, line: cast.end(line.lender), {"root", "middle", "last"}),
    "first edge": (
        lambda cast, line: cast.call("PATCH", f"/delegations/{line.first}/revoke"),
        {"root", "lender"},
    ),
    "second edge": (
        lambda cast, line: cast.call("PATCH", f"/delegations/{line.second}/revoke"),
        {"root", "lender", "middle", "first"},
    ),
}


@pytest.mark.parametrize(("end", "left"), ENDS.values(), ids=ENDS)
async def test_what_ends_takes_with_it_all_that_hung_on_it(
    cast: Cast, line: Line, end: Callable[[Cast, Line], Awaitable[None]], left: set[str]
) -> None:
    await end(cast, line)
    assert await line.accepted(cast) == left
