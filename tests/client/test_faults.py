"""What goes wrong on the way, over real sockets: one table, both clients."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from caracal.client import (
    AdminApiError,
    AdminCancelledError,
    AdminClient,
    AdminTransportError,
    AsyncAdminClient,
    CaracalError,
)
from caracal.client import wire as client_wire
from tests.client.both import Client, Kind, Script, again, ok, refused
from tests.client.faulty import Behaviour, answer, dripping, faulty, raw, reset, silent

NOW = "Retry-After: 0"
BUSY = answer("503 Service Unavailable", b'{"error":"unavailable"}', NOW)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SHORT = raw(HEAD + b"Content-Length: 100\r\n\r\n[")
BROKEN_CHUNK = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[\r\n")
BAD_GZIP = answer("200 OK", b"no gzip", "Content-Encoding: gzip")
SLOW_BODY = dripping(HEAD + b"Content-Length: 100000\r\n\r\n", b" ")
SLOW_HEAD = dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
HUGE = answer("200 OK", b"[]" + b" " * 20_000)
BOMB = answer("200 OK", gzip.compress(b"[]" + b" " * 20_000), "Content-Encoding: gzip")


@dataclass(frozen=True)
class Case:
    """``then`` is what comes of the behaviours: a result, or type and code of the error."""

    behaviours: tuple[Behaviour, ...]
    then: Any
    requests: int
    method: str = "zones.list"
    arguments: tuple[Any, ...] = ()
    timeout_ms: int = 10_000


def failing(behaviour: Behaviour, code: str, attempts: int = 2) -> Case:
    kind = AdminTransportError if code.startswith("admin_request") else AdminApiError
    return Case((behaviour,) * attempts, (kind, code), attempts)


def too_slow(behaviour: Behaviour) -> Case:
    return replace(failing(behaviour, "admin_request_timeout"), timeout_ms=200)


DELETED = {"method": "zones.delete", "arguments": ("z1",)}
EVIL = answer("200 OK", b"[]", 'Link: <http://127.0.0.1:9/v1/zones>; rel="next"')
CASES = {
    "503, then 200": Case((BUSY,), [], 2),
    "503, 503": failing(BUSY, "unavailable"),
    "503 in another type": failing(answer("503 Not Now", b"<html>", NOW), "Not Now"),
    "503 without a reason": failing(raw(b"HTTP/1.1 503\r\n\r\n"), "request_failed"),
    "429, date in the past": Case(
        (answer("429 Slow", b"", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"),), [], 2
    ),
    "429, less than nothing": Case((answer("429 Slow", b"", "Retry-After: -5"),), [], 2),
    "429, garbage": Case((answer("429 Slow", b"", "Retry-After: soon"),), [], 2),
    "reset, then 200": Case((reset,), [], 2),
    "reset, reset": failing(reset, "admin_request_failed"),
    "nothing written": failing(raw(), "admin_request_failed"),
    "no HTTP": failing(raw(b"SSH-2.0-OpenSSH\r\n"), "admin_request_failed"),
    "short body": failing(SHORT, "admin_request_failed"),
    "short body, then 200": Case((SHORT,), [], 2),
    "broken chunk": failing(BROKEN_CHUNK, "admin_request_failed"),
    "bad gzip": failing(BAD_GZIP, "admin_request_failed"),
    "silent": too_slow(silent),
    "silent, then 200": Case((silent,), [], 2, timeout_ms=1_000),
    "slow head": too_slow(SLOW_HEAD),
    "slow body": too_slow(SLOW_BODY),
    "not JSON": failing(answer("200 OK", b"<html>"), "invalid_response", 1),
    "empty": failing(answer("200 OK"), "invalid_response", 1),
    "huge": failing(HUGE, "invalid_response", 1),
    "gzip bomb": failing(BOMB, "invalid_response", 1),
    "huge refusal": failing(answer("418 Teapot", b"x" * 20_000), "Teapot", 1),
    "moved": failing(answer("307 Moved", b"", "Location: http://127.0.0.1:9/"), "Moved", 1),
    "the next page elsewhere": failing(EVIL, "invalid_response", 1),
    "refused": failing(answer("404 Not Found", b'{"error":"zone_not_found"}'), "zone_not_found", 1),
    "204": Case((answer("204 No Content"),), None, 1, **DELETED),
    "202 that is never read": Case((SLOW_BODY,), None, 1, **DELETED),
    "200 with too little": Case((SHORT,), None, 1, **DELETED),
    "refused delete is read": Case(
        (answer("409 Conflict", b'{"error":"busy"}'),), (AdminApiError, "busy"), 1, **DELETED
    ),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies over 10 kB count as huge here."""
    monkeypatch.setattr(client_wire, "MAX_ANSWER_BYTES", 10_000)


async def no_request_runs() -> None:
    """Wait until no attempt is running any more."""
    end = time.monotonic() + 5
    while any(thread.name == "caracal-client" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a request is still running"
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
async def _no_thread_left() -> AsyncIterator[None]:
    yield
    await no_request_runs()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_what_comes_of_it(kind: Kind, case: Case) -> None:
    async with faulty(*case.behaviours) as server:
        client = Client(kind, api_url=server.url, retries=1, timeout_ms=case.timeout_ms)
        try:
            result = await client.call(case.method, *case.arguments)
        except CaracalError as error:
            result = (type(error), error.code)
        assert (result, len(server.seen)) == (case.then, case.requests)
        await client.close()
    assert all("Authorization: Bearer t" in head for head in server.seen)


async def test_nobody_listens(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = Client(kind, api_url=f"http://127.0.0.1:{port}", retries=1)
    with pytest.raises(AdminTransportError) as raised:
        await client.call("zones.list")
    assert raised.value.code == "admin_request_failed"
    assert isinstance(raised.value.__cause__, httpx.ConnectError)
    await client.close()


async def test_the_limit_is_each_attempts_own(kind: Kind) -> None:
    async with faulty(silent, silent, answer("200 OK", b"[]")) as server:
        client = Client(kind, api_url=server.url, retries=2, timeout_ms=500)
        began = time.monotonic()
        assert await client.call("zones.list") == []
        assert time.monotonic() - began > 2 * 0.5 + 0.125 + 0.25
        await client.close()


async def test_an_abandoned_attempt_ends_with_its_read(kind: Kind) -> None:
    async with faulty(SLOW_BODY) as server:
        client = Client(kind, api_url=server.url, retries=0, timeout_ms=100)
        with pytest.raises(AdminTransportError):
            await client.call("zones.list")
        await no_request_runs()  # although the server goes on
        await client.close()


# --- cancel -------------------------------------------------------------------------------


async def cancelled(client: Client, calling: asyncio.Task[Any]) -> None:
    """Set ``cancel``; the call must end with its error at once."""
    began = time.monotonic()
    client.cancel.set()
    with pytest.raises(AdminCancelledError) as raised:
        await calling
    assert raised.value.code == "admin_request_cancelled"
    assert time.monotonic() - began < 3
    await client.close()


@pytest.mark.parametrize("behaviour", [silent, SLOW_HEAD, SLOW_BODY])
async def test_cancelled_during_a_request(kind: Kind, behaviour: Behaviour) -> None:
    async with faulty(behaviour) as server:
        client = Client(kind, api_url=server.url, timeout_ms=4_000, retries=0)
        calling = asyncio.create_task(client.call("zones.list"))
        await asyncio.wait_for(server.asked.wait(), 10)
        await cancelled(client, calling)
        server.stop()
    assert len(server.seen) == 1


async def test_cancelled_while_it_waits(kind: Kind) -> None:
    async with faulty(answer("503 Busy", b"", "Retry-After: 25")) as server:
        client = Client(kind, api_url=server.url)
        calling = asyncio.create_task(client.call("zones.list"))
        await asyncio.wait_for(server.asked.wait(), 10)
        await cancelled(client, calling)
    assert len(server.seen) == 1


@pytest.mark.parametrize("name", ["zones.list", "zones.iter", "agents.list"])
async def test_cancelled_before(kind: Kind, name: str) -> None:
    script = Script()
    client = Client(kind, script)
    client.cancel.set()
    with pytest.raises(AdminCancelledError):
        await client.call(name, *(["z1"] if name.startswith("agents") else []))
    assert script.requests == []


async def test_cancelled_between_pages(kind: Kind) -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        if len(replies) == 1:
            client.cancel.set()
        return replies.pop(0)

    replies = [ok([], Link='<?cursor=a>; rel="next"'), ok([], Link='<?cursor=b>; rel="next"')]
    client = Client(kind, reply)
    with pytest.raises(AdminCancelledError):
        await client.call("zones.list")


async def test_a_cancelled_task_leaves_nothing_behind() -> None:
    async with faulty(silent) as server:
        client = Client("async", api_url=server.url)
        before = asyncio.all_tasks()
        calling = asyncio.create_task(client.call("zones.list"))
        await asyncio.wait_for(server.asked.wait(), 10)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert {task for task in asyncio.all_tasks() - before if "zones" in repr(task)} == set()
        await client.close()


# --- the same client, from many places ------------------------------------------------------


async def test_many_calls_at_once(kind: Kind) -> None:
    client = Client(kind, lambda request: ok({"id": request.url.path.rpartition("/")[2]}))
    found = await asyncio.gather(*(client.call("zones.get", f"z{n}") for n in range(64)))
    assert [zone["id"] for zone in found] == [f"z{n}" for n in range(64)]


async def test_what_is_no_transport_error_is_not_hidden(kind: Kind) -> None:
    class Odd(Exception):
        pass

    def reply(_: httpx.Request) -> httpx.Response:
        raise Odd

    with pytest.raises(Odd):
        await Client(kind, reply).call("zones.list")


def test_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    http = httpx.Client(transport=httpx.MockTransport(lambda _: ok([])))
    client = AdminClient(api_url="http://api", admin_token="t", http_client=http)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert client.zones.list() == []


async def test_whose_http_client_is_closed() -> None:
    http, later = httpx.Client(), httpx.AsyncClient()
    with AdminClient(api_url="http://api", admin_token="t", http_client=http):
        pass
    async with AsyncAdminClient(api_url="http://api", admin_token="t", http_client=later):
        pass
    assert (http.is_closed, later.is_closed) == (False, False)
    http.close()
    await later.aclose()
    with AdminClient(api_url="http://api", admin_token="t") as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.zones.list()


async def test_bursts_of_refusals(kind: Kind) -> None:
    script = Script(*again(2), ok([{"id": "z"}]), *again(3), refused(503, Retry_After="0"))
    client = Client(kind, script)
    assert await client.call("zones.list") == [{"id": "z"}]
    with pytest.raises(AdminApiError):
        await client.call("zones.list")
    assert len(script.requests) == 7
