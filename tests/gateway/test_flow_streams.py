"""Streams on the wire: unbuffered, and cut at once by whatever ends the call's authority."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest

from caracal.events.base import Fall
from caracal.events.session import Session
from caracal.services.gateway.streams import STALE, STOPPED
from tests.backbone import archive_zone, eventually, new_zone
from tests.gateway.doubles import Feed, Request, Wire
from tests.gateway.journal import LAST_WORD, journal_of
from tests.gateway.scene import Scene
from tests.making import in_zone

REVOKED = {"x-caracal-revoked": "true"}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def session(scene: Scene) -> Session:
    """A session for one test to end."""
    return await scene.session()


@pytest.fixture
def feed(scene: Scene) -> Feed:
    """What the upstream sends."""
    scene.upstream.behaviour = made = Feed()
    return made


def of(scene: Scene, session: Session) -> dict[str, str]:
    """The headers of a call in a session."""
    sid = session.aggregate_id
    return scene.headers(sid=sid, root_sid=sid) | STREAM


async def settled(scene: Scene) -> None:
    """Wait until no call is under way."""

    async def over() -> bool:
        return not len(scene.gateway.streams)

    await eventually(over, what="the end of all calls")


async def test_pieces_pass_one_by_one(scene: Scene, feed: Feed) -> None:
    async with Wire.opened(scene.url) as wire:
        feed.give(b"data: 1\n\n")
        head = await wire.ask("/events", scene.headers())
        names = {name.decode().lower(): value.decode() for name, value in head.headers}
        assert names["transfer-encoding"] == "chunked"
        assert names["trailer"] == "X-Caracal-Revoked, X-Caracal-Stale"
        assert names["content-type"] == "text/event-stream"
        assert 550 < int(names["x-caracal-token-expires-in"]) <= 600
        assert await wire.piece() == b"data: 1\n\n"
        for number in range(2, 30):
            piece = b"data: %d\n\n" % number
            feed.give(piece)
            assert await wire.piece() == piece  # nothing else is to come yet
        feed.give(b"")
        assert await wire.rest() == (b"", {})
    await settled(scene)


async def test_an_idle_stream_ends_at_once_with_a_trailer(
    scene: Scene, feed: Feed, session: Session
) -> None:
    async with Wire.opened(scene.url) as wire:
        feed.give(b"data: 1\n\n")
        await wire.ask("/events", of(scene, session))
        assert await wire.piece() == b"data: 1\n\n"
        await scene.revoke(session)
        feed.give(b"data: too late\n\n")
        assert await wire.rest() == (b"", REVOKED)
        await asyncio.wait_for(feed.gone.wait(), 10)
        # The connection itself is sound: the next call on it is answered, and refused.
        wire.parser.start_next_cycle()
        assert (await wire.ask("/", of(scene, session))).status_code == 401
    await settled(scene)


async def test_other_sessions_go_on(scene: Scene, feed: Feed, session: Session) -> None:
    other = await scene.session()
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/events", of(scene, session))
        assert await wire.piece() == b"one"
        await scene.revoke(other)
        feed.give(b"two")
        assert await wire.piece() == b"two"
        feed.give(b"")
        assert await wire.rest() == (b"", {})


async def test_what_only_the_mandate_hangs_on_ends_the_stream(
    scene: Scene, feed: Feed, session: Session
) -> None:
    scene.sts.anchors = [session.aggregate_id]
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/events", scene.headers())
        assert await wire.piece() == b"one"
        await scene.revoke(session)
        assert await wire.rest() == (b"", REVOKED)


async def test_the_end_of_a_zone_ends_streams(scene: Scene, feed: Feed) -> None:
    zone = new_zone()
    await scene.save(zone)
    scene.sts.anchors = [zone.aggregate_id]
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/", scene.headers())
        assert await wire.piece() == b"one"
        await scene.save(archive_zone(zone))
        assert await wire.rest() == (b"", REVOKED)


async def test_the_end_of_a_resource_ends_its_streams(scene: Scene, feed: Feed) -> None:
    made = await scene.resource_with(upstream_url="http://127.0.0.1:9")
    scene.sts.anchors = [made.aggregate_id]
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/", scene.headers() | {"X-Caracal-Resource": made.identifier})
        assert await wire.piece() == b"one"
        with in_zone(scene.tenant.id):
            made.archive()
        await scene.save(made)
        assert await wire.rest() == (b"", REVOKED)
    await settled(scene)
    answer = await scene.call(headers={"X-Caracal-Resource": made.identifier})
    assert answer.status_code == 403


async def test_the_end_of_an_application_ends_its_streams(scene: Scene, feed: Feed) -> None:
    made = await scene.tenant.add_application()
    claims = {"client_id": made.aggregate_id, "sub": made.aggregate_id}
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/", scene.headers(**claims))
        assert await wire.piece() == b"one"
        with in_zone(scene.tenant.id):
            made.archive(Fall())
        await scene.save(made)
        assert await wire.rest() == (b"", REVOKED)
    assert (await scene.call(claims=claims)).status_code == 401


async def test_a_stream_without_a_byte_yet_is_answered_401(scene: Scene, session: Session) -> None:
    reached = asyncio.Event()
    left = asyncio.Event()

    async def silent(request: Request, receive: Any, send: Any) -> None:
        reached.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    scene.upstream.behaviour = silent
    calling = asyncio.create_task(scene.call(headers=of(scene, session)))
    await asyncio.wait_for(reached.wait(), 10)
    before = await scene.counted()
    await scene.revoke(session)
    answer = await calling
    assert (answer.status_code, answer.json()["error_description"]) == (401, "session revoked")
    assert (await scene.counted())["denials_revoked"] == before["denials_revoked"] + 1
    await asyncio.wait_for(left.wait(), 10)


async def test_a_body_on_its_way_up_stops(scene: Scene, session: Session) -> None:
    got = bytearray()
    left = asyncio.Event()

    async def reading(request: Request, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            got.extend(message.get("body", b""))
        left.set()

    scene.upstream.behaviour = reading
    more = asyncio.Event()

    async def pieces() -> Any:
        yield b"before"
        await more.wait()
        yield b"after"

    calling = asyncio.create_task(
        scene.call("/", "POST", headers=of(scene, session), content=pieces())
    )

    async def begun() -> bool:
        return bool(got)

    await eventually(begun)
    await scene.revoke(session)
    more.set()
    answer = await calling
    assert answer.status_code == 401
    await asyncio.wait_for(left.wait(), 10)
    assert got == b"before"


async def test_a_reader_that_does_not_read_gets_nothing_after_the_end(
    scene: Scene, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gateway waits with a piece in hand: it must not send it once it has learnt."""
    feed = Feed((b"content-type", b"application/octet-stream"))
    scene.upstream.behaviour = feed
    with journal_of(scene, monkeypatch) as journal:
        async with Wire.opened(scene.url, window=4096) as wire:
            wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
            asking = asyncio.create_task(wire.ask("/", of(scene, session)))
            for _ in range(400):
                feed.give(b"x" * 65_536)

            async def stuck() -> bool:
                before = feed.taken
                await asyncio.sleep(0.1)
                return before > 0 and feed.taken == before

            await eventually(stuck, what="back pressure")
            await scene.revoke(session)
            await asyncio.wait_for(feed.gone.wait(), 10)  # though nobody reads
            wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
            await asking
            assert (await wire.rest())[1] == REVOKED
        assert journal.after_mark() == [("client", LAST_WORD)]


async def test_a_client_that_leaves_closes_the_upstream(scene: Scene, feed: Feed) -> None:
    before = await scene.counted()
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/events", scene.headers())
        assert await wire.piece() == b"one"
    await asyncio.wait_for(feed.gone.wait(), 10)  # it was idle: only the watch can tell
    await settled(scene)
    after = await scene.counted()
    assert after["upstream_errors"] == before["upstream_errors"]
    assert after["requests_allowed"] == before["requests_allowed"]


async def test_a_client_that_leaves_before_the_answer_closes_the_upstream(scene: Scene) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def silent(request: Request, receive: Any, send: Any) -> None:
        reached.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    scene.upstream.behaviour = silent
    async with Wire.opened(scene.url) as wire:
        asking = asyncio.create_task(wire.ask("/", scene.headers()))
        await asyncio.wait_for(reached.wait(), 10)
        asking.cancel()
    await asyncio.wait_for(left.wait(), 10)
    await settled(scene)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda scene: scene.gateway.streams.end_all(STALE), {"x-caracal-stale": "true"}),
        (lambda scene: scene.gateway.streams.end_endless(STOPPED), None),
    ],
    ids=["stale", "stopping"],
)
async def test_a_stream_ends_for_other_reasons(
    scene: Scene,
    feed: Feed,
    end: Callable[[Scene], Any],
    expected: dict[str, str] | None,
) -> None:
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/events", scene.headers())
        assert await wire.piece() == b"one"
        end(scene)
        if expected is None:  # no authority has ended: it is only cut
            with pytest.raises(h11.RemoteProtocolError):
                await wire.rest()
        else:
            assert await wire.rest() == (b"", expected)
    await asyncio.wait_for(feed.gone.wait(), 10)


async def test_a_download_goes_on_while_the_process_stops(scene: Scene) -> None:
    feed = Feed((b"content-type", b"application/zip"))
    scene.upstream.behaviour = feed
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/", scene.headers())
        assert await wire.piece() == b"one"
        scene.gateway.streams.end_endless(STOPPED)
        feed.give(b"two", b"")
        assert await wire.rest() == (b"two", {})


Cut = Callable[[Scene, Session, Feed], Awaitable[Any]]


async def _revoke(scene: Scene, session: Session, feed: Feed) -> None:
    await scene.revoke(session)


async def _end(scene: Scene, session: Session, feed: Feed) -> None:
    feed.give(b"")


@pytest.mark.parametrize("how", [_revoke, _end], ids=["cut", "ended"])
async def test_an_http_1_0_client_gets_no_chunks_and_a_closed_connection(
    scene: Scene, feed: Feed, session: Session, how: Cut
) -> None:
    async with Wire.opened(scene.url) as wire:
        lines = "".join(f"{k}: {v}\r\n" for k, v in of(scene, session).items())
        wire.writer.write(f"GET /events HTTP/1.0\r\n{lines}\r\n".encode())
        feed.give(b"data: 1\n\n")
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 10)
        assert b"transfer-encoding" not in head
        assert b"trailer" not in head
        assert await asyncio.wait_for(wire.reader.readexactly(9), 10) == b"data: 1\n\n"
        await how(scene, session, feed)
        assert await asyncio.wait_for(wire.reader.read(), 10) == b""


async def test_many_streams_of_one_session_end_together(
    scene: Scene, feed: Feed, session: Session
) -> None:
    async def stream() -> dict[str, str]:
        async with Wire.opened(scene.url) as wire:
            await wire.ask("/events", of(scene, session))
            return (await wire.rest())[1]

    streams = [asyncio.create_task(stream()) for _ in range(40)]

    async def all_open() -> bool:
        return len(scene.upstream.requests) == 40

    await eventually(all_open)
    await scene.revoke(session)
    assert await asyncio.gather(*streams) == [REVOKED] * 40
    assert not scene.gateway.streams._by_anchor
