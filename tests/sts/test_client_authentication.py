"""Secrets: how they are verified, remembered, and how often one may be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from caracal import secret_hash
from caracal.errors import TooMany
from caracal.events.application import Application
from caracal.services.sts.call import Call
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.token_request import read
from tests.backbone import eventually
from tests.making import in_zone
from tests.sts.world import VAULT, World, new_tenant, new_world

CHOSEN = "correct horse"


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    limits = {
        "ARGON2_PARALLEL": "1",
        "ARGON2_QUEUE_MAX": "1",
        "CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "3",
    }
    async with new_world(module_database_url, module_redis_url, **limits) as made:
        yield made


async def ask(world: World, application: Application, secret: str) -> httpx.Response:
    """Exchange an ambient token of this application."""
    app_id = application.aggregate_id
    token = world.tenant.token(client_id=app_id, sub=app_id)
    return await world.exchange(application_id=app_id, client_secret=secret, subject_token=token)


async def forget(world: World) -> None:
    """Empty the vault of client secrets: who is let in now was remembered."""
    async with world.log._pool.connection() as db:
        await db.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT * FROM vault LIMIT 0")
        await db.execute("INSERT INTO kept SELECT * FROM vault")
        await db.execute("DELETE FROM vault")


async def restore(world: World) -> None:
    async with world.log._pool.connection() as db:
        await db.execute("INSERT INTO vault SELECT * FROM kept ON CONFLICT DO NOTHING")


@pytest.mark.parametrize("form", [secret_hash.of_random, secret_hash.of_chosen])
async def test_a_verified_secret_is_remembered_until_the_application_changes(
    world: World, form: Callable[[str], str]
) -> None:
    application = await world.tenant.add_application(form(CHOSEN))
    assert (await ask(world, application, CHOSEN)).status_code == 200
    await forget(world)
    assert (await ask(world, application, CHOSEN)).status_code == 200
    await restore(world)
    with in_zone(world.tenant.id):
        new_form = secret_hash.of_random("another").encode()
        application.change({}, secret=VAULT.seal(new_form))
    await world.tenant.save(application)
    assert (await ask(world, application, CHOSEN)).status_code == 401
    assert (await ask(world, application, "another")).status_code == 200


async def test_too_many_failures_block_the_unknown_and_not_the_remembered(world: World) -> None:
    application = await world.tenant.add_application(secret_hash.of_random(CHOSEN))
    fresh = await world.tenant.add_application(secret_hash.of_random("fresh"))
    assert (await ask(world, application, CHOSEN)).status_code == 200
    answers = [await ask(world, application, "wrong") for _ in range(6)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    blocked = answers[-1]
    assert blocked.json()["error"] == "access_denied"
    assert 1 <= int(blocked.headers["retry-after"]) <= 61
    assert await world.audit(blocked) == []
    assert (await ask(world, application, CHOSEN)).status_code == 200
    assert (await ask(world, fresh, "fresh")).status_code == 429  # the same address
    form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
    assert (await world.by_gateway(form)).status_code == 200


async def test_what_an_unknown_caller_writes_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand failures are remembered: of 60 kB each they would be the end of the process."""
    kept: list[tuple[str, ...]] = []
    monkeypatch.setattr(FailureLimit, "failed", lambda _, *keys: kept.extend(keys))
    monkeypatch.setattr(FailureLimit, "check", lambda *_: None)
    for member in ("zone_id", "application_id"):
        answer = await world.exchange(**{member: "x" * 60_000})
        assert (answer.status_code, answer.json()["error"]) == (401, "access_denied")
    await world.exchange(client_secret="wrong")
    address = ("address", "127.0.0.1")
    known = ("application", world.tenant.id, world.tenant.app_id)
    assert kept == [address, address, known, address]


async def test_forged_gateway_signatures_leave_no_evidence_without_end(world: World) -> None:
    form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
    forged = {"X-Caracal-Gateway-Signature": "0" * 64}
    answers = [await world.by_gateway(form, **forged) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 4
    entries = [await world.audit(answer) for answer in answers]
    assert [len(entry) for entry in entries] == [1] * 4 + [0] * 4
    assert (await world.by_gateway(form)).status_code == 200


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_block_lasts_a_minute_and_old_failures_are_forgotten() -> None:
    clock = Clock()
    limit = FailureLimit(2, clock)
    for _ in range(2):
        limit.failed(("application", "a"))
    limit.check(("application", "a"))
    clock.now = 61
    limit.failed(("application", "a"))
    limit.check(("application", "a"))
    for _ in range(2):
        limit.failed(("application", "a"))
    limit.check(("application", "b"))
    with pytest.raises(TooMany):
        limit.check(("application", "b"), ("application", "a"))
    clock.now += 60
    limit.check(("application", "a"))


def test_who_has_a_whole_network_has_one_address() -> None:
    empty = read(b"", b"application/x-www-form-urlencoded")
    given = ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1")
    counted = [Call({"client": (address, 1)}, b"", empty).address for address in given]
    assert counted == ["2001:db8::/64"] * 2 + ["2001:db8:0:1::/64"] + ["192.0.2.1"] * 2


def test_without_a_limit_nobody_is_blocked() -> None:
    limit = FailureLimit(0)
    for _ in range(100):
        limit.failed(("address", "a"))
    limit.check(("address", "a"))


async def test_a_zone_that_is_flooded_keeps_no_other_out(database_url: str, redis_url: str) -> None:
    narrow = {"ARGON2_PARALLEL": "1", "ARGON2_QUEUE_MAX": "2"}
    async with new_world(database_url, redis_url, **narrow) as world:
        flooded, other = world.tenant, await new_tenant(world.log)
        form = secret_hash.of_chosen(CHOSEN)
        apps = [await flooded.add_application(form) for _ in range(3)]
        quiet = (await other.add_application(form)).aggregate_id
        await world.exchange()
        token = other.token(client_id=quiet, sub=quiet)
        mine = other.form(application_id=quiet, client_secret=CHOSEN, subject_token=token)
        flood = [asyncio.create_task(ask(world, app, CHOSEN)) for app in apps * 3]
        await eventually(lambda: is_refused(flood), what="a full queue")
        answer = await world.post(mine)
        assert answer.status_code == 200
        statuses = [(await task).status_code for task in flood]
        assert {200, 429} == set(statuses)


async def is_refused(tasks: list[asyncio.Task[httpx.Response]]) -> bool:
    return any(task.done() and task.result().status_code == 429 for task in tasks)


async def test_a_full_queue_of_hashes_refuses_the_next(database_url: str, redis_url: str) -> None:
    narrow = {"ARGON2_PARALLEL": "1", "ARGON2_QUEUE_MAX": "1"}
    async with new_world(database_url, redis_url, **narrow) as world:
        application = await world.tenant.add_application(secret_hash.of_chosen(CHOSEN))
        answers = await asyncio.gather(*(ask(world, application, CHOSEN) for _ in range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert (await ask(world, application, CHOSEN)).status_code == 200
