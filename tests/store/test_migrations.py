"""A log that is older than what its guards hold now."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources
from typing import Any

from psycopg import AsyncConnection

from caracal import clock
from caracal.events.base import Fall
from caracal.events.store.log import Log
from tests.backbone import archive_zone, change_zone, new_zone
from tests.making import in_zone, new_application, new_key


async def held(db: AsyncConnection[Any]) -> tuple[list[Any], list[Any]]:
    keys = await db.execute("SELECT key, owner FROM guard_key ORDER BY key")
    seats = await db.execute("SELECT key, owner, until FROM guard_seat ORDER BY key, owner")
    return await keys.fetchall(), await seats.fetchall()


async def test_an_older_log_gets_the_keys_and_seats_of_this_version(
    log: Log, db: AsyncConnection[Any]
) -> None:
    open_, closed, opened, gone = zones = [new_zone(dcr_enabled=n != 1) for n in range(4)]
    later = clock.now() + timedelta(hours=1)
    await log.save(*zones)
    for zone in (open_, closed):
        zone_id = zone.aggregate_id
        for ends in (None, later):
            dcr = new_application(zone_id, registration_method="dcr", expires_at=ends)
            await log.save(dcr, new_application(zone_id))
        with in_zone(zone_id):
            dcr.archive(Fall(), "expired")
        await log.save(dcr, new_key(zone_id))
    await log.save(change_zone(closed, dcr_enabled=True))
    await log.save(change_zone(opened, dcr_enabled=False))
    await log.save(change_zone(open_, name="B"))
    await log.save(archive_zone(gone))
    before = await held(db)
    assert [len(part) for part in before] == [3 * 2 + 2 * 3 + 2 * 2, 2]
    await db.execute("DROP TABLE guard_seat")
    await db.execute("DELETE FROM guard_key WHERE key LIKE 'signing_key:%' OR key LIKE 'dcr%'")
    folder = resources.files("caracal.events.store") / "migrations"
    await db.execute((folder / "0004_seats.sql").read_bytes())
    assert await held(db) == before
