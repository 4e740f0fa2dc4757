"""Read model of zones: given events, when reduced, then rows."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from caracal import clock
from caracal.events.store.memory import MemoryLog
from caracal.events.zone import Zone
from caracal.projections import sql
from caracal.projections.memory import MemoryTable, Row, apply
from caracal.projections.query import Page
from caracal.projections.zone import ZONES, get_zone, list_zones, zones
from tests.backbone import archive_zone, change_zone, new_zone


async def rows_after(*things: Zone) -> dict[str, Row]:
    log, table = MemoryLog(), MemoryTable(ZONES)
    await log.save(*things)
    apply({"zones": table}, (op for record in log.records for op in zones.reduce(record.fact())))
    return table.rows


async def times(*things: Zone) -> list[Any]:
    log = MemoryLog()
    await log.save(*things)
    return [clock.parse(record.fact().occurred_at) for record in log.records]


async def test_created() -> None:
    zone = new_zone("z", slug="s")
    row = (await rows_after(zone))["z"]
    assert row == {
        "id": "z",
        "position": 1,
        "ended_at": None,
        "stub": False,
        "name": "A",
        "slug": "s",
        "org_id": "default",
        "dcr_enabled": False,
        "pkce_required": True,
        "login_flow": "default",
        "gateway_only": False,
        "created_at": row["created_at"],
        "updated_at": row["created_at"],
        "archived_at": None,
    }
    assert row["created_at"].tzinfo is not None


async def test_a_zone_from_before_there_was_a_choice() -> None:
    log = MemoryLog()
    await log.save(new_zone("z"))
    (record,) = log.records
    del record.state["gateway_only"]
    table = MemoryTable(ZONES)
    apply({ZONES.name: table}, zones.reduce(record.fact()))
    assert table.rows["z"]["gateway_only"] is False


async def test_changed() -> None:
    before = (await rows_after(new_zone("z", slug="s")))["z"]
    after = (await rows_after(change_zone(new_zone("z", slug="s"), name="B")))["z"]
    assert (after["name"], after["slug"], after["position"]) == ("B", before["slug"], 2)
    assert after["updated_at"] > after["created_at"]


async def test_archived() -> None:
    row = (await rows_after(archive_zone(new_zone("z"), "sid")))["z"]
    assert (row["ended_at"], row["position"]) == (2, 1)
    assert row["archived_at"] > row["created_at"]


async def test_queries(db: AsyncConnection[Any]) -> None:
    log = MemoryLog()
    things = [new_zone(f"z{n}") for n in range(4)]
    await log.save(*things, archive_zone(new_zone("gone")))
    await sql.apply(db, [op for record in log.records for op in zones.reduce(record.fact())])
    assert (await get_zone(db, "z1") or {})["slug"] == "slug-z1"
    assert await get_zone(db, "gone") is None
    assert await get_zone(db, "unknown") is None
    first = await list_zones(db, Page(2))
    assert [row["id"] for row in first] == ["z3", "z2", "z1"]  # one more than the page holds
    rest = await list_zones(db, Page(2, (first[1]["created_at"], first[1]["id"])))
    assert [row["id"] for row in rest] == ["z1", "z0"]
