"""The sweepers: what time ends becomes an event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal import clock
from caracal.events.application import Application
from caracal.events.base import Aggregate, Fall
from caracal.events.grant import Grant
from caracal.events.signing_key import SigningKey
from caracal.events.store.log import Log
from caracal.events.store.relay import Relay
from caracal.events.zone import Zone
from caracal.projections import PROJECTIONS
from caracal.projections.runner import Runner
from caracal.services.worker.sweep import Sweeper, sweeps
from caracal.settings import load_settings
from tests.backbone import RINGS, db, eventually, log, new_zone, running
from tests.making import (
    in_zone,
    new_application,
    new_grant,
    new_key,
    new_provider,
    new_resource,
    new_session,
    sealed,
)

__all__ = ["db", "log"]

DAY = timedelta(hours=24)


_LOOKED_AT = {
    *("sessions", "applications", "signing_keys"),
    *("agents", "agent_services", "invocations", "delegations", "provider_authorizations"),
}


class Swept:
    """A zone, the read models that sweepers look at, and the sweeper of one kind of thing."""

    def __init__(self, log: Log, db: AsyncConnection[Any], zone: Zone, sweeper: Sweeper) -> None:
        self.log, self.db, self.zone, self.sweeper = log, db, zone.aggregate_id, sweeper

    async def save(self, *things: Aggregate) -> None:
        for thing in things:
            await self.log.save(thing)

    async def archive(self, application_id: str) -> None:
        """Archive an application, as a command that lists nothing."""
        application = await self.log.find(Application, application_id)
        assert application is not None
        with in_zone(self.zone):
            application.archive(Fall())
        await self.save(application)

    async def column(self, table: str, column: str) -> dict[str, Any]:
        """Return a column of a read model by id."""
        cursor = await self.db.execute(f"SELECT id, {column} FROM {table}")
        return dict(await cursor.fetchall())

    async def facts(self, name: str) -> list[dict[str, Any]]:
        """Return the events of this name."""
        cursor = await self.db.execute(
            "SELECT convert_from(state, 'UTF8')::jsonb FROM log WHERE name = %s ORDER BY position",
            (name,),
        )
        return [row[0] for row in await cursor.fetchall()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the sweeper and what it needs."""
        async with running(*self.parts, self.sweeper):
            yield

    parts: tuple[Any, ...] = ()


@pytest.fixture
async def swept(
    request: pytest.FixtureRequest,
    log: Log,
    db: AsyncConnection[Any],
    database_url: str,
    redis_url: str,
) -> Swept:
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CARACAL_MODE": "dev"}
    settings = load_settings("worker", given | {"SWEEPER_BATCH_SIZE": "2"})
    (sweep,) = [one for one in sweeps(settings) if one.name == request.param]
    zone = new_zone()
    await log.save(zone)
    made = Swept(log, db, zone, Sweeper(settings, replace(sweep, every_ms=20)))
    made.parts = (
        Relay(database_url, redis_url, RINGS),
        *(
            Runner(projection, topic, database_url=database_url, redis_url=redis_url, rings=RINGS)
            for projection in PROJECTIONS
            if projection.name in _LOOKED_AT
            for topic in projection.topics
        ),
    )
    return made


@pytest.mark.parametrize("swept", ["session sweeper"], indirect=True)
async def test_sessions_expire_once_and_only_when_their_time_is_over(swept: Swept) -> None:
    application = new_application(swept.zone)
    await swept.save(application)
    now = clock.now()
    made = {
        name: new_session(
            application.aggregate_id,
            zone_id=swept.zone,
            expires_at=now + timedelta(seconds=seconds),
        )
        for name, seconds in {"a": -5, "b": -1, "c": -3, "running": 3600}.items()
    }
    await swept.save(*made.values())

    async def done() -> bool:
        return await swept.column("sessions", "status") == {
            session.aggregate_id: "active" if name == "running" else "expired"
            for name, session in made.items()
        }

    async with swept.running():
        await eventually(done, what="the status of each session")
    assert len(await swept.facts("session.expired")) == swept.sweeper.ended == 3


@pytest.mark.parametrize("swept", ["authorization sweeper"], indirect=True)
async def test_authorizations_that_nobody_answers_leave_no_verifier(swept: Swept) -> None:
    app, resource = new_application(swept.zone), new_resource(swept.zone)
    provider = new_provider(swept.zone)
    ids = app.aggregate_id, resource.aggregate_id
    over, again, answered, waits, ended = (
        new_grant(*ids, user_id="ada", zone_id=swept.zone) for _ in range(5)
    )
    await swept.save(app, resource, provider, over, again, answered, waits, ended)
    now, long_ago = clock.now(), clock.now() - timedelta(hours=1)

    async def ask(grant: Grant, asked_at: datetime, ref: str) -> None:
        with in_zone(swept.zone):
            grant.start_authorization(
                provider_id=provider.aggregate_id,
                state=ref,
                verifier=sealed(ref),
                initiated_by="token",
                return_to=None,
                now=asked_at,
            )
        await swept.save(grant)

    for grant, ref in ((over, "over"), (again, "once"), (answered, "answered"), (ended, "ended")):
        await ask(grant, long_ago, ref)
    await ask(again, now, "again")
    await ask(waits, now, "waits")
    with in_zone(swept.zone):
        answered.answer_authorization("answered", provider.aggregate_id, long_ago)
        ended.revoke(Fall())
    await swept.save(answered, ended)

    async def done() -> bool:
        waiting = await swept.column("provider_authorizations", "zone_id")
        return waiting == dict.fromkeys((again.aggregate_id, waits.aggregate_id), swept.zone)

    async with swept.running():
        await eventually(done, what="the end of the wait")
    (fact,) = await swept.facts("grant.authorization_expired")
    assert fact["aggregate_id"] == over.aggregate_id
    assert fact["meta"]["actor_name"] == "authorization sweeper"
    asked = ["over", "once", "answered", "ended", "again", "waits"]
    cursor = await swept.db.execute("SELECT ref FROM vault WHERE ref = ANY(%s)", [asked])
    assert {row[0] for row in await cursor.fetchall()} == {"again", "waits"}


@pytest.mark.parametrize("swept", ["registration sweeper"], indirect=True)
async def test_registrations_end_a_day_after_their_time_with_their_sessions(swept: Swept) -> None:
    now = clock.now()
    ends = {"over": now - DAY, "just over": now - DAY + timedelta(minutes=1), "never": None}
    apps = {
        name: new_application(swept.zone, registration_method="dcr", expires_at=at)
        for name, at in ends.items()
    }
    managed = new_application(swept.zone, expires_at=now - 2 * DAY)
    session = new_session(apps["over"].aggregate_id, zone_id=swept.zone)
    await swept.save(*apps.values(), managed, session)
    over = apps["over"].aggregate_id

    async def done() -> bool:
        archived = await swept.column("applications", "archived_at IS NOT NULL")
        status = await swept.column("sessions", "status")
        ended = archived.get(over) is True and status == {session.aggregate_id: "revoked"}
        return ended and swept.sweeper.ended == 1

    async with swept.running():
        await eventually(done, what="the end of the registration")
    archived = await swept.column("applications", "archived_at IS NOT NULL")
    assert [app_id for app_id, ended in archived.items() if ended] == [over]
    (fact,) = await swept.facts("application.archived")
    assert (fact["reason"], fact["sessions"]) == ("expired", [session.aggregate_id])
    assert fact["meta"]["actor_name"] == "registration sweeper"


def successor(key: SigningKey, kid: str) -> SigningKey:
    with in_zone(str(key.zone_id)):
        return key.successor(kid, public_jwk={"kid": kid}, private_key=sealed(f"key/{kid}"))


@pytest.mark.parametrize("swept", ["signing key sweeper"], indirect=True)
async def test_keys_retire_when_a_newer_one_is_a_day_old(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()

    def at(moment: datetime) -> None:
        monkeypatch.setattr(clock, "now", lambda: moment)

    at(now - 3 * DAY)
    first = new_key(swept.zone)
    at(now - 2 * DAY)
    second = successor(first, "second")
    at(now - DAY)
    third = successor(second, "third")
    at(now - DAY + timedelta(minutes=1))
    fourth = successor(third, "fourth")
    monkeypatch.undo()
    keys = (first, second, third, fourth)
    await swept.save(*keys)
    old = {first.aggregate_id, "second"}

    async def done() -> bool:
        reasons = await swept.column("signing_keys", "reason")
        return {kid for kid, reason in reasons.items() if reason == "rotated"} == old

    async with swept.running():
        await eventually(done, what="the end of the older keys")
    assert [fact["aggregate_id"] for fact in await swept.facts("signing_key.retired")] == [
        first.aggregate_id,
        "second",
    ]
    cursor = await swept.db.execute("SELECT ref FROM vault WHERE ref LIKE 'key/%'")
    assert {row[0] for row in await cursor.fetchall()} == {"key/third", "key/fourth"}


async def test_what_is_swept_has_names_of_its_own(database_url: str, redis_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CARACAL_MODE": "dev"}
    settings = load_settings(
        "worker", given | {"SESSION_SWEEP_INTERVAL_MS": "7", "DCR_SWEEP_INTERVAL_MS": "9"}
    )
    made = sweeps(settings)
    assert len({one.name for one in made}) == len({one.counts for one in made}) == len(made)
    assert {one.every_ms for one in made} >= {7, 9}
