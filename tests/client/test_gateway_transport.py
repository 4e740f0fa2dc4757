"""Which calls go through the Gateway, and what they carry; who they say they are made by."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.client import Caracal, CaracalError, SyncCaracal
from caracal.client.asgi import EnvelopeMiddleware
from caracal.client.envelope import Place, current, envelope_headers, restored, standing
from caracal.client.gateway import Gate, GatewayTransport, SyncGatewayTransport
from caracal.client.key import ClientKey
from caracal.client.wsgi import EnvelopeMiddleware as WsgiMiddleware
from caracal.trace import Hint, read_hint
from tests.client.both import Kind, Script, ok
from tests.signing import ec_key, pem_of
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BINDINGS = {
    "https://files.example/api": "resource://files",
    "https://files.example/api/deep/": "resource://deep",
    "http://other.example:8080": "resource://other",
    "https://files.example/a%20b": "resource://spaced",
}


async def token() -> str:
    return "t.o.k"


async def sent(url: str, kind: Kind = "async", **options: Any) -> httpx.Request:
    """Call ``url`` by the transport; return what went out."""
    script = Script(ok({}))
    inner, gate = httpx.MockTransport(script), Gate("https://gw.example/proxy/", BINDINGS)
    method = options.pop("method", "GET")
    if kind == "sync":
        blocking = SyncGatewayTransport(gate, lambda: "t.o.k", inner)
        with httpx.Client(transport=blocking) as client:
            answer = client.request(method, url, **options)
    else:
        transport = GatewayTransport(gate, token, inner)
        async with httpx.AsyncClient(transport=transport) as http:
            answer = await http.request(method, url, **options)
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
async def test_bound_upstreams(kind: Kind, url: str, resource: str, path: str) -> None:
    request = await sent(url, kind, headers={"Authorization": "mine", "X-Caracal-Client-ID": "c"})
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
async def test_no_token_leaves_for_others(kind: Kind, url: str) -> None:
    with standing(Place(Hint("agent"))):
        request = await sent(url, kind, headers={"Authorization": "mine", "DPoP": "mine"})
    assert str(request.url) == url
    assert (request.headers["authorization"], request.headers["dpop"]) == ("mine", "mine")
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


async def test_one_client_for_many_threads() -> None:
    script = Script(*(ok({}) for _ in range(32)))
    gate = Gate("https://gw.example", BINDINGS)
    transport = SyncGatewayTransport(gate, lambda: "t.o.k", httpx.MockTransport(script))
    with httpx.Client(transport=transport) as http:
        url = "https://files.example/api/x"
        await asyncio.gather(*(asyncio.to_thread(http.get, url) for _ in range(32)))
    assert {str(request.url) for request in script.requests} == {"https://gw.example/x"}


def test_a_gateway_is_needed_without_a_loop_too() -> None:
    needed = pytest.raises(CaracalError, match="gateway_url_not_configured")
    with SyncCaracal.from_env(ENVIRON) as caracal, needed:
        caracal.http()


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


# --- requests of WSGI -----------------------------------------------------------------------


def environ_of(agent: str) -> dict[str, Any]:
    baggage = f"caracal.agent_session={agent}"
    return {"HTTP_TRACEPARENT": TRACE, "HTTP_BAGGAGE": baggage, "PATH_INFO": "/"}


class Answer:
    """An answer whose parts are made one by one, and which is closed."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    def __iter__(self) -> Any:
        for part in (b"", b"one", b"two"):
            self.seen.append(current().hint.agent_session)
            yield part

    def close(self) -> None:
        self.seen.append(current().hint.agent_session)


def test_wsgi_requests_are_handled_at_their_place() -> None:
    answers: list[Answer] = []

    def app(environ: Any, start_response: Any) -> Answer:
        start_response(str(current().hint.agent_session), [])
        assert envelope_headers()["traceparent"][:36] == TRACE[:36]
        answers.append(Answer())
        return answers[-1]

    statuses: list[str] = []
    guarded = WsgiMiddleware(app)
    made = [guarded(environ_of(name), lambda status, _: statuses.append(status)) for name in "ab"]
    parts = [part for both in zip(*made, strict=True) for part in both]  # one thread, by turns
    for each in made:
        each.close()  # type: ignore[attr-defined]
    assert (statuses, parts) == (["a", "b"], [b"", b"", b"one", b"one", b"two", b"two"])
    assert [answer.seen for answer in answers] == [["a"] * 4, ["b"] * 4]
    assert current() == Place()


def test_wsgi_answers_without_close_and_requests_without_envelope() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return [str(current().hint.agent_session).encode()]

    guarded = WsgiMiddleware(app)
    for environ, said in (({}, b"None"), ({"HTTP_BAGGAGE": "\xff=,"}, b"None")):
        answer = guarded(environ, print)
        assert list(answer) == [said]
        answer.close()  # type: ignore[attr-defined]


def test_a_wsgi_application_that_fails() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        WsgiMiddleware(app)(environ_of("a"), print)
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


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    file = tmp_path / "key.pem"
    file.write_text(pem_of(ec_key()))
    return str(file)


async def test_keys_from_the_environment(key_file: str) -> None:
    named = {"CARACAL_CLIENT_KEY_FILE": key_file, "CARACAL_CLIENT_KEY_ID": "k1"}
    own = {name: value for name, value in ENVIRON.items() if "SECRET" not in name} | named
    for change, binds in (
        ({}, False),
        ({"CARACAL_DPOP": "1"}, True),
        ({"CARACAL_DPOP": " True "}, True),
        ({"CARACAL_DPOP_KEY_FILE": key_file}, True),
        ({"CARACAL_DPOP": "0", "CARACAL_DPOP_KEY_FILE": key_file}, False),
    ):
        async with Caracal.from_env(own | change) as caracal:
            credentials = caracal._sts._credentials
            assert (credentials.client_secret, credentials.key_id) == (None, "k1")
            assert caracal._prover.binds is binds
            assert key_file not in f"{caracal!r} {credentials!r}"
    async with Caracal.from_env(own, client_secret="SECRET") as caracal:
        assert caracal._sts._credentials.client_key is None
    async with Caracal.from_env(ENVIRON, client_key=ClientKey.generate()) as caracal:
        assert caracal._sts._credentials.client_secret is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"CARACAL_CLIENT_SECRET": ""},
            "not set: CARACAL_CLIENT_SECRET or CARACAL_CLIENT_KEY_FILE",
        ),
        ({"CARACAL_CLIENT_KEY_FILE": "/nowhere/k"}, "CARACAL_CLIENT_KEY_FILE: .*k: No such file"),
        ({"CARACAL_DPOP_KEY_FILE": "/dev/null"}, "CARACAL_DPOP_KEY_FILE: .*null: not the unencr"),
        ({"CARACAL_DPOP": "perhaps"}, "CARACAL_DPOP must be 1 or 0"),
        ({"CARACAL_ISSUER": "issuer"}, "issuer must be"),
    ],
)
def test_keys_that_cannot_work(change: dict[str, str], said: str) -> None:
    for which in (Caracal, SyncCaracal):
        with pytest.raises(ValueError, match=said) as raised:
            which.from_env(ENVIRON | change)
        assert "SECRET" not in str(raised.value).removeprefix("not set: CARACAL_CLIENT_SECRET")


def test_one_way_to_prove_oneself(key_file: str) -> None:
    with pytest.raises(ValueError, match="not both"):
        Caracal.from_env(ENVIRON | {"CARACAL_CLIENT_KEY_FILE": key_file})
    with pytest.raises(ValueError, match="dpop must be"):
        SyncCaracal.from_env(ENVIRON, dpop="yes")


def test_a_bare_string_is_no_list_of_resources() -> None:
    with pytest.raises(ValueError, match="resources must be a list"):
        Caracal.from_env(ENVIRON, resources="resource://a")
