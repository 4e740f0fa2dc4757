"""Which calls go through the Gateway, and what they carry; who they say they are made by."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.client import Caracal, CaracalError
from caracal.client.asgi import EnvelopeMiddleware
from caracal.client.envelope import Place, current, envelope_headers, restored, standing
from caracal.client.gateway import Gate, GatewayTransport
from caracal.trace import Hint, read_hint
from tests.client.both import Script, ok

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BINDINGS = {
    "https://files.example/api": "resource://files",
    "https://files.example/api/deep/": "resource://deep",
    "http://other.example:8080": "resource://other",
    "https://files.example/a%20b": "resource://spaced",
}


async def token() -> str:
    return "t.o.k"


async def sent(url: str, **options: Any) -> httpx.Request:
    """Call ``url`` by the transport; return what went out."""
    script = Script(ok({}))
    inner = httpx.MockTransport(script)
    transport = GatewayTransport(Gate("https://gw.example/proxy/", BINDINGS), token, inner)
    async with httpx.AsyncClient(transport=transport) as http:
        answer = await http.request(options.pop("method", "GET"), url, **options)
    assert str(answer.request.url) == str(httpx.URL(url)), "the caller sees its own URL"
    return script.requests[0]


@pytest.mark.parametrize(
    ("url", "resource", "path"),
    [
        ("https://files.example/api", "resource://files", "/"),
        ("https://files.example/api/", "resource://files", "/"),
        ("https://files.example/api?q=1", "resource://files", "/?q=1"),
        ("https://FILES.example:443/api/x/y?a=b%20c", "resource://files", "/x/y?a=b%20c"),
        ("https://files.example/api/x%2Fy/", "resource://files", "/x%2Fy/"),
        ("https://files.example/api/deep/z", "resource://deep", "/z"),
        ("https://files.example/api/deeper", "resource://files", "/deeper"),
        ("http://other.example:8080/any", "resource://other", "/any"),
        ("https://files.example/a%20b/c", "resource://spaced", "/c"),
        ("https://user:pw@files.example/api/x", "resource://files", "/x"),
    ],
)
async def test_bound_upstreams(url: str, resource: str, path: str) -> None:
    request = await sent(url, headers={"Authorization": "mine", "X-Caracal-Client-ID": "c"})
    assert str(request.url) == f"https://gw.example/proxy{path}"
    assert request.headers.get_list("host") == ["gw.example"]
    assert request.headers.get_list("authorization") == ["Bearer t.o.k"]
    assert request.headers.get_list("x-caracal-resource") == [resource]
    assert "x-caracal-client-id" not in request.headers


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example/",
        "https://files.example/apix",
        "https://files.example/API/x",
        "http://files.example/api/x",
        "https://files.example:8443/api/x",
        "https://files.example.evil/api/x",
        "https://evil.example/https://files.example/api",
        "http://other.example/any",
    ],
)
async def test_no_token_leaves_for_others(url: str) -> None:
    with standing(Place(Hint("agent"))):
        request = await sent(url, headers={"Authorization": "mine"})
    assert str(request.url) == url
    assert request.headers["authorization"] == "mine"
    assert not {"x-caracal-resource", "baggage", "traceparent"} & set(request.headers)


async def test_bodies_and_other_headers_pass() -> None:
    content = {"content": b"body", "headers": {"X-Mine": "1", "X-Caracal-Scope": "read"}}
    request = await sent("https://files.example/api/x", method="PUT", **content)
    assert (request.method, request.content) == ("PUT", b"body")
    assert (request.headers["x-mine"], request.headers["x-caracal-scope"]) == ("1", "read")
    assert request.headers.get_list("content-length") == ["4"]

    async def parts() -> Any:
        for part in (b"a", b"b"):
            yield part

    request = await sent("https://files.example/api/x", method="POST", content=parts())
    assert (request.content, request.headers["transfer-encoding"]) == (b"ab", "chunked")


async def test_the_envelope_goes_along() -> None:
    hint = Hint("agent", "edge", "parent", 3)
    with standing(Place(hint, TRACE.encode())):
        request = await sent("https://files.example/api/x", headers={"baggage": "a=1,caracal.x=2"})
    assert request.headers["traceparent"][:36] == TRACE[:36]
    assert request.headers["traceparent"] != TRACE
    assert request.headers["baggage"].endswith(",a=1")
    assert read_hint([request.headers["baggage"].encode()]) == hint
    request = await sent("https://files.example/api/x", headers={"traceparent": TRACE})
    assert (request.headers["traceparent"], "baggage" in request.headers) == (TRACE, False)


@pytest.mark.parametrize(
    ("gateway", "bindings"),
    [
        ("ftp://gw", {}),
        ("https://u@gw", {}),
        ("https://gw", {"files.example": "r"}),
        ("https://gw", {"https://files.example?q": "r"}),
        ("https://gw", {"https://files.example": ""}),
        ("https://gw", {"https://files.example": "r\nX: y"}),
    ],
)
def test_what_cannot_be_bound(gateway: str, bindings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Gate(gateway, bindings)


async def test_a_gateway_is_needed_for_it() -> None:
    async with Caracal.from_env(ENVIRON) as caracal:
        with pytest.raises(CaracalError, match="gateway_url_not_configured"):
            caracal.http()


# --- the envelope ---------------------------------------------------------------------------


IDS = st.none() | st.from_regex(r"[A-Za-z0-9_.\-:]{1,128}", fullmatch=True)


@given(st.builds(Hint, IDS, IDS, IDS, st.none() | st.integers(0, 31)))
def test_what_is_sent_is_restored(hint: Hint) -> None:
    with standing(Place(hint, TRACE.encode())):
        headers = [(name.encode(), value.encode()) for name, value in envelope_headers().items()]
    place = restored(headers)
    further = (hint.hop or 0) + 1 if hint.agent_session else hint.hop
    assert place.hint == replace(hint, hop=further)
    assert (place.traceparent or b"")[:36] == TRACE[:36].encode()
    assert place.owner is None, "another's agent is no parent"


@given(st.lists(st.tuples(st.sampled_from([b"baggage", b"traceparent"]), st.binary())))
def test_no_header_breaks_the_reader(headers: list[tuple[bytes, bytes]]) -> None:
    assert restored(headers).traceparent


def test_a_circle_ends() -> None:
    with standing(Place(Hint("agent", hop=32))):
        headers = [(name.encode(), value.encode()) for name, value in envelope_headers().items()]
    with standing(restored(headers)), pytest.raises(CaracalError, match="hop_limit_exceeded"):
        envelope_headers()


async def test_requests_are_handled_at_their_place() -> None:
    seen: dict[str, tuple[Any, str]] = {}
    both = asyncio.Barrier(2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            seen["lifespan"] = (current(), "")
            return
        await both.wait()
        seen[scope["path"]] = (current().hint.agent_session, envelope_headers()["traceparent"])

    def scope(name: str, kind: str) -> dict[str, Any]:
        baggage = f"caracal.agent_session={name}".encode()
        headers = [(b"traceparent", TRACE.encode()), (b"baggage", baggage)]
        return {"type": kind, "path": name, "headers": headers}

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    guarded = EnvelopeMiddleware(app)
    await guarded({"type": "lifespan"}, nothing, nothing)
    calls = [guarded(scope("a", "http"), nothing, nothing)]
    await asyncio.gather(*calls, guarded(scope("b", "websocket"), nothing, nothing))
    assert seen["lifespan"] == (Place(), "")
    assert [seen[name][0] for name in ("a", "b")] == ["a", "b"]
    assert {seen[name][1][:36] for name in ("a", "b")} == {TRACE[:36]}
    assert current() == Place()


# --- from the environment -------------------------------------------------------------------

ENVIRON = {
    "CARACAL_ZONE_ID": "z",
    "CARACAL_APPLICATION_ID": "app",
    "CARACAL_CLIENT_SECRET": "SECRET",
    "CARACAL_STS_URL": "http://sts",
    "CARACAL_COORDINATOR_URL": "http://coordinator",
    "CARACAL_RESOURCES": "resource://a resource://b",
}


async def test_from_the_environment() -> None:
    more = {"CARACAL_GATEWAY_URL": "http://gw", "CARACAL_UPSTREAMS": "http://up=r://1 http://v=r"}
    async with Caracal.from_env(ENVIRON | more, timeout_ms=1) as caracal:
        assert (caracal.zone_id, caracal.application_id) == ("z", "app")
        made = {binding.prefix: binding.resource for binding in caracal._passage()._bindings}
        assert made == {"http://up": "r://1", "http://v": "r"}
        assert "SECRET" not in repr(caracal)
        await caracal.http().aclose()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"CARACAL_ZONE_ID": ""}, "not set: CARACAL_ZONE_ID"),
        ({"CARACAL_RESOURCES": "", "CARACAL_STS_URL": ""}, "CARACAL_STS_URL, CARACAL_RESOURCES"),
        ({"CARACAL_STS_URL": "sts"}, "sts_url must be"),
        ({"CARACAL_COORDINATOR_URL": "http://u:p@c"}, "coordinator_url must be"),
        ({"CARACAL_GATEWAY_URL": "gw"}, "gateway_url must be"),
        ({"CARACAL_UPSTREAMS": "http://up"}, "prefix=resource"),
        ({"CARACAL_RESOURCES": "  "}, "resources must be"),
    ],
)
def test_an_environment_that_cannot_work(change: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        Caracal.from_env(ENVIRON | change)
    assert "SECRET" not in str(raised.value)


def test_a_bare_string_is_no_list_of_resources() -> None:
    with pytest.raises(ValueError, match="resources must be a list"):
        Caracal.from_env(ENVIRON, resources="resource://a")
