"""Proofs on the agents' side: by nonces and clocks of servers, for each attempt anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.client import AdminApiError, Caracal, CaracalError, SyncCaracal
from caracal.client.dpop import Prover, challenge_of
from caracal.client.key import ClientKey
from caracal.dpop import check
from caracal.foreign_jwt import ForeignJwt, taken_apart
from tests.client.both import Kind, ok
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

KEY = ClientKey.generate()
STS, COORDINATOR, GATEWAY = "http://sts", "http://coordinator", "http://gw/base"
ISSUER = "https://issuer.example/tenant"
UPSTREAM = "https://files.example/api"
AGENT = {"id": "agent", "application_id": "app", "subject_session_id": "s", "depth": 0}


class Servers:
    """STS, Coordinator and Gateway in one; ``replies`` come before what they answer else."""

    def __init__(self, *replies: httpx.Response | Exception, **headers: str) -> None:
        self.replies, self.headers = list(replies), headers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.replies:
            reply = self.replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        if request.url.host == "sts":
            token = {"access_token": "t.o.k", "token_type": "DPoP", "expires_in": 3600}
            return httpx.Response(200, json=token, headers=headers)
        return httpx.Response(200, json=AGENT, headers=headers)

    def to(self, host: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.host == host]


class Side:
    """A client of either kind before the servers."""

    def __init__(self, kind: Kind, servers: Servers, **options: Any) -> None:
        self.kind = kind
        self.inner = httpx.MockTransport(servers)
        given = {
            "zone_id": "z",
            "application_id": "app",
            "client_secret": "SECRET",
            "sts_url": STS,
            "coordinator_url": COORDINATOR,
            "resources": ["resource://a"],
            "gateway_url": GATEWAY,
            "upstreams": {UPSTREAM: "resource://files"},
            "dpop": KEY,
            "retries": 0,
            **options,
        }
        if kind == "sync":
            http = httpx.Client(transport=self.inner)
            self.caracal: Any = SyncCaracal(http_client=http, **given)
        else:
            later = httpx.AsyncClient(transport=self.inner)
            self.caracal = Caracal(http_client=later, **given)

    async def token(self) -> str:
        return str(await self._called(self.caracal.tokens.token))

    async def headers(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        return dict(await self._called(self.caracal.headers, *args, **kwargs))

    async def spawn(self) -> None:
        if self.kind == "sync":
            with self.caracal.spawn():
                return
        async with self.caracal.spawn():
            return

    async def get(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        transport = self.caracal.transport(self.inner)
        if self.kind == "sync":
            with httpx.Client(transport=transport) as http:
                return http.request(method, url, **options)
        async with httpx.AsyncClient(transport=transport) as later:
            return await later.request(method, url, **options)

    async def _called(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs) if self.kind == "sync" else await method(*args, **kwargs)


def proof_of(request: httpx.Request) -> ForeignJwt:
    (sent,) = request.headers.get_list("dpop")
    proof = taken_apart(sent, ("dpop+jwt",))
    assert proof is not None
    return proof


def nonces(requests: list[httpx.Request]) -> list[Any]:
    assert len({proof_of(request).jti for request in requests}) == len(requests), "used twice"
    return [proof_of(request).claims.get("nonce") for request in requests]


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": code}, headers=named)


def challenge(code: str) -> dict[str, str]:
    return {"WWW_Authenticate": f'DPoP resource_metadata="u", error="{code}", algs="ES256"'}


async def test_every_request_has_its_proof(kind: Kind) -> None:
    servers = Servers()
    side = Side(kind, servers, issuer=f"{ISSUER}/")
    await side.spawn()
    await side.get(f"{UPSTREAM}/x%2Fy?q=1", headers={"DPoP": "mine"})
    places = [
        ("POST", f"{ISSUER}/oauth/2/token", None),
        ("POST", f"{COORDINATOR}/zones/z/agents", "t.o.k"),
        ("DELETE", f"{COORDINATOR}/zones/z/agents/agent", "t.o.k"),
        ("GET", f"{GATEWAY}/x%2Fy", "t.o.k"),
    ]
    now = clock.now().timestamp()
    for request, (method, uri, token) in zip(servers.requests, places, strict=True):
        sent = [value.encode() for value in request.headers.get_list("dpop")]
        assert check(sent, method=method, uri=uri, now=now, token=token).jkt == KEY.thumbprint
        assert request.headers.get("authorization") == (token and f"DPoP {token}")


async def test_a_nonce_that_is_asked_for_is_sent_at_once(kind: Kind) -> None:
    asks = refusal(400, "use_dpop_nonce", DPoP_Nonce="one")
    servers = Servers(asks, DPoP_Nonce="two")
    side = Side(kind, servers)
    await side.token()
    side.caracal.tokens.forget()
    await side.token()
    assert nonces(servers.requests) == [None, "one", "two"]


async def test_a_server_that_goes_on_asking_is_not_asked_for_ever(kind: Kind) -> None:
    asks = (refusal(400, "use_dpop_nonce", DPoP_Nonce=str(number)) for number in range(9))
    servers = Servers(*asks)
    with pytest.raises(AdminApiError, match="use_dpop_nonce"):
        await Side(kind, servers).token()
    assert nonces(servers.requests) == [None, "0"]


@pytest.mark.parametrize("nonce", ["", " ", 'a"b', "a b", "a\\b", "n" * 1025])
async def test_what_is_no_nonce_is_not_sent_back(kind: Kind, nonce: str) -> None:
    servers = Servers(refusal(400, "use_dpop_nonce", DPoP_Nonce=nonce))
    with pytest.raises(AdminApiError, match="use_dpop_nonce"):
        await Side(kind, servers).token()
    assert nonces(servers.requests) == [None]


async def test_each_server_has_nonces_of_its_own(kind: Kind) -> None:
    asks = refusal(401, "use_dpop_nonce", DPoP_Nonce="c1", **challenge("use_dpop_nonce"))
    servers = Servers(DPoP_Nonce="next")
    side = Side(kind, servers)
    await side.token()
    servers.headers, servers.replies = {}, [asks]
    await side.spawn()
    await side.get(f"{UPSTREAM}/x")
    assert nonces(servers.to("coordinator")) == [None, "c1", "c1"]
    assert nonces(servers.to("gw")) == [None]


async def test_a_retry_has_a_proof_of_its_own(kind: Kind) -> None:
    lost = httpx.ConnectError("lost"), refusal(503, "unavailable", Retry_After="0")
    servers = Servers(*lost)
    await Side(kind, servers, retries=2).token()
    assert nonces(servers.requests) == [None] * 3


async def test_a_nonce_that_changes_between_retries(kind: Kind) -> None:
    replies = (
        refusal(400, "use_dpop_nonce", DPoP_Nonce="one"),
        refusal(503, "unavailable", Retry_After="0", DPoP_Nonce="two"),
        refusal(400, "use_dpop_nonce", DPoP_Nonce="three"),
    )
    servers = Servers(*replies)
    await Side(kind, servers, retries=1).token()
    assert nonces(servers.requests) == [None, "one", "two", "three"]


@pytest.mark.parametrize("ahead", [-4000, 300])
async def test_a_clock_that_is_wrong(kind: Kind, ahead: int) -> None:
    server_time = datetime.now(UTC) + timedelta(seconds=ahead)
    date = server_time.strftime("%a, %d %b %Y %H:%M:%S GMT")
    servers = Servers(refusal(400, "invalid_dpop_proof", Date=date))
    side = Side(kind, servers)
    await side.token()
    await side.get(f"{UPSTREAM}/x")
    first, *others = (proof_of(request).claims["iat"] for request in servers.requests)
    assert abs(first - server_time.timestamp()) > 60
    assert all(abs(each - server_time.timestamp()) < 30 for each in others)
    assert len(servers.requests) == 3


async def test_a_wrong_clock_and_then_a_nonce(kind: Kind) -> None:
    date = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    replies = (
        refusal(400, "invalid_dpop_proof", Date=date),
        refusal(400, "use_dpop_nonce", Date=date, DPoP_Nonce="one"),
    )
    servers = Servers(*replies)
    await Side(kind, servers).token()
    assert nonces(servers.requests) == [None, None, "one"]


async def test_a_proof_that_is_refused_for_another_reason(kind: Kind) -> None:
    servers = Servers(refusal(400, "invalid_dpop_proof", Date="Thu, 99 Foo"))
    with pytest.raises(AdminApiError, match="invalid_dpop_proof"):
        await Side(kind, servers).token()
    assert len(servers.requests) == 1


async def test_an_unbound_token_is_not_taken(kind: Kind) -> None:
    body = {"access_token": "t.o.k", "token_type": "Bearer", "expires_in": 3600}
    with pytest.raises(AdminApiError, match="invalid_response"):
        await Side(kind, Servers(ok(body))).token()


async def test_without_a_key_nothing_is_proven(kind: Kind) -> None:
    body = {"access_token": "t.o.k", "token_type": "Bearer", "expires_in": 3600}
    servers = Servers(ok(body), DPoP_Nonce="n")
    side = Side(kind, servers, dpop=False)
    await side.get(f"{UPSTREAM}/x")
    assert (await side.headers())["Authorization"] == "Bearer t.o.k"
    assert servers.requests[-1].headers["authorization"] == "Bearer t.o.k"
    assert not any("dpop" in request.headers for request in servers.requests)


# --- assertions -----------------------------------------------------------------------------


async def test_a_key_in_place_of_the_secret(kind: Kind) -> None:
    lost = refusal(503, "unavailable", Retry_After="0")
    servers = Servers(lost, lost)
    options = {"client_secret": None, "client_key": KEY, "issuer": ISSUER, "retries": 2}
    await Side(kind, servers, client_key_id="k1", **options).token()
    forms = [parse_qs(request.content.decode()) for request in servers.requests]
    said = [taken_apart(form["client_assertion"][0], ("jwt",)) for form in forms]
    assert all("client_secret" not in form for form in forms)
    assert len({each.jti for each in said if each}) == 3
    assert {(each.header["kid"], each.claims["aud"]) for each in said if each} == {("k1", ISSUER)}


async def test_an_assertion_follows_the_clock_of_the_server(kind: Kind) -> None:
    later = (datetime.now(UTC) + timedelta(hours=2)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    for signed, calls in ((True, 2), (False, 1)):
        own = {"client_secret": None, "client_key": KEY} if signed else {}
        servers = Servers(*(refusal(401, "access_denied", Date=later) for _ in range(2)))
        with pytest.raises(AdminApiError, match="access_denied"):
            await Side(kind, servers, **own).token()
        assert len(servers.requests) == calls


# --- through the Gateway, and to others ---------------------------------------------------


async def gate_asks(kind: Kind, **options: Any) -> tuple[httpx.Response, list[Any], list[bytes]]:
    servers = Servers()
    side = Side(kind, servers)
    await side.token()
    asks = refusal(401, "use_dpop_nonce", DPoP_Nonce="g1", **challenge("use_dpop_nonce"))
    servers.replies = [asks]
    answer = await side.get(f"{UPSTREAM}/x", **options)
    return answer, nonces(servers.to("gw")), [request.content for request in servers.to("gw")]


async def test_a_gateway_that_asks_for_a_nonce(kind: Kind) -> None:
    answer, sent, bodies = await gate_asks(kind, method="PUT", content=b"body")
    assert (answer.status_code, sent, bodies) == (200, [None, "g1"], [b"body", b"body"])


async def test_a_stream_is_not_sent_twice(kind: Kind) -> None:
    async def later() -> Any:
        yield b"part"

    content = iter([b"part"]) if kind == "sync" else later()
    answer, sent, _ = await gate_asks(kind, method="PUT", content=content)
    assert (answer.status_code, sent) == (401, [None])


async def test_headers_for_another_server(kind: Kind) -> None:
    servers = Servers()
    side = Side(kind, servers)
    with pytest.raises(CaracalError, match="dpop_target_required"):
        await side.headers()
    for url, htu in (
        ("https://other.example/x?y", "https://other.example/x"),
        ("wss://other.example/ws", "https://other.example/ws"),
    ):
        sent = await side.headers("get", url, token="a.b.c")
        assert sent["Authorization"] == "DPoP a.b.c"
        assert {"traceparent"} <= sent.keys()
        now = clock.now().timestamp()
        proof = [sent["DPoP"].encode()]
        assert check(proof, method="GET", uri=htu, now=now, token="a.b.c").jkt == KEY.thumbprint


# --- what is said -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ('DPoP error="use_dpop_nonce"', "use_dpop_nonce"),
        ('Bearer realm="x", DPoP algs="ES256", error="invalid_token"', "invalid_token"),
        ('Bearer error="use_dpop_nonce"', None),
        ("DPoP", None),
        (None, None),
    ],
)
def test_challenges(header: str | None, code: str | None) -> None:
    headers: Mapping[str, str] = {} if header is None else {"www-authenticate": header}
    assert challenge_of(headers) == code


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_the_reader(nonce: str, date: str, said: str) -> None:
    prover = Prover(KEY)
    prover.learn(STS, {"dpop-nonce": nonce})
    prover.learn_time({"date": date})
    challenge_of({"www-authenticate": said})
    prover.shown("GET", STS, "t")


def test_small_differences_of_clocks_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr("caracal.client.dpop.clock", SimpleNamespace(now=lambda: moment))
    prover, base = Prover(KEY), moment.timestamp()
    for date, ahead in (("00:00:09", 0), ("00:00:30", 30), ("00:00:35", 30), ("00:00:05", 0)):
        prover.learn_time({"date": f"Thu, 01 Jan 2026 {date} GMT"})
        assert prover.now() - base == ahead


async def test_no_text_has_a_secret(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    servers = Servers(refusal(400, "invalid_dpop_proof"))
    side = Side(kind, servers)
    with pytest.raises(AdminApiError) as raised:
        await side.token()
    things = [side.caracal, side.caracal._sts._credentials, side.caracal._prover, raised.value]
    things += [side.caracal._coordinator, side.caracal._sts._sts]
    said = " ".join([caplog.text, *(f"{thing!r} {thing}" for thing in things)])
    secrets = ["SECRET", proof_of(servers.requests[0]).signature.hex()]
    secrets.append(servers.requests[0].headers["dpop"])
    assert not any(secret in said for secret in secrets)


async def test_many_at_once_use_no_proof_twice(kind: Kind) -> None:
    servers = Servers(DPoP_Nonce="n")
    side = Side(kind, servers)
    await side.token()
    if kind == "sync":
        await asyncio.gather(
            *(asyncio.to_thread(side.caracal.headers, "GET", UPSTREAM) for _ in range(32))
        )
    await asyncio.gather(*(side.get(f"{UPSTREAM}/x") for _ in range(32)))
    assert len(nonces(servers.to("gw"))) == 32
