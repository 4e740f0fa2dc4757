"""The ambient mandate: fetched once for all who wait, and again before it ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from caracal.client import AdminApiError, AdminTransportError, Caracal
from caracal.client.ambient import Credentials, TokenEndpoint, TokenSource
from caracal.client.envelope import Place, standing
from caracal.client.options import Endpoint
from caracal.client.plan_async import AsyncPlans
from caracal.client.plan_sync import SyncPlans
from caracal.trace import Hint
from tests.client.both import Kind, Script, ok, refused
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

LIMIT = 30.0  # s, for what takes none


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def issued(token: str, life: object = 3600) -> httpx.Response:
    return ok({"access_token": f"{token}.b.c", "expires_in": life})


def source(clock: Clock, handler: Any, kind: Kind = "async") -> TokenSource[Any]:
    transport = httpx.MockTransport(handler)
    plans: AsyncPlans | SyncPlans = AsyncPlans(httpx.AsyncClient(transport=transport))
    if kind == "sync":
        plans = SyncPlans(httpx.Client(transport=transport))
    sts = Endpoint("sts_url", "http://sts/base/", retries=0)
    endpoint = TokenEndpoint(sts, Credentials("z", "app", "SECRET"))
    return TokenSource(plans, endpoint, ["resource://a", "resource://b"], "agent:lifecycle", clock)


async def test_the_form_of_the_contract(kind: Kind) -> None:
    script = Script(issued("one"))
    assert await token_of(source(Clock(), script, kind)) == "one.b.c"
    request = script.requests[0]
    assert (str(request.url), request.method) == ("http://sts/base/oauth/2/token", "POST")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in request.headers
    assert parse_qs(request.content.decode()) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "zone_id": ["z"],
        "application_id": ["app"],
        "client_secret": ["SECRET"],
        "resource": ["resource://a", "resource://b"],
        "scope": ["agent:lifecycle"],
    }


async def test_it_is_fetched_again_before_it_ends(kind: Kind) -> None:
    clock, script = Clock(), Script(issued("one", 100), issued("two"))
    tokens = source(clock, script, kind)
    for now, token in ((0.0, "one"), (40.0, "one"), (40.1, "two"), (3000.0, "two")):
        clock.now = now
        assert await token_of(tokens) == f"{token}.b.c"
    assert len(script.requests) == 2


async def test_one_fetch_for_all_though_the_first_goes_away() -> None:
    clock, gate, asked = Clock(), asyncio.Event(), 0

    async def held(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        await gate.wait()
        return issued("one")

    tokens = source(clock, held)
    first, *others = [asyncio.create_task(tokens.token()) for _ in range(10)]
    while not asked:
        await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert set(await asyncio.gather(*others)) == {"one.b.c"}
    assert (asked, first.cancelled() or first.cancelling()) == (1, True)
    await tokens._plans.close()


def away(gone: bool) -> httpx.Response | Exception:
    return httpx.ConnectError("lost") if gone else refused(503)


async def token_of(tokens: TokenSource[Any]) -> str:
    """Ask for the token, as this kind of source is asked."""
    if isinstance(tokens._plans, SyncPlans):
        return await asyncio.to_thread(tokens.token)  # type: ignore[arg-type]
    token: str = await tokens.token()
    return token


def test_one_fetch_for_all_threads_though_the_first_goes_away() -> None:
    gate, asked, calls = threading.Event(), threading.Event(), 0

    def held(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        asked.set()
        assert gate.wait(LIMIT)
        return issued("one")

    tokens = source(Clock(), held, "sync")
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(tokens.token) for _ in range(32)]
        assert asked.wait(LIMIT)
        gate.set()
        assert {each.result(LIMIT) for each in waiting} == {"one.b.c"}
    assert calls == 1


def test_all_threads_are_told_of_a_failure_and_the_next_asks_again() -> None:
    script = Script(refused(401), issued("one"))
    tokens = source(Clock(), script, "sync")
    with pytest.raises(AdminApiError):
        tokens.token()
    assert tokens.token() == "one.b.c"


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_more)
    tokens = source(Clock(), Script(issued("one")), "sync")
    assert tokens.token() == "one.b.c"
    assert tokens._flight._future is None


class StsDouble:
    """Issues one and the same token; keeps the forms."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(parse_qs(request.content.decode()))
        return issued("a")

    def caracal(self) -> Caracal:
        return Caracal(
            zone_id="z",
            application_id="app",
            client_secret="s",
            sts_url="http://sts",
            coordinator_url="http://coordinator",
            resources=["resource://a"],
            http_client=httpx.AsyncClient(transport=httpx.MockTransport(self)),
        )


@pytest.fixture
def sts() -> StsDouble:
    return StsDouble()


@pytest.mark.parametrize("gone", [True, False])
async def test_an_sts_that_is_away_costs_nothing_at_first(
    kind: Kind,
    gone: bool,
) -> None:
    clock, script = Clock(), Script(issued("one", 100), *(away(gone) for _ in range(2)))
    tokens = source(clock, script, kind)
    await token_of(tokens)
    clock.now = 60.0
    assert await token_of(tokens) == "one.b.c"
    clock.now = 65.0
    with pytest.raises((AdminApiError, AdminTransportError)):
        await token_of(tokens)


async def test_a_refusal_counts_at_once(kind: Kind) -> None:
    clock = Clock()
    tokens = source(
        clock, Script(issued("one", 100), refused(401, {"error": "access_denied"})), kind
    )
    await token_of(tokens)
    clock.now = 50.0
    with pytest.raises(AdminApiError, match="access_denied"):
        await token_of(tokens)


async def test_a_forgotten_fetch_is_not_kept() -> None:
    clock, script = Clock(), Script(issued("one"), issued("two"))
    tokens = source(clock, script)
    waiting = asyncio.create_task(tokens.token())
    await asyncio.sleep(0)
    tokens.forget()
    await waiting
    assert await tokens.token() == "two.b.c"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"access_token": "one.b", "expires_in": 1},
        {"access_token": "a b.c.d", "expires_in": 1},
        {"access_token": 1, "expires_in": 1},
        {"access_token": "a.b.c"},
        {"access_token": "a.b.c", "expires_in": "1"},
        {"access_token": "a.b.c", "expires_in": True},
        {"access_token": "a.b.c", "expires_in": 0},
    ],
)
async def test_an_answer_that_is_no_token(kind: Kind, body: object) -> None:
    with pytest.raises(AdminApiError, match="invalid_response"):
        await token_of(source(Clock(), Script(ok(body)), kind))


async def test_no_text_has_the_secret(kind: Kind) -> None:
    script = Script(refused(401))
    tokens = source(Clock(), script, kind)
    with pytest.raises(AdminApiError) as raised:
        await token_of(tokens)
    assert "SECRET" not in f"{raised.value!r} {tokens._endpoint._credentials!r}"


async def test_a_mandate_is_for_the_agent_around(sts: StsDouble) -> None:
    async with sts.caracal() as caracal:
        held = Place(Hint("agent", "edge-out"), owner=("z", "app"), held_edge="edge-in")
        foreign = Place(Hint("agent", "edge"))
        for place in (held, foreign):
            with standing(place):
                await caracal.mandate("r://1", "r://2", scopes=["read", "write"], ttl_seconds=5)
        await caracal.mandate("r://1", challenge_id="c", challenge_response="d")
    ambient, own, other, retried = sts.forms
    assert "subject_token" not in ambient
    assert own["resource"] == ["r://1", "r://2"]
    assert (own["scope"], own["ttl_seconds"]) == (["read write"], ["5"])
    assert own["subject_token"] == ["a.b.c"]
    assert (own["agent_session_id"], own["delegation_edge_id"]) == (["agent"], ["edge-in"])
    assert not {"agent_session_id", "delegation_edge_id"} & {*other, *retried}
    assert (retried["challenge_id"], retried["challenge_response"]) == (["c"], ["d"])
