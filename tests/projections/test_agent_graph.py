"""What a zone's graph is, whether the read models have it or only the log."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.agent import Agent, SpawnLimits
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.delegation import Delegation
from caracal.events.guards import Edge
from caracal.events.session import Session
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.zone import Zone
from caracal.projections import PROJECTIONS, sql
from caracal.projections.agent import AGENTS
from caracal.projections.agent_graph import graph_of, growing_graph, zone_graph
from caracal.projections.delegation import DELEGATIONS
from caracal.projections.memory import MemoryTable
from caracal.projections.table import End, Put
from tests.backbone import new_zone
from tests.making import (
    ZONE,
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_session,
    row_of,
)

WIDE = SpawnLimits(depth=40, children=40, zone=1000, application=1000)


async def project(db: AsyncConnection[Any]) -> None:
    """Apply the whole log to the agents' and delegations' tables, checkpoints included."""
    wanted = {"agents", "delegations"}
    projections = [one for one in PROJECTIONS if one.name in wanted]
    for record in await LogReader(db).records(0, limit=10_000):
        fact = record.fact()
        for one in projections:
            await sql.apply(db, one.reduce(fact))
            for topic in one.topics:
                await db.execute(
                    "INSERT INTO checkpoints (projection, topic, position, n)"
                    " VALUES (%s, %s, %s, 0) ON CONFLICT (projection, topic)"
                    " DO UPDATE SET position = excluded.position",
                    (one.name, topic.name, fact.position),
                )


async def test_rows_and_log_give_one_graph(log: Log, db: AsyncConnection[Any]) -> None:
    zone: Zone = new_zone()
    zone_id = zone.aggregate_id
    other = new_zone()
    app, foreign = new_application(zone_id), new_application(other.aggregate_id)
    session = new_session(app.aggregate_id, zone_id=zone_id)
    strange = new_session(foreign.aggregate_id, zone_id=other.aggregate_id)
    a, b, c = (new_agent(session, zone_id=zone_id) for _ in range(3))
    stranger = new_agent(strange, zone_id=other.aggregate_id)
    ab, bc = (new_edge(*pair, zone_id=zone_id) for pair in ((a, b), (b, c)))
    await log.save(zone, other, app, foreign, session, strange)
    await log.save(a, b, c, stranger)
    await project(db)
    await log.save(ab, bc)
    graph = await zone_graph(db, zone_id)
    assert set(graph.agents) == {one.aggregate_id for one in (a, b, c)}
    assert set(graph.edges) == {ab.aggregate_id, bc.aggregate_id}
    with in_zone(zone_id):
        bc.revoke(graph.of_edge(bc.aggregate_id))
    await log.save(bc)
    with in_zone(zone_id):
        a.suspend((await zone_graph(db, zone_id)).suspending(a.aggregate_id))
    await log.save(a)
    lagging = await zone_graph(db, zone_id)
    await project(db)
    assert await _told(db, zone_id) == (lagging.agents, lagging.edges)
    assert {k: row["status"] for k, row in lagging.agents.items()} == {
        a.aggregate_id: "suspended",
        b.aggregate_id: "active",
    }
    assert set(lagging.edges) == {ab.aggregate_id}


async def test_what_has_ended_does_not_begin_anew_from_a_topic_that_is_behind(
    log: Log, db: AsyncConnection[Any]
) -> None:
    zone_id = (zone := new_zone()).aggregate_id
    app = new_application(zone_id)
    session = new_session(app.aggregate_id, zone_id=zone_id)
    a, b = (new_agent(session, zone_id=zone_id) for _ in range(2))
    ab = new_edge(a, b, zone_id=zone_id)
    await log.save(zone, app, session)
    await log.save(a, b, ab)
    await project(db)
    with in_zone(zone_id):
        app.archive((await zone_graph(db, zone_id)).of_application(app.aggregate_id))
    await log.save(app)
    await project(db)
    await db.execute("UPDATE checkpoints SET position = 0 WHERE topic <> %s", (_APPLICATIONS,))
    assert await _told(db, zone_id) == ({}, {})


@pytest.mark.parametrize("seed", range(2))
async def test_the_part_near_a_thing_tells_what_falls_with_it(
    log: Log, db: AsyncConnection[Any], seed: int
) -> None:
    """As all of the zone does, for what ends and for what is left, half of it in the log only."""
    chance = random.Random(seed)
    zone_id = (zone := new_zone()).aggregate_id
    app = new_application(zone_id)
    session = new_session(app.aggregate_id, zone_id=zone_id)
    early, late = _grown(chance, session, zone_id)
    await log.save(zone, app, session)
    await log.save(*early)
    await project(db)
    with in_zone(zone_id):
        ended = chance.choice([one for one in early if isinstance(one, Delegation)])
        ended.revoke(Fall(edges=(ended.aggregate_id,)))
    await log.save(*late, ended)
    whole = await zone_graph(db, zone_id)
    before = AgentGraph(zone_id, *_rows(early))
    agents = [one for one in (*early, *late) if isinstance(one, Agent)]
    for agent in chance.sample(agents, 10):
        near = await zone_graph(db, zone_id, [agent.aggregate_id])
        assert near.of_agents([agent.aggregate_id]) == whole.of_agents([agent.aggregate_id])
        assert near.suspending(agent.aggregate_id) == whole.suspending(agent.aggregate_id)
        fall = before.of_agents([agent.aggregate_id])  # as if it had ended before the late ones
        left = await zone_graph(db, zone_id, fall.ids)
        assert left.left_by(fall) == whole.left_by(fall)
    assert len(near.agents) < len(whole.agents)


def _grown(
    chance: random.Random, session: Session, zone_id: str
) -> tuple[list[Agent | Delegation], list[Agent | Delegation]]:
    """Agents below each other and edges narrowed from each other, in the order of their making."""
    things: list[Agent | Delegation] = []
    agents: list[Agent] = []
    led_to: dict[str, Delegation] = {}
    for number in range(40):
        parent = chance.choice([None, *agents[-8:]])
        agents.append(new_agent(session, parent=parent, zone_id=zone_id, limits=WIDE))
        things.append(agents[-1])
        if number and number % 2:
            one, other = chance.sample(agents[-12:], 2)
            edge = new_edge(one, other, parent=led_to.get(one.aggregate_id), zone_id=zone_id)
            edge.guards = [guard for guard in edge.guards if not isinstance(guard, Edge)]
            led_to[other.aggregate_id] = edge
            things.append(edge)
    return things[:40], things[40:]


def _rows(things: Iterable[Agent | Delegation]) -> tuple[dict[str, Any], dict[str, Any]]:
    agents: dict[str, Any] = {one.aggregate_id: row_of(one) for one in things}
    kinds = (
        {k: r for k, r in agents.items() if ("parent_id" in r) is own} for own in (True, False)
    )
    return next(kinds), next(kinds)


def test_a_graph_over_tables_in_memory_grows_with_them() -> None:
    """After each of many random operations it is the graph of the rows that live then."""
    chance = random.Random(7)
    tables = MemoryTable(AGENTS), MemoryTable(DELEGATIONS)
    graph = growing_graph(*tables)
    session = new_session("app")
    early, late = _grown(chance, session, ZONE)
    things = [*early, *late]
    live: dict[str, Agent | Delegation] = {}
    for position, thing in enumerate(things, 1):
        _apply(tables, Put, position, thing)
        live[thing.aggregate_id] = thing
        if position % 3 == 0:
            gone = live.pop(chance.choice(sorted(live)))
            _apply(tables, End, position, gone)
        shown = graph_of(
            ZONE,
            *(sorted(rows.values(), key=lambda row: row["id"]) for rows in _rows(live.values())),
        )
        agents = [one for one, thing in live.items() if isinstance(thing, Agent)]
        for agent in chance.sample(agents, min(3, len(agents))):
            found = graph(ZONE).of_agents([agent])
            assert found == shown.of_agents([agent])
        assert graph(ZONE).everything() == shown.everything()
    assert not graph("another").everything()
    assert len(graph(ZONE).agents) == len(agents)


def _apply(tables: Iterable[MemoryTable], kind: Any, position: int, thing: Any) -> None:
    agents, edges = tables
    table = agents if isinstance(thing, Agent) else edges
    if kind is End:
        table.apply(position, End(table.table, [thing.aggregate_id], {}))
        return
    known = {name: vars(thing).get(name) for name in table.table.columns}
    table.apply(position, Put(table.table, thing.aggregate_id, known))


_APPLICATIONS = FACT_TOPIC_OF["application.archived"].name


async def _told(db: AsyncConnection[Any], zone_id: str) -> tuple[Any, Any]:
    graph = await zone_graph(db, zone_id)
    return graph.agents, graph.edges
