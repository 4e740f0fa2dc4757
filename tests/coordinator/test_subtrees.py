"""Agents with those below them: suspended, resumed, ended; edges and read models whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.store.entries import LogReader
from caracal.projections.agent_graph import zone_graph
from caracal.services.agent_subtree import Subtree
from caracal.services.cascade import Ground
from tests.coordinator.running import Crew, Ship, ship, unknown
from tests.coordinator.test_agents import refusal
from tests.coordinator.trees import Tree, edge, planted
from tests.making import in_zone


@pytest.fixture
async def tree(crew: Crew) -> Tree:
    return await planted(crew)


async def test_suspended_through_the_active_ones_and_resumed(crew: Crew, tree: Tree) -> None:
    await crew.call("PATCH", f"/agents/{tree.child}/suspend")
    answer = await crew.call("PATCH", f"/agents/{tree.root}/suspend", {"ignored": 1})
    assert answer.json() == {"suspended": True, "affected": 2}
    assert await crew.statuses() == tree.statuses("suspended")
    again = await crew.call("PATCH", f"/agents/{tree.root}/suspend")
    assert refusal(again) == (409, "agent_not_found_or_not_active")
    answer = await crew.call("PATCH", f"/agents/{tree.root}/resume")
    assert answer.json() == {"resumed": True, "affected": 4}  # the child on its own before, too
    assert await crew.statuses() == tree.statuses("active")
    again = await crew.call("PATCH", f"/agents/{tree.root}/resume")
    assert refusal(again) == (409, "agent_not_found_or_not_suspended")


async def test_a_child_resumed_under_a_suspended_parent_cannot_act(crew: Crew, tree: Tree) -> None:
    await crew.call("PATCH", f"/agents/{tree.root}/suspend")
    answer = await crew.call("PATCH", f"/agents/{tree.child}/resume")
    assert answer.json() == {"resumed": True, "affected": 2}
    assert (await crew.statuses())[tree.child] == "active"
    body = {"application_id": crew.application_id, "parent_id": tree.child}
    assert refusal(await crew.call("POST", "/agents", body)) == (404, "parent_not_found")


async def test_resuming_a_service_leases_anew(crew: Crew) -> None:
    service = await crew.spawn(kind="service")
    other = await crew.spawn(parent_id=service["id"])
    await crew.call("PATCH", f"/agents/{service['id']}/suspend")
    await crew.call("PATCH", f"/agents/{service['id']}/resume")
    shown = (await crew.call("GET", f"/agents/{service['id']}")).json()
    assert shown["heartbeat_deadline_at"] > service["heartbeat_deadline_at"]
    below = (await crew.call("GET", f"/agents/{other['id']}")).json()
    assert below["heartbeat_deadline_at"] is None


async def test_ended_with_its_subtree_and_its_edges(crew: Crew, tree: Tree) -> None:
    inward = await edge(crew, tree.outside, tree.child)
    outward = await edge(crew, tree.grandchild, tree.further)
    narrowed = await edge(crew, tree.further, tree.outside, parent=outward)
    apart = await edge(crew, tree.outside, tree.sibling)
    await crew.call("PATCH", f"/agents/{tree.child}/suspend")
    answer = await crew.call("DELETE", f"/agents/{tree.child}?reason=done%20here")
    assert (answer.status_code, answer.content) == (204, b"")
    statuses = await crew.statuses()
    assert {one: statuses[one] for one in (tree.child, tree.grandchild)} == {
        tree.child: "terminated",
        tree.grandchild: "terminated",
    }
    others = (tree.root, tree.sibling, tree.outside, tree.further)
    assert {statuses[one] for one in others} == {"active"}
    async with crew.database() as db:
        cursor = await db.execute(
            "SELECT id, status FROM delegations WHERE zone_id = %s", (crew.zone,)
        )
        edges = dict(await cursor.fetchall())
    assert edges == {
        inward.aggregate_id: "revoked",
        outward.aggregate_id: "revoked",
        narrowed.aggregate_id: "revoked",
        apart.aggregate_id: "active",
    }
    (fact,) = await crew.facts("agent.terminated")
    assert fact["reason"] == "done here"
    assert {one["id"] for one in fact["agents"]} == {tree.child, tree.grandchild}
    assert fact["roots"][0]["id"] == tree.child
    shown = (await crew.call("GET", f"/agents/{tree.grandchild}")).json()
    assert shown["terminated_at"] is not None


async def test_ending_again_is_no_error(crew: Crew, tree: Tree) -> None:
    for _ in range(2):
        answer = await crew.call("DELETE", f"/agents/{tree.root}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert "caracal-position" not in answer.headers
    assert len(await crew.facts("agent.terminated")) == 1
    below = await crew.call("DELETE", f"/agents/{tree.child}")
    assert below.status_code == 204
    for verb, code in (("suspend", "active"), ("resume", "suspended")):
        answer = await crew.call("PATCH", f"/agents/{tree.child}/{verb}")
        assert refusal(answer) == (409, f"agent_not_found_or_not_{code}")


async def test_who_ended_long_ago_is_known_though_the_view_has_forgotten(
    coordinator: Ship, ship_database: str, ship_redis: str, crew: Crew, tree: Tree
) -> None:
    await crew.call("DELETE", f"/agents/{tree.root}")
    long_ago = "UPDATE agents SET terminated_at = now() - interval '1 day' WHERE id = %s"
    async with crew.database() as db:
        await db.execute(long_ago, (tree.root,))
    parts = {"worker": False, "sts": coordinator.settings.sts_url}
    async with ship(ship_database, ship_redis, **parts) as another:  # type: ignore[arg-type]
        there = crew.at(another)
        assert (await there.call("DELETE", f"/agents/{tree.root}")).status_code == 204
        answer = await there.call("PATCH", f"/agents/{tree.root}/suspend")
        assert refusal(answer) == (409, "agent_not_found_or_not_active")


async def test_many_at_once_end_it_once(crew: Crew, tree: Tree) -> None:
    deletes = (crew.call("DELETE", f"/agents/{tree.root}") for _ in range(32))
    answers = await asyncio.gather(*deletes)
    assert {answer.status_code for answer in answers} == {204}
    assert len(await crew.facts("agent.terminated")) == 1
    assert (await crew.statuses())[tree.grandchild] == "terminated"


@pytest.mark.parametrize("reason", ["", "a" * 257])
async def test_reasons_that_are_none(crew: Crew, tree: Tree, reason: str) -> None:
    answer = await crew.call("DELETE", f"/agents/{tree.root}?reason={reason}")
    assert refusal(answer) == (400, "invalid_query")


COMMANDS = (("PATCH", "/suspend"), ("PATCH", "/resume"), ("DELETE", ""), ("POST", "/heartbeat"))


@pytest.mark.parametrize(("method", "verb"), COMMANDS)
async def test_whose_agent_it_is(crew: Crew, method: str, verb: str) -> None:
    agent = (await crew.spawn())["id"]
    other = await crew.another()
    path = f"/agents/{agent}{verb}"
    assert refusal(await other.call(method, path)) == (403, "application_ownership_required")
    missing = await other.call(method, f"/agents/{unknown()}{verb}")
    assert refusal(missing) == (404, "agent_not_found")
    for power in ("coordinator.admin", f"coordinator.spawn_for:{crew.application_id}"):
        if verb == "/resume":
            await crew.call("PATCH", f"/agents/{agent}/suspend")
        answer = await other.call(method, path, scopes=[power])
        assert answer.status_code in (200, 204), answer.text
        if verb == "/suspend":
            await crew.call("PATCH", f"/agents/{agent}/resume")


async def test_the_application_of_the_root_is_asked_alone(crew: Crew) -> None:
    other = await crew.another()
    root = await crew.spawn()
    power = f"coordinator.spawn_under:{crew.application_id}"
    child = await other.spawn(scopes=[power], parent_id=root["id"])
    await crew.call("PATCH", f"/agents/{root['id']}/suspend")
    assert (await crew.statuses())[child["id"]] == "suspended"


# --- what begins while it is listed -----------------------------------------------------------


class Slow(Ground):
    """Ground on which something happens between the first listing and the commit."""

    happens: Any
    listed = 0

    async def graph(self, *asked: Any, **also: Any) -> AgentGraph:
        graph = await super().graph(*asked, **also)
        Slow.listed += 1
        if Slow.listed == 1:
            await Slow.happens()
        return graph


@pytest.mark.parametrize("command", ["suspend", "terminate"])
async def test_what_begins_while_it_is_listed_is_taken_too(
    crew: Crew, tree: Tree, command: str
) -> None:
    late: list[Any] = []

    async def happens() -> None:
        first = await crew.spawn(parent_id=tree.grandchild)
        late.append(await crew.spawn(parent_id=first["id"]))
        late.append(first)
        late.append(await edge(crew, tree.child, tree.outside))

    Slow.happens, Slow.listed = staticmethod(happens), 0
    ground = Slow(crew.log, crew.database)
    subtree = Subtree(ground, crew.zone, tree.root)
    with in_zone(crew.zone):
        saved = await getattr(subtree, command)()
    assert await crew.waiter.applied(saved, timeout=10)
    statuses = await crew.statuses()
    ended = "suspended" if command == "suspend" else "terminated"
    assert {statuses[one["id"]] for one in late[:2]} == {ended}
    assert subtree.affected == 6
    async with crew.database() as db:
        graph = await zone_graph(db, crew.zone)
    assert graph.edges.keys() == ({late[2].aggregate_id} if command == "suspend" else set())
    facts = await crew.facts(f"agent.{command}ed" if command == "suspend" else "agent.terminated")
    assert [fact["part"] for fact in facts] == [1, 2]


async def test_32_spawn_below_while_the_root_ends(crew: Crew, tree: Tree) -> None:
    """Whoever got in before is ended, whoever came after is refused; no slot is lost."""
    body = {"application_id": crew.application_id, "kind": "instance"}
    parents = [tree.root, tree.child, tree.grandchild, tree.sibling] * 8
    spawns = [
        asyncio.create_task(crew.call("POST", "/agents", {**body, "parent_id": parent}))
        for parent in parents
    ]
    ended = await crew.call("DELETE", f"/agents/{tree.root}")
    answers = await asyncio.gather(*spawns)
    assert ended.status_code == 204
    assert {answer.status_code for answer in answers} <= {201, 404}
    async with crew.database() as db:
        end = await LogReader(db).end()
        assert await crew.waiter.reached(db, end, timeout=10)
        graph = await zone_graph(db, crew.zone)
        count = await counted(db, f"agents:{crew.zone}")
    assert set(graph.agents) == {tree.outside, tree.further}
    assert count == 2


async def counted(db: AsyncConnection[Any], key: str) -> int:
    row = await (await db.execute("SELECT n FROM guard_count WHERE key = %s", (key,))).fetchone()
    return int(row[0]) if row else 0


# --- the worker is down -----------------------------------------------------------------------


@pytest.fixture
async def adrift(coordinator: Ship, database_url: str, redis_url: str) -> AsyncIterator[Ship]:
    """A Coordinator without a worker."""
    async with ship(database_url, redis_url, worker=False) as running:
        yield running


async def test_without_the_worker_nothing_is_missed(adrift: Ship) -> None:
    crew = await adrift.crew()
    body = {"application_id": crew.application_id}
    made = []
    parent = None
    for _ in range(3):
        answer = await crew.call("POST", "/agents", {**body, "parent_id": parent})
        assert answer.status_code == 201, answer.text
        assert answer.headers["caracal-consistency"] == "pending"
        parent = answer.json()["id"]
        made.append(parent)
    between = await edge(crew, made[2], made[0], worker=False)
    answer = await crew.call("DELETE", f"/agents/{made[0]}")
    assert answer.status_code == 204
    assert answer.headers["caracal-consistency"] == "pending"
    (fact,) = await crew.facts("agent.terminated")
    assert {one["id"] for one in fact["agents"]} == set(made)
    assert fact["edges"] == [between.aggregate_id]
    refused = await crew.call("POST", "/agents", {**body, "parent_id": made[2]})
    assert refusal(refused) == (404, "parent_not_found")
    ready = await crew.client.get("/ready")
    assert ready.status_code == 200


def test_a_fall_without_what_fell_with_another() -> None:
    fall = Fall(edges=("a", "b"), roots=({"anchor": "delegation_edge", "id": "a"},))
    assert fall.without(frozenset("a")) == Fall(edges=("b",))
    assert fall.ids == {"a", "b"}
