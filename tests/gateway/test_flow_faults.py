"""The Gateway's column of the failure table (design, section 1.5), on servers of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from caracal.embedded import EmbeddedServers
from caracal.services.sts.app import create_app as create_sts
from tests.backbone import eventually
from tests.gateway.doubles import Feed, Wire
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.sts.world import serving, working

REVOKED = {"x-caracal-revoked": "true"}
STALE = {"x-caracal-stale": "true"}


@asynccontextmanager
async def before_an_sts(servers: EmbeddedServers, **more: str) -> AsyncIterator[Scene]:
    """A Gateway before a real STS."""
    urls = servers.database_url, servers.redis_url
    async with (
        serving(create_sts(sts_settings(*urls))) as sts,
        new_scene(*urls, sts_url=sts, **more) as scene,
    ):
        scene.tenant.resource = await scene.resource_with(upstream_url=scene.sts.upstream)
        yield scene


@asynccontextmanager
async def streaming(scene: Scene, feed: Feed, headers: dict[str, str]) -> AsyncIterator[Wire]:
    """A stream through which a piece has come already."""
    scene.upstream.behaviour = feed
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        assert (await wire.ask("/", headers)).status_code == 200
        assert await wire.piece() == b"one"
        yield wire


async def answered(scene: Scene, status: int, code: str) -> None:
    """Wait until new calls are refused like this."""

    async def refused() -> bool:
        answer = await scene.call()
        return answer.status_code == status and answer.json()["error"] == code

    await eventually(refused, what=f"{status} {code}")


async def test_without_redis_open_streams_live_and_the_log_cuts_them(
    own_servers: EmbeddedServers,
) -> None:
    async with before_an_sts(own_servers) as scene:
        session, feed = await scene.session(), Feed()
        sid = {"sid": session.aggregate_id, "root_sid": session.aggregate_id}
        async with streaming(scene, feed, scene.headers(**sid)) as wire:
            os.kill(own_servers.valkey_pid, signal.SIGKILL)
            await answered(scene, 503, "audit_unavailable")
            refused = await scene.call()
            assert int(refused.headers["retry-after"]) >= 1
            ready = await scene.http.get(f"{scene.url}/ready")
            assert (ready.status_code, ready.json()["reason"]) == (503, "redis_unreachable")
            per_call = scene.tenant.token(use="per_call", aud=[scene.resource])
            single = await scene.call(headers={"Authorization": f"Bearer {per_call}"})
            assert (single.status_code, single.json()["error"]) == (401, "invalid_token")
            feed.give(b"two")
            assert await wire.piece() == b"two"
            await scene.revoke(session)
            assert await wire.rest() == (b"", REVOKED)
        answer = await scene.call(claims=sid)
        assert answer.json()["error_description"] == "session revoked"
        own_servers.restart_valkey()

        async def back() -> bool:
            scene.upstream.behaviour = None
            return (await scene.call()).status_code == 200

        await eventually(back)


async def test_without_a_worker_streams_are_still_cut(own_servers: EmbeddedServers) -> None:
    async with before_an_sts(own_servers) as scene, AsyncExitStack() as stack:
        await stack.enter_async_context(working(scene.settings))
        first, second, feed = await scene.session(), await scene.session(), Feed()
        for session in (first, second):
            sid = {"sid": session.aggregate_id, "root_sid": session.aggregate_id}
            async with streaming(scene, feed, scene.headers(**sid)) as wire:
                await scene.revoke(session)
                assert await wire.rest() == (b"", REVOKED)
            assert (await scene.call(claims=sid)).status_code == 401
            await stack.aclose()  # the second time there is no worker any more
        scene.upstream.behaviour = None
        assert (await scene.call()).status_code == 200


async def test_a_stale_view_refuses_and_ends_open_streams(own_servers: EmbeddedServers) -> None:
    async with before_an_sts(own_servers, MAX_STALENESS="1500ms") as scene:
        feed = Feed()
        headers = scene.headers()
        async with streaming(scene, feed, headers) as wire:
            os.kill(own_servers.postgres_pid, signal.SIGKILL)
            feed.give(b"two")
            assert await wire.piece() == b"two"  # not stale yet
            assert await wire.rest() == (b"", STALE)
        before = await scene.counted()
        known = await scene.call()
        unknown = await scene.call(headers={"X-Caracal-Resource": "resource://none"})
        for answer in (known, unknown):
            assert (answer.status_code, answer.json()["error"]) == (503, "state_stale")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await scene.counted())["denials_revoked"] == before["denials_revoked"] + 2
        own_servers.restart_postgres()

        async def back() -> bool:
            scene.upstream.behaviour = None
            return (await scene.call()).status_code == 200

        await eventually(back)
