"""What a zone's graph is, whether the read models have it or only the log."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.zone import Zone
from caracal.projections import PROJECTIONS, sql
from caracal.projections.agent_graph import zone_graph
from tests.backbone import new_zone
from tests.making import in_zone, new_agent, new_application, new_edge, new_session


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


_APPLICATIONS = FACT_TOPIC_OF["application.archived"].name


async def _told(db: AsyncConnection[Any], zone_id: str) -> tuple[Any, Any]:
    graph = await zone_graph(db, zone_id)
    return graph.agents, graph.edges
