"""A mint that races a revocation: after the Gateway knew, nothing was written in either direction.

``CARACAL_RACE_ROUNDS`` says how often (200). Gateway, a real STS and the upstream share one
process, so the journal's order is the order in which things happened.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import h11
import pytest

from caracal.events.session import Session
from caracal.services.http import Receive, Send
from caracal.services.sts.app import create_app as create_sts
from tests.gateway.doubles import Request, Wire
from tests.gateway.journal import LAST_WORD, Journal, journal_of
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.making import in_zone
from tests.sts.world import serving, working

ROUNDS = int(os.environ.get("CARACAL_RACE_ROUNDS", "200"))
PIECE = b"data: on and on\n\n"
_LATEST = 0.02  # s; a call takes about as long


@pytest.fixture(scope="module")
async def racing(module_database_url: str, module_redis_url: str) -> AsyncIterator[Scene]:
    """A Gateway before a real STS, with a worker: facts come by topic and by log."""
    urls = module_database_url, module_redis_url
    async with (
        serving(create_sts(sts_settings(*urls))) as sts,
        new_scene(*urls, sts_url=sts) as scene,
        working(scene.settings),
    ):
        limits = {"window_seconds": 60, "max_requests": 1_000_000}
        scene.tenant.resource = await scene.resource_with(
            upstream_url=scene.sts.upstream, rate_limit=limits
        )
        yield scene


async def test_no_write_follows_the_map(racing: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = random.Random(7)
    outcomes: Counter[str] = Counter()
    assert (await racing.call()).status_code == 200
    with journal_of(racing, monkeypatch) as journal:
        for session in await racing.sessions(ROUNDS):
            journal.clear()
            outcomes[await _race(racing, session, moment.uniform(0, _LATEST), journal)] += 1
    assert set(outcomes) == {"refused", "cut"}, outcomes  # both sides of the race were met


async def chatter(request: Request, receive: Receive, send: Send) -> None:
    """Say something as often as may be, so that each moment of a stream is met."""
    gone = asyncio.create_task(_gone(receive))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await asyncio.sleep(0)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _race(scene: Scene, session: Session, delay: float, journal: Journal) -> str:
    scene.upstream.behaviour = chatter
    sid = session.aggregate_id
    headers = scene.headers(sid=sid, root_sid=sid)

    async def revoke() -> int:
        await asyncio.sleep(delay)
        with in_zone(scene.tenant.id):
            session.revoke("token_revoked")
        return await scene.save(session)

    async with Wire.opened(scene.url) as wire:
        revoking = asyncio.create_task(revoke())
        head = await wire.ask("/events", headers)
        body, trailers = await wire.rest()
        position = await revoking
    written = journal.after_mark()
    refusals = [data for kind, data in written if kind == "client" and data != LAST_WORD]
    assert not [data for kind, data in written if kind == "upstream"]
    if head.status_code == 200:
        assert trailers == {"x-caracal-revoked": "true"}
        assert [data for _, data in written] == [LAST_WORD]
        assert body == PIECE * (len(body) // len(PIECE))
    else:
        assert head.status_code in (401, 403)  # by the Gateway's map, or the STS's
        assert b"".join(refusals).startswith((b"HTTP/1.1 401", b"HTTP/1.1 403")) or not written
    await _refused_from_now_on(scene, headers, position)
    return "cut" if head.status_code == 200 else "refused"


async def _refused_from_now_on(scene: Scene, headers: dict[str, str], position: int) -> None:
    seen = len(scene.upstream.requests)
    async with Wire.opened(scene.url) as wire:
        again = await wire.ask("/", headers | {"Caracal-Min-Position": str(position)})
        assert again.status_code == 401
        assert isinstance(await wire.event(), h11.Data)
    assert len(scene.upstream.requests) == seen
