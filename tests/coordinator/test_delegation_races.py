"""The delegation graph under 32 writers on two replicas, whose views lag as they may."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.coordinator.edges import HOPS, Edge, delegated, edge_of, told
from tests.coordinator.running import Crew, Ship, ship

WRITERS = 32


@pytest.fixture(scope="module")
async def twin(coordinator: Ship) -> AsyncIterator[Ship]:
    """A second replica."""
    given = coordinator.settings
    servers = given.database_url, given.redis_url
    async with ship(*servers, worker=False, sts=given.sts_url) as running:
        yield running


@pytest.fixture
def replicas(crew: Crew, twin: Ship) -> list[Crew]:
    return [crew, replace(crew, url=twin.url, client=twin.client)]


async def at_once(replicas: list[Crew], bodies: list[Edge]) -> list[tuple[int, Any]]:
    calls = [
        replicas[number % 2].call("POST", "/delegations", body)
        for number, body in enumerate(bodies)
    ]
    answers = await asyncio.gather(*calls)
    return [
        (answer.status_code, answer.json()["id"]) if answer.status_code == 201 else told(answer)
        for answer in answers
    ]


def check_history(created: list[Edge]) -> None:
    """Each edge is one that could be made when it was, all before it and none after it there."""
    before: dict[str, Edge] = {}
    for edge in created:
        inbound = [
            one
            for one, row in before.items()
            if row["target_session_id"] == edge["source_session_id"]
        ]
        assert [edge["parent_edge_id"]] == (inbound or [None])
        for parent in inbound:
            assert edge["constraints"]["max_hops"] < before[parent]["constraints"]["max_hops"]
        assert edge["source_session_id"] not in reached(before, edge["target_session_id"])
        before[edge["_id"]] = edge


def reached(edges: dict[str, Edge], start: str) -> set[str]:
    found = {start}
    while True:
        more = {
            row["target_session_id"] for row in edges.values() if row["source_session_id"] in found
        }
        if more <= found:
            return found
        found |= more


@pytest.mark.parametrize("seed", range(3))
async def test_the_parent_is_chosen_among_all_there_are(replicas: list[Crew], seed: int) -> None:
    chance = random.Random(seed)
    agents = [await replicas[0].spawn() for _ in range(6)]
    bodies = []
    for _ in range(WRITERS):
        source, target = chance.sample(agents, 2)
        hops = {"max_hops": chance.randint(1, 9)}
        bodies.append(edge_of(source, target, constraints=hops))
    answers = await at_once(replicas, bodies)
    made = {edge for status, edge in answers if status == 201}
    assert {code for status, code in answers if status != 201} <= {
        "parent_delegation_ambiguous",
        "delegation_exceeds_parent_authority",
        "delegation_cycle_denied",
    }
    created = await replicas[0].facts("delegation.created")
    assert {edge["_id"] for edge in created} == made
    assert made
    check_history(created)


async def test_one_direction_of_two_is_made(replicas: list[Crew]) -> None:
    """Roots both of them, if each is decided alone: a parent named keeps the choice open."""
    crew = replicas[0]
    a, b = await crew.spawn(), await crew.spawn()
    there = edge_of(a, b, constraints=HOPS)
    back = edge_of(b, a, constraints={"max_hops": 2})
    answers = await at_once(replicas, [there, back] * (WRITERS // 2))
    refused = {code for status, code in answers if status != 201}
    created = await crew.facts("delegation.created")
    assert len({edge["source_session_id"] for edge in created}) == 1
    assert refused <= {
        "delegation_cycle_denied",
        "parent_delegation_ambiguous",
        "delegation_exceeds_parent_authority",
    }
    assert sum(status == 201 for status, _ in answers) == WRITERS // 2


async def test_nothing_is_delegated_by_or_to_what_ends_meanwhile(replicas: list[Crew]) -> None:
    """Edges race with the revocation of the one they hang on: none is left active."""
    crew, other = replicas
    a, b, *rest = [await crew.spawn() for _ in range(18)]
    first = await delegated(crew, a, b, constraints=HOPS)

    async def revoke() -> None:
        await asyncio.sleep(0.01)
        answer = await other.call("PATCH", f"/delegations/{first['id']}/revoke")
        assert answer.status_code == 200, answer.text

    bodies = [edge_of(b, agent) for agent in rest]
    _, answers = await asyncio.gather(revoke(), at_once(replicas, bodies))
    assert {code for status, code in answers if status != 201} <= {
        "delegation_endpoint_not_found",
        "parent_delegation_not_active",
    }
    for replica in replicas:
        assert (await replica.call("GET", "/delegations/active")).json() == []
    statuses = await crew.statuses()
    led_to = {edge["target_session_id"] for edge in await crew.facts("delegation.created")}
    assert {statuses[agent] for agent in led_to} == {"terminated"}
    assert statuses[a["id"]] == "active"
