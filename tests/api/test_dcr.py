"""Clients that register themselves: rate, cap, expiry, and how a zone stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from caracal import clock
from caracal.events.application import MAX_DCR, Application
from caracal.events.zone import dcr_seats
from caracal.projections.query import select
from caracal.services.api import limits
from tests.api.running import Plane, plane
from tests.api.test_applications import EC_KEY
from tests.backbone import new_zone, opened_log
from tests.making import new_application, new_session


@pytest.fixture
async def zone(api: Plane) -> str:
    """A zone where clients may register themselves."""
    return await api.zone(dcr_enabled=True)


def path(zone: str, *rest: str) -> str:
    return "/".join((f"/zones/{zone}/applications", *rest))


async def register(api: Plane, zone: str, **members: Any) -> httpx.Response:
    return await api.call("POST", path(zone, "dcr"), {"name": "client", **members})


async def registered(api: Plane, zone: str, **members: Any) -> dict[str, Any]:
    answer = await register(api, zone, **members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def status(api: Plane, zone: str) -> dict[str, Any]:
    answer = await api.call("GET", f"/zones/{zone}/dcr-status")
    assert answer.status_code == 200
    return dict(answer.json())


async def live(api: Plane, zone: str) -> int:
    return int((await status(api, zone))["live_dcr_applications"])


def client(zone: str, expires_at: datetime | None = None) -> Application:
    return new_application(zone, registration_method="dcr", expires_at=expires_at)


async def fill(api: Plane, zone: str, *things: Application) -> None:
    """Register many at once, past the rate limit."""
    await api.save(*things)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# --- registering ---------------------------------------------------------------------------


async def test_the_answer_has_the_contracts_members(api: Plane, zone: str) -> None:
    made = await registered(api, zone)
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "client",
        "registration_method": "dcr",
        "credential_type": "public",
        "jwks": None,
        "jwks_uri": None,
        "traits": [],
        "consent": "implicit",
        "created_at": made["created_at"],
        "expires_at": None,
    }
    assert (await api.call("GET", path(zone, made["id"]))).json() == made
    assert await status(api, zone) == {
        "id": zone,
        "dcr_enabled": True,
        "live_dcr_applications": 1,
    }


async def test_it_expires_when_it_says(api: Plane, zone: str) -> None:
    given = {"credential_type": "token", "expires_in": 60, "traits": ["a"]}
    made = await registered(api, zone, **given)
    assert made["client_secret"].startswith("cs_")
    lasts = clock.parse(made["expires_at"]) - clock.parse(made["created_at"])
    assert abs(lasts - timedelta(seconds=60)) < timedelta(seconds=5)
    assert made["traits"] == ["a"]
    with_keys = await registered(api, zone, credential_type="public-key", jwks={"keys": [EC_KEY]})
    assert with_keys["jwks"] == {"keys": [EC_KEY]}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"expires_in": value} for value in (0, -1, 1.5, "60", True, 10**12, [])),
        *({"name": value} for value in ("", None, 1, "\x00")),
        {"credential_type": "other"},
        {"client_secret": ""},
        {"jwks": {"keys": [EC_KEY]}, "jwks_uri": "https://a.example"},
        {"jwks_uri": "http://a.example"},
        {"traits": "a"},
    ],
    ids=str,
)
async def test_bad_bodies(api: Plane, zone: str, wrong: dict[str, Any]) -> None:
    answer = await register(api, zone, **wrong)
    assert refusal(answer) == (400, "invalid_body")
    assert answer.json()["issues"]
    assert await live(api, zone) == 0


async def test_traits_of_control_are_for_global_tokens(api: Plane, zone: str) -> None:
    headers = await api.token("zone", zone)
    body = {"name": "client", "traits": ["control:admin"]}
    answer = await api.call("POST", path(zone, "dcr"), body, headers=headers)
    assert refusal(answer) == (403, "trait_forbidden")


async def test_a_zone_that_does_not_allow_it(api: Plane) -> None:
    zone = await api.zone()
    assert refusal(await register(api, zone)) == (403, "dcr_disabled")
    await api.call("PATCH", f"/zones/{zone}", {"dcr_enabled": True})
    await registered(api, zone)


async def as_often_as_it_likes(self: limits.Registrations, zone_id: str) -> None:
    """In place of the rate, where another limit is tested."""


# --- the rate ------------------------------------------------------------------------------


async def test_ten_a_second(api: Plane, zone: str) -> None:
    """What is refused for another reason counts, too."""
    key = f"rl:dcr:{zone}"
    async with Redis.from_url(api.redis_url) as redis:
        await redis.set(key, 8, px=600_000)
        assert refusal(await register(api, zone, name="")) == (400, "invalid_body")
        await registered(api, zone)
        assert await redis.get(key) == b"10"
        refused = await register(api, zone)
        assert refusal(refused) == (429, "dcr_rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert await live(api, zone) == 1
        await redis.delete(key)
        await registered(api, zone)
        assert await redis.pttl(key) in range(-2, 1001)  # -2: that second is over already
        assert await redis.pttl(key) != -1, "the window never ends"


@pytest.mark.parametrize("spelt", ["/applications/%64cr", "/applications%2Fdcr"])
async def test_no_spelling_of_the_path_steps_around_the_rate(
    api: Plane, zone: str, spelt: str
) -> None:
    async with Redis.from_url(api.redis_url) as redis:
        await redis.set(f"rl:dcr:{zone}", 10, px=600_000)
        refused = await api.call("POST", f"/zones/{zone}{spelt}", {"name": "client"})
        assert refusal(refused) == (429, "dcr_rate_limit_exceeded")


async def test_the_rate_comes_before_the_zone(api: Plane) -> None:
    answers = await asyncio.gather(*(register(api, "nowhere") for _ in range(32)))
    codes = [refusal(answer) for answer in answers]
    assert set(codes) == {(404, "zone_not_found"), (429, "dcr_rate_limit_exceeded")}


async def test_other_routes_are_not_counted(api: Plane, zone: str) -> None:
    await asyncio.gather(*(api.application(zone) for _ in range(12)))
    for _ in range(12):
        assert (await api.call("GET", path(zone, "dcr"))).status_code == 404
    async with Redis.from_url(api.redis_url) as redis:
        assert not await redis.exists(f"rl:dcr:{zone}")


@pytest.fixture
async def alone(database_url: str, redis_url: str) -> AsyncIterator[Plane]:
    """An API without a worker, whose Redis is gone."""
    async with opened_log(database_url) as log:
        gone = "redis://127.0.0.1:1/0"
        async with plane(database_url, gone, log) as running:
            yield running


async def test_without_redis_each_process_counts(alone: Plane) -> None:
    zone = new_zone(dcr_enabled=True)
    await alone.log.save(zone)
    calls = (register(alone, zone.aggregate_id) for _ in range(32))
    codes = [answer.status_code for answer in await asyncio.gather(*calls)]
    assert set(codes) == {201, 429}
    assert codes.count(201) >= 10


# --- the cap -------------------------------------------------------------------------------


async def test_the_cap_is_exact_under_many_writers(
    api: Plane, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has expired does not count, and nobody need have noticed it."""
    monkeypatch.setattr(limits.Registrations, "enter", as_often_as_it_likes)
    expires = clock.now() + timedelta(hours=1)
    await fill(api, zone, *(client(zone) for _ in range(MAX_DCR - 10)))
    await fill(api, zone, *(client(zone, expires) for _ in range(4)), client(zone, clock.now()))
    answers = await asyncio.gather(*(register(api, zone) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] * 6 + [429] * 26
    assert {refusal(a) for a in answers if a.status_code == 429} == {(429, "dcr_limit_exceeded")}
    assert await live(api, zone) == MAX_DCR
    async with api.database() as db:  # as if an hour had passed
        seats = (dcr_seats(zone), expires)
        await db.execute("UPDATE guard_seat SET until = now() WHERE (key, until) = (%s, %s)", seats)
    assert await live(api, zone) == MAX_DCR - 4
    answers = await asyncio.gather(*(register(api, zone) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [429] * 28
    made = next(answer.json()["id"] for answer in answers if answer.status_code == 201)
    assert (await api.call("DELETE", path(zone, made))).status_code == 204
    answers = await asyncio.gather(*(register(api, zone) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201] + [429] * 31


# --- a zone that stops it ------------------------------------------------------------------


async def close(api: Plane, zone: str, **members: Any) -> httpx.Response:
    return await api.call("PATCH", f"/zones/{zone}", {"dcr_enabled": False, **members})


async def test_closing_asks_what_becomes_of_live_clients(api: Plane, zone: str) -> None:
    await fill(api, zone, client(zone), client(zone), client(zone, clock.now()))
    answer = await close(api, zone, name="closed")
    assert refusal(answer) == (409, "dcr_shutdown_required")
    assert answer.json()["live_dcr_applications"] == 2
    assert "2" in answer.json()["detail"]
    kept = (await api.call("GET", f"/zones/{zone}")).json()
    assert (kept["dcr_enabled"], kept["name"]) == (True, "zone")


async def test_closing_without_live_clients_asks_nothing(api: Plane, zone: str) -> None:
    await fill(api, zone, client(zone, clock.now()))
    await api.application(zone)
    answer = await close(api, zone)
    assert (answer.status_code, answer.json()["dcr_enabled"]) == (200, False)
    assert refusal(await register(api, zone)) == (403, "dcr_disabled")


async def test_live_clients_may_be_kept(api: Plane, zone: str) -> None:
    made = await registered(api, zone)
    assert (await close(api, zone, dcr_shutdown="keep_live")).status_code == 200
    assert (await api.call("GET", path(zone, made["id"]))).json() == made
    assert await status(api, zone) == {
        "id": zone,
        "dcr_enabled": False,
        "live_dcr_applications": 1,
    }
    assert refusal(await register(api, zone)) == (403, "dcr_disabled")
    again = await close(api, zone)
    assert (again.status_code, "caracal-position" in again.headers) == (200, False)


async def test_live_clients_end_with_their_sessions(api: Plane, zone: str) -> None:
    clients = [client(zone) for _ in range(3)]
    managed = await api.application(zone)
    await fill(api, zone, *clients)
    sessions = [new_session(one.aggregate_id, zone_id=zone) for one in clients]
    stays = new_session(managed["id"], zone_id=zone)
    await api.save(*sessions, stays)
    answer = await close(api, zone, dcr_shutdown="revoke_live", name="closed")
    assert (answer.status_code, answer.json()["name"]) == (200, "closed")
    position = int(answer.headers["caracal-position"])
    async with api.database() as db:
        assert await api.waiter.reached(db, position, timeout=10)
    (kept,) = (await api.call("GET", path(zone))).json()
    assert kept["id"] == managed["id"]
    listed = (await api.call("GET", f"/zones/{zone}/sessions")).json()
    assert {row["id"]: row["status"] for row in listed} == {
        **{session.aggregate_id: "revoked" for session in sessions},
        stays.aggregate_id: "active",
    }
    async with api.database() as db:
        rows = await select(
            db,
            "SELECT xmin::text AS at, name, convert_from(state, 'UTF8')::jsonb AS fact FROM log"
            " WHERE position <= %s ORDER BY position DESC LIMIT 4",
            [position],
        )
    assert [row["name"] for row in rows] == ["zone.changed", *["application.archived"] * 3]
    assert len({row["at"] for row in rows}) == 1, "one transaction"
    archived = [row["fact"] for row in rows[1:]]
    assert {fact["reason"] for fact in archived} == {"dcr_shutdown"}
    ended = {(fact["aggregate_id"], *fact["sessions"]) for fact in archived}
    assert ended == {(one.application_id, one.aggregate_id) for one in sessions}


async def test_what_was_kept_may_end_later(api: Plane, zone: str) -> None:
    made = await registered(api, zone)
    await close(api, zone, dcr_shutdown="keep_live")
    answer = await close(api, zone, dcr_shutdown="revoke_live")
    assert (answer.status_code, answer.json()["dcr_enabled"]) == (200, False)
    assert (await api.call("GET", path(zone, made["id"]))).status_code == 404
    assert await live(api, zone) == 0


@pytest.mark.parametrize("members", [{}, {"name": "x"}, {"dcr_enabled": True}])
@pytest.mark.parametrize("shutdown", ["keep_live", "revoke_live"])
async def test_a_shutdown_without_closing(
    api: Plane, zone: str, members: dict[str, Any], shutdown: str
) -> None:
    answer = await api.call("PATCH", f"/zones/{zone}", {"dcr_shutdown": shutdown, **members})
    assert refusal(answer) == (400, "dcr_shutdown_not_applicable")


@pytest.mark.parametrize("shutdown", [1, "", "other", [], {}, True])
async def test_bad_shutdowns(api: Plane, zone: str, shutdown: Any) -> None:
    assert refusal(await close(api, zone, dcr_shutdown=shutdown)) == (400, "invalid_zone")


@pytest.mark.parametrize("shutdown", [None, "revoke_live"])
async def test_nobody_slips_through_a_closing_door(
    api: Plane, zone: str, monkeypatch: pytest.MonkeyPatch, shutdown: str | None
) -> None:
    """32 register while the zone closes: whoever was let in is kept by nobody's mistake."""
    monkeypatch.setattr(limits.Registrations, "enter", as_often_as_it_likes)
    body = {} if shutdown is None else {"dcr_shutdown": shutdown}
    registrations = [asyncio.create_task(register(api, zone)) for _ in range(32)]

    async def closed() -> httpx.Response:
        return await close(api, zone, **body)

    answer = await closed()
    codes = {refusal(a) for a in await asyncio.gather(*registrations) if a.status_code != 201}
    assert codes <= {(403, "dcr_disabled")}
    seen = await status(api, zone)
    if shutdown is None:
        open_ = seen["live_dcr_applications"] > 0
        assert (answer.status_code, seen["dcr_enabled"]) == (409 if open_ else 200, open_)
    else:
        assert answer.status_code == 200, answer.text
        assert seen == {"id": zone, "dcr_enabled": False, "live_dcr_applications": 0}


async def test_a_full_zone_is_full_at_the_other_door_and_ends_at_once(
    api: Plane, zone: str
) -> None:
    clients = [client(zone) for _ in range(MAX_DCR)]
    last = clients[-1].aggregate_id
    await api.save(*clients, new_session(last, zone_id=zone))
    body = {"name": "client", "registration_method": "dcr"}
    assert refusal(await api.call("POST", path(zone), body)) == (429, "dcr_limit_exceeded")
    await api.application(zone)
    assert (await close(api, zone, dcr_shutdown="revoke_live")).status_code == 200
    assert await api.log.seated(dcr_seats(zone)) == []
    found = await api.log.find(Application, last)
    assert found is not None
    assert found.reason == "dcr_shutdown"
