"""Two Coordinators as processes: 32 writers against each other, then kill -9 of all in turn.

``CARACAL_KILLS`` says how often something is killed, ``CARACAL_SEED`` how the dice fall.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.flow.conftest import Making
from tests.flow.product import Product
from tests.model.scene import Answer, Scene
from tests.torture import authority
from tests.torture.authority import LIMITS, chosen

KILLS = int(os.environ.get("CARACAL_KILLS", "5"))
SEED = int(os.environ.get("CARACAL_SEED", "1"))
WRITERS = 32

pytestmark = [pytest.mark.flow, pytest.mark.timeout(180 + 20 * KILLS)]
Body = dict[str, Any]


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    made = making(**authority.SETTINGS)
    made.start(*authority.SERVICES)
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def on_stage(product: Product) -> AsyncIterator[Callable[[], Awaitable[Scene]]]:
    async with authority.staged(product) as make:
        yield make


@pytest.fixture
async def scene(on_stage: Callable[[], Awaitable[Scene]]) -> Scene:
    return await on_stage()


async def spawned(scene: Scene, replica: int = 0, member: int = 0, **members: Any) -> Answer:
    """Ask one of the Coordinators for an agent."""
    by, headers = scene.members[member], members.pop("headers", {})
    body = {"application_id": by.id, **members}
    return await scene.coordinate(replica, "POST", "/agents", by, json=body, headers=headers)


async def agent(scene: Scene, **members: Any) -> Body:
    answer = await spawned(scene, **members)
    assert answer.status == 201, answer
    return dict(answer.body)


async def delegated(scene: Scene, replica: int, source: Body, target: Body) -> Answer:
    body = {
        "source_session_id": source["id"],
        "target_session_id": target["id"],
        "issuer_application_id": source["application_id"],
        "receiver_application_id": target["application_id"],
        "scopes": ["read"],
        "ttl_seconds": 600,
        "constraints": {"max_hops": 9},
    }
    issuer = next(one for one in scene.members if one.id == source["application_id"])
    return await scene.coordinate(replica, "POST", "/delegations", issuer, json=body)


async def at_once(asking: list[Awaitable[Answer]]) -> Counter[tuple[int, str]]:
    """Wait for all; return what was said how often."""
    return Counter((answer.status, answer.code) for answer in await asyncio.gather(*asking))


async def listed(scene: Scene, path: str) -> list[Body]:
    """Both replicas say the same."""
    one, other = [
        await scene.coordinate(replica, "GET", f"{path}?limit=500", scene.members[0])
        for replica in range(2)
    ]
    assert one.status == 200, one
    assert one.body == other.body
    return list(one.body)


async def counters(scene: Scene, *keys: str) -> dict[str, int]:
    async with scene.database() as db:
        statement = "SELECT key, n FROM guard_count WHERE key = ANY(%s)"
        return dict(await (await db.execute(statement, (list(keys),))).fetchall())


async def test_a_parent_has_no_child_too_many(scene: Scene) -> None:
    root = (await agent(scene))["id"]
    said = await at_once([spawned(scene, n, parent_id=root) for n in range(WRITERS)])
    assert said == {
        (201, ""): LIMITS.children,
        (429, "agent_children_limit_exceeded"): WRITERS - LIMITS.children,
    }
    assert len(await listed(scene, f"/agents/{root}/children")) == LIMITS.children
    assert await counters(scene, f"children:{root}") == {f"children:{root}": LIMITS.children}


async def test_a_zone_and_an_application_have_no_agent_too_many(scene: Scene) -> None:
    said = await at_once([spawned(scene, n // 2, n % 2) for n in range(WRITERS)])
    assert said[201, ""] == LIMITS.zone
    assert set(said) <= {
        (201, ""),
        (429, "agent_zone_limit_exceeded"),
        (429, "agent_limit_exceeded"),
    }
    rows = Counter(row["application_id"] for row in await listed(scene, "/agents"))
    assert sum(rows.values()) == LIMITS.zone
    assert max(rows.values()) <= LIMITS.application
    keys = {f"agents:{scene.zone}:{application}": n for application, n in rows.items()}
    assert await counters(scene, *keys) == keys


async def test_one_of_two_directions_is_made(scene: Scene) -> None:
    for _ in range(3):
        a, b = await agent(scene), await agent(scene, member=1)
        pairs = [(a, b), (b, a)] * (WRITERS // 2)
        said = await at_once([delegated(scene, n, *pair) for n, pair in enumerate(pairs)])
        sources = {row["source_session_id"] for row in await listed(scene, "/delegations/active")}
        assert len(sources & {a["id"], b["id"]}) == 1
        assert said[201, ""] > 0
        assert set(said) <= {
            (201, ""),
            (409, "delegation_cycle_denied"),
            (409, "parent_delegation_ambiguous"),
            (403, "delegation_exceeds_parent_authority"),
        }


async def test_a_ring_is_never_closed(scene: Scene) -> None:
    ring = [await agent(scene) for _ in range(5)]
    pairs = [(ring[n % 5], ring[(n + 1) % 5]) for n in range(WRITERS)]
    await at_once([delegated(scene, n, *pair) for n, pair in enumerate(pairs)])
    edges = {
        (row["source_session_id"], row["target_session_id"])
        for row in await listed(scene, "/delegations/active")
    }
    assert 0 < len(edges) < len(ring)


async def test_one_key_makes_one_agent(scene: Scene) -> None:
    root, headers = (await agent(scene))["id"], {"Idempotency-Key": "the-same"}
    asking = [spawned(scene, n, parent_id=root, headers=headers) for n in range(WRITERS)]
    answers = await asyncio.gather(*asking)
    said = Counter(answer.status for answer in answers)
    assert said == {201: 1, 200: WRITERS - 1}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert len(await listed(scene, "/agents")) == 2


async def test_who_spawns_while_the_root_ends_leaves_nothing(scene: Scene) -> None:
    root = await agent(scene)
    child = await agent(scene, parent_id=root["id"])
    parents = [root["id"], child["id"], child["id"]]
    asking = [
        asyncio.create_task(spawned(scene, n, parent_id=parents[n % 3])) for n in range(WRITERS)
    ]
    await asyncio.sleep(0.01)
    end = f"/agents/{root['id']}"
    ends = [scene.coordinate(n, "DELETE", end, scene.members[0]) for n in range(2)]
    assert await at_once(list(ends)) == {(204, ""): 2}
    assert set(await at_once(list(asking))) <= {
        (201, ""),
        (404, "parent_not_found"),
        (429, "agent_children_limit_exceeded"),
    }
    assert {row["status"] for row in await listed(scene, "/agents")} == {"terminated"}
    keys = [f"agents:{scene.zone}", *(f"children:{parent}" for parent in parents)]
    assert set((await counters(scene, *keys)).values()) == {0}


async def test_who_delegates_while_an_end_is_made_leaves_nothing(scene: Scene) -> None:
    source, targets = await agent(scene), [await agent(scene) for _ in range(4)]
    asking = [
        asyncio.create_task(delegated(scene, n, source, targets[n % 4])) for n in range(WRITERS)
    ]
    await asyncio.sleep(0.01)
    end = f"/agents/{source['id']}"
    assert (await scene.coordinate(1, "DELETE", end, scene.members[0])).status == 204
    said = await at_once(list(asking))
    assert set(said) <= {(201, ""), (404, "delegation_endpoint_not_found")}
    assert await listed(scene, "/delegations/active") == []
    statuses = Counter(row["status"] for row in await listed(scene, "/agents"))
    assert statuses == {"active": 4, "terminated": 1}


@pytest.mark.chaos
async def test_whatever_is_killed_nothing_is_done_by_half(product: Product) -> None:
    """Zones in play, as ``python -m tests.torture --authority`` does it for longer."""
    summary = await authority.run(product, SEED, chosen(SEED, KILLS, 1e6), zones=3)
    print(*sorted(summary.outcomes.items()), sep="\n")
    assert summary.kills.total() == KILLS
    assert summary.outcomes.total() > KILLS
