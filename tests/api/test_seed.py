"""The first token comes from the environment, and goes when the environment changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from caracal.projections.query import select
from tests.api.running import Plane, plane, worker
from tests.backbone import opened_log


@asynccontextmanager
async def running(database_url: str, redis_url: str, token: str) -> AsyncIterator[Plane]:
    """A control plane of its own, with worker, seeded with ``token``."""
    async with (
        opened_log(database_url) as log,
        worker(database_url, redis_url),
        plane(database_url, redis_url, log, CARACAL_ADMIN_TOKEN=token) as api,
    ):
        yield api


async def status_with(api: Plane, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    answer = await api.client.get("/v1/admin-tokens", headers=headers)
    return answer.status_code


async def seeds(api: Plane) -> list[bool]:
    """Say of each seed, in the order of the log, whether it is live."""
    statement = "SELECT ended_at FROM admin_tokens WHERE created_by = 'env-bootstrap' ORDER BY id"
    async with api.database() as db:
        return [row["ended_at"] is None for row in await select(db, statement, [])]


def started(api: Plane, token: str) -> object:
    """Another replica with this token in its environment."""
    return plane(api.database_url, api.redis_url, api.log, CARACAL_ADMIN_TOKEN=token)


async def test_a_changed_token_ends_the_one_before(
    database_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(database_url, redis_url, "first") as api:
        assert await status_with(api, "first") == 200
        async with started(api, "first"):
            assert await seeds(api) == [True]
        async with started(api, "second") as second:
            assert await seeds(api) == [False, True]
            for replica in (api, second):
                assert await status_with(replica, "first") == 401
                assert await status_with(replica, "second") == 200
        with caplog.at_level(logging.WARNING):
            async with started(api, "first") as late:  # a replica that was not told
                assert await seeds(api) == [False, True]
                assert await status_with(late, "first") == 401
                assert await status_with(late, "second") == 200
        assert "set a fresh one" in caplog.text
        async with started(api, ""):
            assert await seeds(api) == [False, True]


async def test_tokens_of_callers_stay(database_url: str, redis_url: str) -> None:
    async with running(database_url, redis_url, "first") as api:
        headers = {"Authorization": "Bearer first"}
        body = {"name": "env-bootstrap", "scope": "global"}
        made = (await api.client.post("/v1/admin-tokens", json=body, headers=headers)).json()
        async with started(api, "second"):
            assert await status_with(api, made["token"]) == 200
            assert await status_with(api, "first") == 401
        # A token that a caller made may stand in the environment, too.
        async with started(api, made["token"]) as third:
            assert await status_with(third, "second") == 200
            assert await status_with(third, made["token"]) == 200


async def test_a_lesser_token_in_the_environment_ends_nothing(
    database_url: str, redis_url: str
) -> None:
    async with running(database_url, redis_url, "first") as api:
        headers = {"Authorization": "Bearer first"}
        body = {"name": "reader", "scope": "global", "capability": "read"}
        made = (await api.client.post("/v1/admin-tokens", json=body, headers=headers)).json()
        async with started(api, made["token"]):
            assert await status_with(api, "first") == 200


async def test_many_processes_at_once(database_url: str, redis_url: str) -> None:
    async with running(database_url, redis_url, "first") as api, AsyncExitStack() as stack:
        starting = (stack.enter_async_context(started(api, "second")) for _ in range(6))  # type: ignore[arg-type]
        replicas = await asyncio.gather(*starting)
        assert await seeds(api) == [False, True]
        statuses = [await status_with(replica, "second") for replica in replicas]
        assert statuses == [200] * 6


async def test_none_of_it_is_told(database_url: str, redis_url: str) -> None:
    async with running(database_url, redis_url, "very-secret-token") as api:
        answers: list[httpx.Response] = [
            await api.client.get("/v1/admin-tokens", headers={"Authorization": value})
            for value in ("Bearer very-secret-token", "Bearer very-secret-toke")
        ]
        assert [answer.status_code for answer in answers] == [200, 401]
        assert not [answer for answer in answers if "very-secret" in answer.text]
