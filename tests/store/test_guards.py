"""Guards and versions: one contract, both logs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from caracal import clock
from caracal.errors import CaracalError, Conflict, NotFound, TooMany
from caracal.events.guards import (
    Count,
    Edge,
    Ended,
    Erase,
    Free,
    FreeEdges,
    FreeSeats,
    Guard,
    Inbound,
    Need,
    NoSeats,
    Overtaken,
    Release,
    Revive,
    Seat,
    Secret,
    Take,
)
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Log, Saved, Store, retrying
from caracal.events.zone import Zone
from caracal.ids import new_id
from tests.backbone import archive_zone, change_zone, eventually, new_zone

TAKEN, MISSING, FULL = Conflict("taken"), NotFound("missing"), TooMany("full")
RING = Conflict("ring")


async def save(store: Store, *guards: Guard) -> Saved:
    return await store.save(new_zone(), guards=guards)


async def refused(store: Store, error: CaracalError, *guards: Guard) -> None:
    zone = new_zone()
    with pytest.raises(type(error)) as caught:
        await store.save(zone, guards=guards)
    assert caught.value is error
    assert await store.find(Zone, zone.aggregate_id) is None


async def test_a_key_has_one_owner(store: Store) -> None:
    await save(store, Take("k", "a", TAKEN))
    await refused(store, TAKEN, Take("k", "b", TAKEN))
    await refused(store, TAKEN, Take("k", "a", TAKEN))


async def test_a_key_is_free_again_for_its_owner_alone(store: Store) -> None:
    await save(store, Take("k", "a", TAKEN))
    await save(store, Free(("k", "unknown"), "b"))
    await refused(store, TAKEN, Take("k", "b", TAKEN))
    await save(store, Free(("k",), "a"), Take("k", "b", TAKEN))
    await refused(store, TAKEN, Take("k", "a", TAKEN))


async def test_who_owns_a_key(store: Store) -> None:
    assert await store.owner("k") is None
    await save(store, Take("k", "a", TAKEN))
    assert await store.owner("k") == "a"
    await save(store, Free(("k",), "a"))
    assert await store.owner("k") is None


async def test_guards_are_checked_in_order(store: Store) -> None:
    await save(store, Take("old", "a", TAKEN))
    await refused(store, TAKEN, Take("old", "a", TAKEN), Free(("old",), "a"))
    await refused(store, MISSING, Need("new", MISSING), Take("new", "a", TAKEN))
    await save(store, Free(("old",), "a"), Take("new", "a", TAKEN), Need("new", MISSING))
    await refused(store, MISSING, Need("old", MISSING))


async def test_nothing_of_a_refused_command_stays(store: Store) -> None:
    held = Count("c", 1, 5, FULL), Edge("x", "y", "e", RING), Secret("s", "k", b"n", b"c")
    await refused(store, MISSING, Take("k", "a", TAKEN), *held, seat("a"), Need("none", MISSING))
    await save(store, Take("k", "b", TAKEN), Count("c", 5, 5, FULL), Edge("y", "x", "e", RING))
    assert await store.seated("s") == []


async def test_need(store: Store) -> None:
    await refused(store, MISSING, Need("k", MISSING))
    await save(store, Take("k", "a", TAKEN))
    await save(store, Need("k", MISSING))


async def test_count_stays_at_or_below_its_limit(store: Store) -> None:
    await refused(store, FULL, Count("c", 1, 0, FULL))
    await save(store, Count("c", 2, 3, FULL))
    await save(store, Count("c", 1, 3, FULL))
    await refused(store, FULL, Count("c", 1, 3, FULL))
    await save(store, Count("c", 1, 4, FULL))
    await save(store, Count("c", -1, 1, FULL))  # down is always allowed
    await refused(store, FULL, Count("c", 1, 3, FULL))


async def test_count_never_falls_below_zero(store: Store) -> None:
    await save(store, Count("new", -3, 2, FULL))
    await save(store, Count("new", 2, 2, FULL))
    await refused(store, FULL, Count("new", 1, 2, FULL))
    await save(store, Count("new", -9, 2, FULL))
    await save(store, Count("new", 2, 2, FULL))
    await refused(store, FULL, Count("new", 1, 2, FULL))


async def test_what_ends_takes_its_keys_and_leaves_its_counters_once(store: Store) -> None:
    await save(store, Take("live", "z", TAKEN), Take("also", "z", TAKEN), Count("c", 3, 3, FULL))
    ended = Ended("live", ("also", "unknown"), ("c", "new"))
    await save(store, Release((ended, Ended("unknown", ("also",), ("c",))), "other"))
    await refused(store, FULL, Count("c", 1, 3, FULL))
    for _ in range(2):
        await save(store, Release((ended, Ended("unknown", (), ("c",)), ended), "z"))
    await refused(store, MISSING, Need("live", MISSING))
    await save(store, Count("c", 1, 3, FULL), Take("also", "z", TAKEN))
    await refused(store, FULL, Count("c", 1, 3, FULL))


async def test_the_end_of_many_costs_no_walk_over_all_keys(db: AsyncConnection[Any]) -> None:
    """Whatever the planner guesses of their number: a cascade holds the log's lock meanwhile."""
    await db.execute(
        "INSERT INTO guard_key SELECT kind || n, 'z'"
        " FROM generate_series(1, 10000) AS n, unnest(ARRAY['live', 'active', 'edge']) AS kind"
    )
    things = tuple(Ended(f"live{n}", (f"active{n}",), ("c",)) for n in range(1, 101))
    edges = tuple(f"edge{n}" for n in range(1, 101))
    guards = [guard.arguments() for guard in (Release(things, "z"), Free(edges, "z"))]
    async with db.transaction(force_rollback=True):
        await db.execute(
            "SELECT append_events(ARRAY[gen_random_uuid()], '{1}', '{event}', '{state}', %s)",
            (Jsonb(guards),),
        )
        cursor = await db.execute(
            "SELECT seq_tup_read, n_tup_del FROM pg_stat_xact_user_tables"
            " WHERE relname = 'guard_key'"
        )
        assert await cursor.fetchone() == (0, 300)


async def test_only_what_lives_is_revived(store: Store) -> None:
    await save(store, Take("live", "z", TAKEN), Take("foreign", "y", TAKEN))
    pairs = (("active", "live"), ("dead", "gone"), ("other", "foreign"))
    for _ in range(2):
        await save(store, Revive(pairs, "z"))
    await save(store, Need("active", MISSING))
    await refused(store, MISSING, Need("dead", MISSING))
    await refused(store, MISSING, Need("other", MISSING))


def seat(owner: str, until: datetime | None = None, *, limit: int = 2) -> Seat:
    return Seat("s", owner, clock.rfc3339(until) if until else None, limit, FULL)


async def test_seats_are_counted(store: Store) -> None:
    await save(store, NoSeats("s", TAKEN), seat("a"), seat("b"))
    await refused(store, FULL, seat("c"))
    await refused(store, FULL, seat("a", limit=9))  # an owner sits once
    await refused(store, TAKEN, NoSeats("s", TAKEN))
    await save(store, Seat("other", "c", None, 1, FULL))
    assert await store.seated("s") == ["a", "b"]


async def test_seats_are_freed(store: Store) -> None:
    await save(store, seat("a"), seat("b"))
    await save(store, FreeSeats("other", ("a",)), FreeSeats("s", ("b", "unknown")))
    await refused(store, FULL, seat("c"), seat("d"))
    await save(store, seat("c"))
    await save(store, FreeSeats("s", ("a", "c")), NoSeats("s", TAKEN))
    assert await store.seated("s") == []


async def test_whose_time_is_over_has_no_seat(store: Store) -> None:
    now = clock.now()
    soon, later = now + timedelta(milliseconds=300), now + timedelta(hours=1)
    await save(store, seat("past", now), seat("soon", soon), seat("later", later))
    assert await store.seated("s") == ["later", "soon"]
    await refused(store, FULL, seat("c"))

    async def over() -> bool:
        return await store.seated("s") == ["later"]

    await eventually(over, what="the end of a seat")
    await save(store, seat("c"))
    await refused(store, FULL, seat("d"))
    await refused(store, TAKEN, NoSeats("s", TAKEN))


async def test_only_seats_whose_time_is_over(store: Store) -> None:
    await save(store, seat("past", clock.now()))
    await save(store, NoSeats("s", TAKEN))


async def test_many_writers_of_a_few_seats(store: Store) -> None:
    past, later = clock.now(), clock.now() + timedelta(hours=1)
    await save(store, *(seat(f"past {n}", past, limit=8) for n in range(8)))
    attempts = [save(store, seat(str(n), later, limit=8)) for n in range(32)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, Saved) for outcome in outcomes) == 8
    assert sum(outcome is FULL for outcome in outcomes) == 24
    assert len(await store.seated("s")) == 8


async def test_edges_close_no_ring(store: Store) -> None:
    await refused(store, RING, Edge("a", "a", "self", RING))
    await save(store, Edge("a", "b", "1", RING), Edge("b", "c", "2", RING))
    await save(store, Edge("a", "c", "3", RING))
    await refused(store, RING, Edge("c", "a", "4", RING))
    await refused(store, RING, Edge("x", "y", "1", RING))  # an owner has one edge


async def test_edges_are_freed(store: Store) -> None:
    await save(store, Edge("a", "b", "1", RING), Edge("b", "c", "2", RING))
    await save(store, FreeEdges(("2", "unknown")))
    await save(store, Edge("c", "a", "3", RING))
    await refused(store, RING, Edge("b", "c", "2", RING))


async def overtaken(store: Store, *owners: str) -> None:
    with pytest.raises(Overtaken) as caught:
        await save(store, Inbound("b", owners))
    assert caught.value.key == "inbound:b"


async def test_inbound_edges_are_the_ones_that_were_seen(store: Store) -> None:
    await save(store, Inbound("b", ()))
    await overtaken(store, "1")
    await save(store, Edge("a", "b", "1", RING), Edge("c", "b", "2", RING))
    await save(store, Edge("b", "d", "3", RING), Inbound("b", ("2", "1")))
    await overtaken(store)
    await overtaken(store, "1")
    await overtaken(store, "1", "2", "3")
    await save(store, FreeEdges(("1",)), Inbound("b", ("2",)))


async def test_one_writer_of_many_wins(store: Store) -> None:
    attempts = [save(store, Take("k", str(n), TAKEN)) for n in range(32)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is not TAKEN] == [
        saved for saved in outcomes if isinstance(saved, Saved)
    ]
    assert sum(isinstance(outcome, Saved) for outcome in outcomes) == 1


async def test_a_refusal_hurts_nobody_else(store: Store) -> None:
    await save(store, Take("k", "a", TAKEN), Count("c", 1, 1, FULL))
    guards: list[Guard] = [
        Take("k", "b", TAKEN),
        Need("none", MISSING),
        Count("c", 1, 1, FULL),
        Edge("a", "a", "e", RING),
        Take("free", "a", TAKEN),
        Need("k", MISSING),
    ]
    calls = [save(store, guard) for guard in guards * 5]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:4] == [TAKEN, MISSING, FULL, RING]
    assert isinstance(outcomes[4], Saved)
    assert outcomes[10] is TAKEN  # "free" was free once
    assert all(isinstance(outcome, Saved) for outcome in outcomes[5::6])


# --- versions ------------------------------------------------------------------------------


async def test_save_returns_positions_and_stored_names(store: Store) -> None:
    zone = new_zone()
    change_zone(zone, name="B")
    saved = await store.save(zone)
    (first, created), (second, changed) = saved.events
    assert (created, changed) == ("zone.created", "zone.changed")
    assert second == saved.position == first + 1
    assert (await store.save(zone)) == Saved()
    assert Saved().position is None


async def test_find_replays(store: Store) -> None:
    zone = new_zone()
    await store.save(zone)
    again = await store.find(Zone, zone.aggregate_id)
    assert again is not None
    assert (again.name, again.slug, again.version) == (zone.name, zone.slug, 1)
    await store.save(change_zone(again, name="B"))
    third = await store.find(Zone, zone.aggregate_id)
    assert third is not None
    assert (third.name, third.version, third.aggregate_id) == ("B", 2, zone.aggregate_id)


async def test_find_unknown(store: Store) -> None:
    assert await store.find(Zone, new_id()) is None


async def test_find_all_finds_what_is_there(store: Store) -> None:
    zones = [new_zone(), new_zone("zone1"), new_zone()]
    for zone in zones:
        await store.save(change_zone(zone, name=f"name of {zone.aggregate_id}"))
    asked = [zones[0].aggregate_id, new_id(), "zone1"]
    found = await store.find_all(Zone, asked)
    assert {(zone.aggregate_id, zone.name, zone.version) for zone in found} == {
        (zone_id, f"name of {zone_id}", 2) for zone_id in (asked[0], "zone1")
    }
    assert await store.find_all(Zone, []) == []


async def test_ids_that_are_no_uuid(store: Store) -> None:
    await store.save(new_zone("zone1"))
    assert (found := await store.find(Zone, "zone1")) is not None
    assert found.aggregate_id == "zone1"


async def test_the_second_writer_of_a_version_is_refused(store: Store) -> None:
    zone = new_zone()
    await store.save(zone)
    one, other = [await store.find(Zone, zone.aggregate_id) for _ in range(2)]
    assert one is not None
    assert other is not None
    await store.save(change_zone(one, name="one"))
    with pytest.raises(VersionConflict):
        await store.save(change_zone(other, name="other"), guards=[Take("k", "a", TAKEN)])
    await save(store, Take("k", "b", TAKEN))


async def test_several_aggregates_are_saved_together_or_not(store: Store) -> None:
    zone, other = new_zone(), new_zone()
    stale = new_zone(zone.aggregate_id)
    await store.save(zone)
    change_zone(stale, name="stale")
    stale.collect_guards()
    with pytest.raises(VersionConflict):
        await store.save(other, stale)
    assert await store.find(Zone, other.aggregate_id) is None


async def test_retrying_decides_again(store: Store) -> None:
    zone = new_zone()
    await store.save(zone)

    async def add_one() -> Saved:
        found = await store.find(Zone, zone.aggregate_id)
        assert found is not None
        await asyncio.sleep(0)
        return await store.save(change_zone(found, name=found.name + "+"))

    await asyncio.gather(*(retrying(add_one) for _ in range(32)))
    found = await store.find(Zone, zone.aggregate_id)
    assert found is not None
    assert found.name == "A" + "+" * 32


@pytest.mark.parametrize("overtaken", [VersionConflict("a"), Overtaken("a")])
async def test_retrying_gives_up_with_a_conflict(overtaken: Exception) -> None:
    calls = 0

    async def command() -> Saved:
        nonlocal calls
        calls += 1
        raise overtaken

    with pytest.raises(Conflict) as caught:
        await retrying(command)
    assert (caught.value.code, calls) == ("concurrent_update", 12)


def test_an_event_outside_of_a_command_is_refused() -> None:
    members = {"name": "A", "org_id": "o", "login_flow": "default"}
    with pytest.raises(LookupError, match="meta"):
        Zone.create(
            "z",
            slug="z",
            data_key=Secret("r", "k", b"", b""),
            dcr_enabled=False,
            pkce_required=True,
            **members,
        )


# --- the vault -----------------------------------------------------------------------------


async def vault_of(db: AsyncConnection[Any]) -> dict[str, tuple[str, bytes, bytes]]:
    cursor = await db.execute("SELECT ref, key_id, nonce, ciphertext FROM vault")
    return {ref: (key_id, nonce, sealed) for ref, key_id, nonce, sealed in await cursor.fetchall()}


async def test_secrets_come_and_go_with_their_event(log: Log, db: AsyncConnection[Any]) -> None:
    zone = new_zone()
    await log.save(zone, guards=[Secret("s", "k1", b"\x00n", b"\xffc")])
    ref = f"zone/{zone.aggregate_id}"
    assert await vault_of(db) == {
        ref: ("key-1", b"n" * 12, b"sealed"),
        "s": ("k1", b"\x00n", b"\xffc"),
    }
    await save(log, Secret("s", "k2", b"m", b"d"), Erase((ref, "unknown")))
    assert (await vault_of(db))["s"] == ("k2", b"m", b"d")
    assert ref not in await vault_of(db)


async def test_an_archived_zone_leaves_no_secret(log: Log, db: AsyncConnection[Any]) -> None:
    zone = new_zone()
    await log.save(zone)
    await log.save(archive_zone(zone))
    assert await vault_of(db) == {}


async def test_secrets_are_in_no_event(log: Log, db: AsyncConnection[Any]) -> None:
    await log.save(new_zone())
    cursor = await db.execute("SELECT state FROM log")
    assert not [state for (state,) in await cursor.fetchall() if b"sealed" in state]
