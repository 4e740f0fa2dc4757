"""Zone: what it decides, what it asks for, what it records."""

from __future__ import annotations

import pytest

from caracal.errors import Conflict, Forbidden, NotFound
from caracal.events.base import CASCADE_LIMIT, acting
from caracal.events.guards import Erase, Free, Overtaken, Secret, Take
from caracal.events.store.memory import MemoryLog
from caracal.events.topics import TOPICS
from caracal.events.zone import DcrShutdown, Zone, dcr_seats, needs_zone, slug_of
from tests.backbone import REVOKE, archive_zone, change_zone, new_zone
from tests.making import new_application


async def names(*zones: Zone) -> list[str]:
    log = MemoryLog()
    await log.save(*zones)
    return [record.name for record in log.records]


async def test_created_with_what_it_needs() -> None:
    zone = new_zone("z", slug="s")
    taken = [guard for guard in zone.guards if isinstance(guard, Take)]
    assert [(guard.key, guard.owner) for guard in taken] == [
        ("live:zone:z", "z"),
        ("zone_slug:s", "z"),
    ]
    assert [guard.ref for guard in zone.guards if isinstance(guard, Secret)] == ["zone/z"]
    log = MemoryLog()
    await log.save(zone)
    fact = log.records[0].fact()
    assert fact.data == {
        "name": "A",
        "slug": "s",
        "org_id": "default",
        "dcr_enabled": False,
        "pkce_required": True,
        "login_flow": "default",
        "data_key_ref": "zone/z",
        "gateway_only": False,
    }
    assert (fact.zone_id, fact.aggregate_id, fact.version) == ("z", "z", 1)
    assert fact.metadata == {"zone_id": "z", "actor": "operator", "occurred_at": fact.occurred_at}


async def test_only_what_differs_is_recorded() -> None:
    zone = new_zone(name="A")
    change_zone(zone, name="A")
    assert await names(zone) == ["zone.created"]
    change_zone(zone, name="B", dcr_enabled=False)
    log = MemoryLog()
    await log.save(zone)
    assert log.records[-1].fact().data == {"name": "B"}


def test_a_new_slug_frees_the_old_one() -> None:
    zone = new_zone("z", slug="old")
    zone.collect_guards()
    change_zone(zone, slug="new")
    free, take = zone.collect_guards()
    assert free == Free(("zone_slug:old",), "z")
    assert isinstance(take, Take)
    assert take.key == "zone_slug:new"
    change_zone(zone, slug="new")
    assert zone.collect_guards() == []


async def test_slugs_are_unique_among_what_lives() -> None:
    log = MemoryLog()
    first = new_zone(slug="s")
    await log.save(first)
    with pytest.raises(Conflict) as caught:
        await log.save(new_zone(slug="s"))
    assert caught.value.code == "zone_slug_conflict"
    await log.save(change_zone(first, slug="t"))
    second = new_zone(slug="s")
    await log.save(second)
    with pytest.raises(Conflict):
        await log.save(change_zone(first, slug="s"))
    await log.save(archive_zone(second))
    await log.save(new_zone(slug="s"))


async def test_an_archived_zone_is_no_more() -> None:
    log, zone = MemoryLog(), new_zone("z")
    await log.save(zone)
    archive_zone(zone)
    assert Free(("live:zone:z", "zone_slug:slug-z", "dcr_enabled:z"), "z") in zone.guards
    assert Erase(("zone/z",)) in zone.guards
    await log.save(zone)
    assert log.held.vault == {}
    for command in (archive_zone, lambda zone: change_zone(zone, name="B")):
        with pytest.raises(NotFound) as caught:
            command(zone)
        assert caught.value.code == "zone_not_found"
    with pytest.raises(NotFound):
        await log.save(new_zone("other"), guards=[needs_zone("z")])


async def test_nothing_is_made_in_a_zone_that_never_was() -> None:
    with pytest.raises(NotFound):
        await MemoryLog().save(new_zone(), guards=[needs_zone("nowhere")])


async def test_what_falls_with_it_is_signalled() -> None:
    log = MemoryLog()
    await log.save(archive_zone(new_zone("z"), "s1", "s2"))
    signals = REVOKE.entries(log.records[-1])
    assert [signal["session_id"] for signal in signals] == ["s1", "s2"]
    assert {signal["reason"] for signal in signals} == {"zone_archived"}
    assert log.records[-1].fact().data["sessions"] == ["s1", "s2"]
    assert TOPICS["caracal.agents.lifecycle"].entries(log.records[-1]) == []


async def test_a_large_fall_has_several_parts() -> None:
    sids = [f"s{n}" for n in range(2 * CASCADE_LIMIT + 1)]
    log = MemoryLog()
    await log.save(archive_zone(new_zone("z"), *sids))
    parts = [record for record in log.records if record.name == "zone.archived"]
    assert [record.state["part"] for record in parts] == [1, 2, 3]
    assert [sid for record in parts for sid in record.state["sessions"]] == sids
    for record in parts:
        assert [root["id"] for root in record.state["roots"]] == record.state["sessions"]
        assert len(record.state["sessions"]) <= CASCADE_LIMIT


async def test_it_can_be_loaded_again() -> None:
    log = MemoryLog()
    with acting(zone_id="z", actor="operator"):
        zone = new_zone("z")
    await log.save(change_zone(zone, name="B"))
    loaded = await log.find(Zone, "z")
    assert loaded is not None
    await log.save(archive_zone(loaded))
    again = await log.find(Zone, "z")
    assert again is not None
    assert (again.name, again.archived, again.data_key_ref) == ("B", True, "zone/z")


async def test_a_zone_that_does_not_say_lets_mandates_be_asked_for_directly() -> None:
    log = MemoryLog()
    await log.save(new_zone("z"))
    del log.records[0].state["gateway_only"]  # as zones were stored before
    loaded = await log.find(Zone, "z")
    assert loaded is not None
    assert not loaded.gateway_only
    await log.save(change_zone(loaded, gateway_only=True))
    again = await log.find(Zone, "z")
    assert again is not None
    assert again.gateway_only
    assert log.records[1].state["changes"] == {"gateway_only": True}


# --- clients that register themselves ----------------------------------------------------


async def zone_with_clients(log: MemoryLog, clients: int) -> Zone:
    zone = new_zone("z", dcr_enabled=True)
    await log.save(zone)
    for _ in range(clients):
        await log.save(new_application("z", registration_method="dcr", itself=True))
    return zone


def close_dcr(zone: Zone, live: int, shutdown: DcrShutdown | None = None) -> Zone:
    with acting(zone_id=zone.aggregate_id, actor="operator"):
        zone.change({"dcr_enabled": False}, dcr_shutdown=shutdown, live_dcr=live)
    return zone


async def test_clients_register_themselves_only_where_they_may() -> None:
    log = MemoryLog()
    zone = await zone_with_clients(log, 1)
    await log.save(close_dcr(zone, 1, "keep_live"))
    for later in (True, False):
        with pytest.raises(Forbidden, match="dcr_disabled"):
            await log.save(new_application("z", registration_method="dcr", itself=True))
        if later:
            await log.save(change_zone(zone, dcr_enabled=True))
            await log.save(new_application("z", registration_method="dcr", itself=True))
            await log.save(close_dcr(zone, 2, "keep_live"))
    assert len(await log.seated(dcr_seats("z"))) == 2


async def test_closing_over_live_clients_says_what_becomes_of_them() -> None:
    log = MemoryLog()
    zone = await zone_with_clients(log, 3)
    with pytest.raises(Conflict) as caught:
        close_dcr(zone, 3)
    assert caught.value.code == "dcr_shutdown_required"
    assert caught.value.extras == {
        "detail": "3 live DCR applications",
        "live_dcr_applications": 3,
    }
    assert await names(zone) == []
    close_dcr(zone, 3, "revoke_live")
    assert zone.dcr_enabled is False
    close_dcr(zone, 3)  # nothing different, nothing asked


async def test_who_registered_meanwhile_overtakes_the_closing() -> None:
    log = MemoryLog()
    zone = await zone_with_clients(log, 1)
    with pytest.raises(Overtaken):
        await log.save(close_dcr(zone, 0))


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Acme Inc.", "acme-inc"), ("  Ä-B  ", "b"), ("...", "zone"), ("", "zone"), ("a--b", "a-b")],
)
def test_slug_of_a_name(name: str, slug: str) -> None:
    assert slug_of(name) == slug
