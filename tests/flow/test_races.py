"""Many at once: mints against a revocation, writers against writers, over HTTP on two APIs.

``CARACAL_RACES`` says how often a mint races a revocation, ``CARACAL_SEED`` how the dice fall.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.ids import log_key
from tests.flow.conftest import Making
from tests.flow.product import Product
from tests.flow.tenant import Answer, Caller, Tenant, calling, new_tenant

RACES = int(os.environ.get("CARACAL_RACES", "60"))
SEED = int(os.environ.get("CARACAL_SEED", "1"))
CALLERS, WRITERS = 3, 32

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120 + RACES)]


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """All services, two of them the API."""
    made = making()
    made.start("worker", "api", "api2", "sts", "gateway")
    await made.ready()
    return made


@pytest.fixture
async def caller(product: Product) -> AsyncIterator[Caller]:
    async with calling(product) as made:
        yield made


@pytest.fixture
async def db(product: Product) -> AsyncIterator[AsyncConnection[Any]]:
    url = product.servers.database_url
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


# --- a mint against a revocation ------------------------------------------------------------


@dataclass
class Race:
    """Callers of one token, and when each of their requests began."""

    seen: list[tuple[float, Answer]] = field(default_factory=list)
    over: bool = False

    async def run(self, ask: Callable[[], Awaitable[Answer]]) -> None:
        """Ask again and again; once more, from begin to end, after the race is over."""
        last = False
        while not last:
            last = self.over
            began = time.perf_counter()
            self.seen.append((began, await ask()))

    def allowed(self, since: float = 0.0) -> list[Answer]:
        """Return the answers to what began after ``since`` that were no refusals."""
        return [answer for began, answer in self.seen if began > since and answer.status == 200]


def said(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body["error_description"]


async def race(tenant: Tenant, dice: random.Random) -> tuple[int, int]:
    """Revoke a grant while its agent calls and mints; return how many of both were allowed."""
    grant, token = await tenant.grant(), await tenant.ambient()
    calls, mints = Race(), Race()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(calls.run(lambda: tenant.call(token)))
        group.create_task(mints.run(lambda: tenant.mint(token)))
        await asyncio.sleep(dice.uniform(0.005, 0.03))
        revoked = await tenant.revoke(grant)
        assert revoked.status == 204, revoked
        refused = await tenant.call(token, position=revoked.position)
        not_minted = await tenant.mint(token, position=revoked.position)
        known = time.perf_counter()
        calls.over = mints.over = True
    assert said(refused) == (401, "session revoked"), refused
    assert said(not_minted) == (403, "session revoked"), not_minted
    for asked in (calls, mints):
        assert {answer.status for _, answer in asked.seen} <= {200, 401, 403}
        assert not asked.allowed(since=known)
    for minted in mints.allowed():  # also one that was minted at the very moment
        used = await tenant.call(minted.body["access_token"], position=revoked.position)
        assert said(used) == (401, "session revoked"), used
    return len(calls.allowed()), len(mints.allowed())


async def test_no_mint_outruns_a_revocation(product: Product) -> None:
    dice = random.Random(SEED)
    async with new_tenant(product) as (tenant, upstream):
        grant = await tenant.grant()
        minted = await tenant.mint(await tenant.ambient())
        used = await tenant.call(minted.body["access_token"])
        assert said(used) == (401, "invalid subject_token")  # not for long, but it is valid
        await tenant.revoke(grant)
        allowed = [await race(tenant, dice) for _ in range(RACES)]
        calls, mints = (sum(counts) for counts in zip(*allowed, strict=True))
        assert calls
        assert mints
        assert upstream.calls >= calls


# --- writers against writers ----------------------------------------------------------------


async def all_at_once(
    ask: Callable[[int, str], Awaitable[Answer]],
) -> tuple[Counter[tuple[int, str]], list[Answer]]:
    """Let 32 writers ask, half of each API; return the outcomes counted, and the answers."""
    asking = (ask(number, ("api", "api2")[number % 2]) for number in range(WRITERS))
    answers = await asyncio.gather(*asking)
    return Counter((answer.status, answer.code) for answer in answers), answers


async def versions(db: AsyncConnection[Any], thing: str) -> list[tuple[int, str]]:
    """Return version and name of each event of an aggregate, in the order of the log."""
    statement = "SELECT version, name FROM log WHERE aggregate_key = %s ORDER BY position"
    return await (await db.execute(statement, (log_key(thing),))).fetchall()


async def test_one_of_32_gets_a_slug(caller: Caller, db: AsyncConnection[Any]) -> None:
    for slug in ("one-slug", "another-slug"):

        async def create(number: int, api: str, slug: str = slug) -> Answer:
            body = {"name": f"zone {number}", "slug": slug}
            return await caller.operate("POST", "/zones", body, api=api)

        counted, _ = await all_at_once(create)
        assert counted == {(201, ""): 1, (409, "zone_slug_conflict"): WRITERS - 1}
        rows = await db.execute("SELECT count(*) FROM zones WHERE slug = %s", (slug,))
        assert await rows.fetchone() == (1,)


async def test_one_of_32_zones_takes_a_slug_over(caller: Caller, db: AsyncConnection[Any]) -> None:
    zones = [await caller.made("/zones", name="many") for _ in range(WRITERS)]

    async def take(number: int, api: str) -> Answer:
        path, body = f"/zones/{zones[number]['id']}", {"slug": "wanted"}
        return await caller.operate("PATCH", path, body, api=api)

    counted, answers = await all_at_once(take)
    assert counted == {(200, ""): 1, (409, "zone_slug_conflict"): WRITERS - 1}
    rows = await db.execute("SELECT id FROM zones WHERE slug = 'wanted'")
    assert await rows.fetchall() == [(answer.body["id"],) for answer in answers if not answer.code]


async def test_32_changes_of_one_zone_are_a_row_of_versions(
    caller: Caller, db: AsyncConnection[Any]
) -> None:
    zone = (await caller.made("/zones", name="first"))["id"]

    async def rename(number: int, api: str) -> Answer:
        return await caller.operate("PATCH", f"/zones/{zone}", {"name": f"name {number}"}, api=api)

    counted, answers = await all_at_once(rename)
    assert set(counted) <= {(200, ""), (409, "concurrent_update")}
    won = sorted((answer.position, answer.body["name"]) for answer in answers if not answer.code)
    assert len(won) == counted[200, ""] > 0
    found = await versions(db, zone)
    assert [version for version, _ in found] == list(range(1, len(won) + 2))
    shown = await caller.operate("GET", f"/zones/{zone}")
    assert shown.body["name"] == won[-1][1]


async def test_one_of_32_ends_a_thing(caller: Caller, db: AsyncConnection[Any]) -> None:
    zone = (await caller.made("/zones", name="Z"))["id"]
    path = f"/zones/{zone}/resources"
    resource = (await caller.made(path, identifier="resource://x", scopes=["read"]))["id"]

    async def delete(number: int, api: str) -> Answer:
        return await caller.operate("DELETE", f"{path}/{resource}", api=api)

    counted, answers = await all_at_once(delete)
    assert set(counted) <= {(204, ""), (404, "resource_not_found")}
    assert len([answer for answer in answers if answer.position is not None]) == 1
    assert [name for _, name in await versions(db, resource)] == [
        "resource.created",
        "resource.archived",
    ]
