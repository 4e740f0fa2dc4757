"""Tables of a tail that forget what ended long ago, and nothing that could come back."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections import memory
from caracal.projections.agent import agents, recent_agents
from caracal.projections.delegation import delegations, recent_delegations
from caracal.projections.memory import KEPT_SECONDS, apply
from caracal.projections.projection import Projection
from caracal.projections.revocation import revocations
from caracal.projections.tail_snapshot import take
from tests.making import (
    facts,
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_session,
    store_with,
)
from tests.sts.world import graph_of

LONG_AGO = 2 * KEPT_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_what_has_ended_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    app = new_application()
    session = new_session(app.aggregate_id)
    a, b = new_agent(session), new_agent(session)
    edge = new_edge(a, b)
    store = await store_with(app, session, a, b, edge)
    with in_zone():
        b.terminate(graph_of("zone-of-tests", b, edge).of_agents([b.aggregate_id]))
    await store.save(b)
    later = new_agent(session)
    await store.save(later)
    *told, last = facts(store)
    views = {"agents": recent_agents(), "delegations": recent_delegations()}
    for fact in told:
        for projection in (agents, delegations):
            apply(views, projection.reduce(fact))
    assert views["agents"].rows.keys() == {a.aggregate_id, b.aggregate_id}
    assert views["agents"].live(b.aggregate_id) is None
    assert views["delegations"].rows.keys() == {edge.aggregate_id}
    clock.now += KEPT_SECONDS
    apply(views, agents.reduce(last))
    assert views["agents"].rows.keys() == {a.aggregate_id, later.aggregate_id}
    views["agents"].load([])
    assert not views["agents"].rows


async def insert(db: AsyncConnection[Any], table: str, **columns: Any) -> None:
    names, marks = ", ".join(columns), ", ".join("%s" for _ in columns)
    await db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(columns.values()))


async def taken(db: AsyncConnection[Any], view: Any, *projections: Projection) -> set[str]:
    topics = {topic.name: topic for one in projections for topic in one.topics}
    snapshot = await take(db, {view.table.name: view}, topics, projections)
    return {row["id"] for row in snapshot.rows[view.table.name]}


@pytest.mark.parametrize("kind", ["agent", "delegation"])
async def test_a_snapshot_leaves_out_what_ended_before_all_that_is_read_again(
    db: AsyncConnection[Any], kind: str
) -> None:
    """A row whose beginning will be applied again stays, or it would come back to life."""
    view = recent_agents() if kind == "agent" else recent_delegations()
    begun = "agent.spawned" if kind == "agent" else "delegation.created"
    ended_on = "terminated_at" if kind == "agent" else "revoked_at"
    topic, table = FACT_TOPIC_OF[begun].name, view.table.name
    for projection, position in ((agents, 90), (delegations, 50), (revocations, 70)):
        if topic in [one.name for one in projection.topics]:
            place = {"topic": topic, "position": position, "n": 0}
            await insert(db, "checkpoints", projection=projection.name, **place)
    for row_id, ended_at, ago in (
        ("live", None, None),
        ("long ago", 40, LONG_AGO),
        ("just now", 40, 60),
        ("to be read again", 60, LONG_AGO),
    ):
        await insert(db, table, id=row_id, position=10, ended_at=ended_at)
        if ago is not None:
            await db.execute(
                f"UPDATE {table} SET {ended_on} = now() - make_interval(secs => %s) WHERE id = %s",
                (ago, row_id),
            )
    found = await taken(db, view, agents, delegations, revocations)
    assert found == {"live", "just now", "to be read again"}
