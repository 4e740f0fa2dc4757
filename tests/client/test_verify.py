"""Resource servers accept exactly the mandates that are for them, and hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from caracal import clock, jwk
from caracal.client.fastapi import mandate_with
from caracal.client.guard import MANDATE, RequireMandate
from caracal.client.proofs import InMemoryProofs, RedisProofs
from caracal.client.revocation import InMemoryRevocationStore
from caracal.client.verify import Mandate, Verifier
from caracal.dpop import Sent
from caracal.errors import CaracalError, Forbidden, Unauthenticated, Unavailable
from caracal.mandate import SigningKey
from tests.signing import ath_of, dpop_proof, ec_key, public_jwk

ISSUER, AUDIENCE, ZONE = "https://sts.example", "resource://files", "zone1"
KEY, OTHER = SigningKey.generate("kid"), SigningKey.generate("kid")


def claims(**members: Any) -> dict[str, Any]:
    """Claims of a delegated per-call mandate; a member given as None is left out."""
    now = int(clock.now().timestamp())
    given = {
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": "app",
        "client_id": "app",
        "iat": now,
        "exp": now + 900,
        "jti": "j",
        "zone_id": ZONE,
        "sid": "sid",
        "root_sid": "root",
        "use": "per_call",
        "sub_type": "application",
        "target": [AUDIENCE],
        "scope": "read write",
        "agent_session_id": "agent",
        "delegation_edge_id": "edge",
        "delegation_path": ["first", "edge"],
        "delegation_chain": [{"app": "app", "session": "lead", "edge": "first"}],
        "hop_count": 2,
        "anchors": ["ancestor", "grant"],
    } | members
    return {name: value for name, value in given.items() if value is not None}


class Keys:
    """The STS's keys; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        return httpx.Response(self.status, json={"keys": [KEY.public_jwk()]})


def verifier(keys: Keys, store: InMemoryRevocationStore | None, **members: Any) -> Verifier:
    http = httpx.AsyncClient(transport=httpx.MockTransport(keys))
    given = {"issuer": ISSUER, "audience": AUDIENCE, "zone_id": ZONE, "http_client": http}
    return Verifier(revocations=store, **(given | members))


@pytest.fixture
def store() -> InMemoryRevocationStore:
    return InMemoryRevocationStore()


@pytest.fixture
async def files(store: InMemoryRevocationStore) -> AsyncIterator[Verifier]:
    made = verifier(Keys(), store)
    yield made
    await made.aclose()


async def test_a_mandate_that_holds(files: Verifier) -> None:
    mandate = await files.verify(KEY.sign(claims()), "read")
    assert (mandate.subject, mandate.client_id) == ("app", "app")
    assert mandate.scopes == {"read", "write"}
    assert (mandate.agent_session_id, mandate.delegation_edge_id) == ("agent", "edge")


FUTURE = int(clock.now().timestamp()) + 3600
WRONG: list[dict[str, Any]] = [
    {"iss": f"{ISSUER}/"},
    {"iss": None},
    {"aud": ["resource://other"]},
    {"aud": ISSUER},
    {"aud": {AUDIENCE: 1}},
    {"aud": None},
    {"exp": None},
    {"exp": int(clock.now().timestamp())},
    {"exp": "9999999999"},
    {"exp": True},
    {"iat": None},
    {"iat": FUTURE},
    {"nbf": FUTURE},
    {"nbf": "soon"},
    {"use": "ambient"},
    {"use": None},
    {"use": ["per_call"]},
    {"sub_type": "robot"},
    {"zone_id": "zone2"},
    {"zone_id": None},
    {"hop_count": 11},
    {"hop_count": -1},
    {"hop_count": "2"},
    {"hop_count": True},
    {"anchors": "ancestor"},
    {"delegation_chain": ["lead"]},
    *({name: bad} for name in ("jti", "sub", "client_id", "sid", "root_sid") for bad in ("", 1)),
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_claim_that_does_not_hold(files: Verifier, wrong: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated) as raised:
        await files.verify(KEY.sign(claims(**wrong)))
    assert (raised.value.code, raised.value.description) == (
        "invalid_token",
        "the token is not valid",
    )


async def test_hops_up_to_the_limit(files: Verifier) -> None:
    assert await files.verify(KEY.sign(claims(hop_count=10)))
    assert await files.verify(KEY.sign(claims(hop_count=None)))


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "é.b.c", "x" * 5000])
async def test_what_is_no_token(files: Verifier, token: str) -> None:
    with pytest.raises(Unauthenticated, match="invalid_token"):
        await files.verify(token)


@given(st.text())
async def test_no_text_breaks_it(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier(Keys(), None).verify_header(text)


async def test_a_foreign_signature(files: Verifier) -> None:
    with pytest.raises(Unauthenticated, match="invalid_token"):
        await files.verify(OTHER.sign(claims()))


async def test_another_zone_is_refused_before_keys_are_asked_for() -> None:
    keys = Keys()
    with pytest.raises(Unauthenticated):
        await verifier(keys, None).verify(KEY.sign(claims(zone_id="zone2")))
    assert keys.asked == []


async def test_keys_are_asked_for_once() -> None:
    keys = Keys()
    files = verifier(keys, None, sts_url="http://sts:8080/", zone_id="a b", audience=AUDIENCE)
    for _ in range(3):
        await files.verify(KEY.sign(claims(zone_id="a b")))
    assert keys.asked == ["http://sts:8080/.well-known/jwks.json?zone_id=a%20b"]


async def test_without_keys_nothing_passes() -> None:
    keys = Keys()
    keys.status = 500
    with pytest.raises(Unavailable, match="sts_unavailable"):
        await verifier(keys, None).verify(KEY.sign(claims()))


async def test_scopes(store: InMemoryRevocationStore) -> None:
    files = verifier(Keys(), store, required_scopes=["read"])
    assert await files.verify(KEY.sign(claims()), "write")
    for scope, needed in (("read", ["write"]), ("write", []), (None, []), ("reader", [])):
        with pytest.raises(Forbidden, match="missing_scope"):
            await files.verify(KEY.sign(claims(scope=scope)), *needed)


ANCHORS = ["sid", "root", "app", ZONE, "agent", "edge", "first", "lead", "ancestor", "grant"]


@pytest.mark.parametrize("anchor", ANCHORS)
async def test_each_anchor_ends_it(
    files: Verifier, store: InMemoryRevocationStore, anchor: str
) -> None:
    token = KEY.sign(claims())
    await store.mark_revoked("other")
    assert await files.verify(token)
    await store.mark_revoked(anchor)
    with pytest.raises(Unauthenticated, match="invalid_token"):
        await files.verify(token)


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": ""},
        {"audience": ""},
        {"zone_id": ""},
        {"issuer": "sts"},
        {"sts_url": "ftp://sts"},
        {"public_url": "files"},
        {"public_url": "https://files.example/?a"},
        {"required_scopes": "read"},
        {"uses": "ambient"},
    ],
)
def test_what_cannot_verify(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|are"):
        verifier(Keys(), None, **members)


# --- in front of applications ---------------------------------------------------------------


REFUSED = [
    (None, 401, "missing_token", "Bearer"),
    ("Basic eDp5", 401, "missing_token", "Bearer"),
    ("Bearer", 401, "missing_token", "Bearer"),
    ("Bearer a.b.c", 401, "invalid_token", 'Bearer error="invalid_token"'),
    (
        # Signed when the tests are collected, which may be long before this one runs.
        f"bearer {KEY.sign(claims(scope='write', exp=2**33))}",
        403,
        "missing_scope",
        'Bearer error="insufficient_scope"',
    ),
]


def fastapi(files: Verifier) -> FastAPI:
    app = FastAPI()
    needed = Depends(mandate_with(files, "read"))

    @app.get("/")
    async def show(mandate: Mandate = needed) -> dict[str, str]:
        return {"subject": mandate.subject}

    return app


async def plain(scope: Any, receive: Any, send: Any) -> None:
    body = b'{"subject":"%s"}' % scope[MANDATE].subject.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


APPS = {"fastapi": fastapi, "asgi": lambda files: RequireMandate(plain, files, ("read",))}


@pytest.mark.parametrize("kind", APPS)
@pytest.mark.parametrize(("given", "status", "code", "challenge"), REFUSED)
async def test_refusals(
    files: Verifier, kind: str, given: str | None, status: int, code: str, challenge: str
) -> None:
    transport = httpx.ASGITransport(APPS[kind](files))
    async with httpx.AsyncClient(transport=transport, base_url="http://files") as http:
        headers = {} if given is None else {"Authorization": given}
        answer = await http.get("/", headers=headers)
        body = answer.json().get("detail", answer.json())
        assert (answer.status_code, body["error"]) == (status, code)
        assert answer.headers["www-authenticate"] == challenge
        allowed = await http.get("/", headers={"Authorization": f"Bearer {KEY.sign(claims())}"})
        assert (allowed.status_code, allowed.json()) == (200, {"subject": "app"})
        twice = [("Authorization", f"Bearer {KEY.sign(claims())}")] * 2
        assert (await http.get("/", headers=twice)).status_code == 401


@pytest.mark.parametrize("kind", APPS)
async def test_without_keys_it_is_a_503(kind: str) -> None:
    keys = Keys()
    keys.status = 500
    transport = httpx.ASGITransport(APPS[kind](verifier(keys, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://files") as http:
        answer = await http.get("/", headers={"Authorization": f"Bearer {KEY.sign(claims())}"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_websocket_without_a_mandate_is_closed(files: Verifier) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "websocket", "path": "/", "headers": []}
    await RequireMandate(plain, files)(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- mandates that are bound to a key (RFC 9449) -------------------------------------------


HOLDER, THIEF = ec_key(), ec_key()
BOUND = {"jkt": jwk.thumbprint(jwk.public_key(public_jwk(HOLDER)))}
URL = "https://files.example"
METADATA = 'algs="ES256 RS256 PS256"'
BAD_PROOF = f'DPoP error="invalid_dpop_proof", {METADATA}'
BAD_TOKEN = f'DPoP error="invalid_token", {METADATA}'


def proof(token: str, path: str = "/a", key: Any = HOLDER, **claims: Any) -> str:
    return dpop_proof(key, "GET", URL + path, **({"ath": ath_of(token)} | claims))


def request(*proofs: str, path: str = "/a") -> Sent:
    return Sent("GET", URL + path, [one.encode() for one in proofs])


async def test_its_holder_is_let_in_once(files: Verifier) -> None:
    token = KEY.sign(claims(cnf=BOUND))
    once = request(proof(token))
    with pytest.raises(Forbidden):  # which uses nothing up
        await files.verify(token, "admin", sent=once)
    mandate = await files.verify(token, "read", sent=once)
    assert mandate.claims["cnf"] == BOUND
    with pytest.raises(Unauthenticated, match="used before"):
        await files.verify(token, sent=once)
    assert await files.verify(token, sent=request(proof(token)))


@pytest.mark.parametrize("cnf", [BOUND, {}, {"x5t#S256": "a"}, "a", []])
async def test_what_is_bound_is_no_bearer(files: Verifier, cnf: Any) -> None:
    token = KEY.sign(claims(cnf=cnf))
    for call in (
        files.verify(token),
        files.verify_header(f"Bearer {token}", sent=request(proof(token))),
        files.verify_header(f"DPoP {token}"),
    ):
        with pytest.raises(Unauthenticated) as raised:
            await call
        assert (raised.value.code, raised.value.authenticate) == ("invalid_token", BAD_TOKEN)


async def test_who_is_not_its_holder(files: Verifier, store: InMemoryRevocationStore) -> None:
    token, plain = KEY.sign(claims(cnf=BOUND)), KEY.sign(claims())
    nobodys = KEY.sign(claims(cnf={}))
    for shown, sent, code in (
        (token, request(), "invalid_dpop_proof"),
        (token, request(proof(token), proof(token)), "invalid_dpop_proof"),
        (token, request(proof(token), path="/b"), "invalid_dpop_proof"),
        (token, request(proof(plain)), "invalid_dpop_proof"),
        (token, request(proof(token, iat=1)), "invalid_dpop_proof"),
        (token, request(proof(token, key=THIEF)), "invalid_token"),
        (plain, request(proof(plain)), "invalid_token"),
        (nobodys, request(proof(nobodys)), "invalid_token"),
        (KEY.sign(claims(cnf=BOUND, exp=1)), request(proof(token)), "invalid_token"),
        ("no token", request(proof(token)), "invalid_token"),
    ):
        with pytest.raises(Unauthenticated) as raised:
            await files.verify(shown, sent=sent)
        assert raised.value.code == code
        assert raised.value.authenticate == f'DPoP error="{code}", {METADATA}'
    await store.mark_revoked("sid")
    with pytest.raises(Unauthenticated, match="not valid"):
        await files.verify(token, sent=request(proof(token)))


@pytest.mark.parametrize("kind", APPS)
async def test_applications_take_it_by_their_public_url(kind: str) -> None:
    files = verifier(Keys(), None, public_url=f"{URL}/")
    token = KEY.sign(claims(cnf=BOUND))
    transport = httpx.ASGITransport(APPS[kind](files))
    async with httpx.AsyncClient(transport=transport, base_url="http://behind-a-proxy") as http:

        async def get(*proofs: str, scheme: str = "DPoP") -> httpx.Response:
            headers = [("Authorization", f"{scheme} {token}"), *(("DPoP", one) for one in proofs)]
            return await http.get("/?q=1", headers=headers)

        once = proof(token, "/")
        assert (await get(once, scheme="dpop")).status_code == 200
        for answer, challenge in (
            (await get(once), BAD_PROOF),
            (await get(), BAD_PROOF),
            (await get(proof(token, "/"), proof(token, "/")), BAD_PROOF),
            (await get(proof(token, "/", htm="POST")), BAD_PROOF),
            (await get(proof(token, "/", key=THIEF)), BAD_TOKEN),
            (await get(proof(token, "/"), scheme="Bearer"), BAD_TOKEN),
        ):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
        nothing = await http.get("/")
        assert nothing.headers["www-authenticate"] == f"Bearer, DPoP {METADATA}"


@pytest.mark.parametrize("kind", APPS)
async def test_without_a_public_url_no_proof_is_for_them(files: Verifier, kind: str) -> None:
    """What ``Host`` says is the caller's word: proofs for another server would do."""
    token = KEY.sign(claims(cnf=BOUND))
    transport = httpx.ASGITransport(APPS[kind](files))
    async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof(token, "/")}
        answer = await http.get("/", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, BAD_TOKEN)


async def test_a_websocket_is_a_get(files: Verifier) -> None:
    files = verifier(Keys(), None, public_url=URL)
    token = KEY.sign(claims(cnf=BOUND))
    headers = [
        (b"authorization", f"DPoP {token}".encode()),
        (b"dpop", proof(token, "/%c3%A9").encode()),
    ]
    scope: dict[str, Any] = {"type": "websocket", "path": "/é", "headers": headers}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["reached"] = scope[MANDATE].subject

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await RequireMandate(app, files)(scope, nothing, nothing)
    assert scope["reached"] == "app"


async def test_used_proofs_are_kept_for_their_time_and_none_is_forgotten_for_another() -> None:
    now = 0.0
    memory = InMemoryProofs(most=2, clock=lambda: now)
    assert [await memory.is_first(use, 10) for use in ("a", "a", "b")] == [True, False, True]
    with pytest.raises(Unavailable):
        await memory.is_first("c", 10)
    assert not await memory.is_first("a", 10)
    now = 10.0
    assert [await memory.is_first(use, 10) for use in ("a", "c")] == [True, True]


async def test_replicas_share_the_memory_of_proofs(redis_url: str) -> None:
    token = KEY.sign(claims(cnf=BOUND))
    async with Redis.from_url(redis_url) as redis:
        replicas = [verifier(Keys(), None, proofs=RedisProofs(redis)) for _ in range(8)]
        once = request(proof(token))
        outcomes = await asyncio.gather(
            *(one.verify(token, sent=once) for one in replicas), return_exceptions=True
        )
        assert sum(isinstance(outcome, Mandate) for outcome in outcomes) == 1
        (key,) = [key async for key in redis.scan_iter("caracal:dpop:*")]
        assert 0 < await redis.ttl(key) <= 180
    gone = Redis.from_url("redis://127.0.0.1:1", retry=None)
    lost = verifier(Keys(), None, proofs=RedisProofs(gone))
    with pytest.raises(Unavailable, match="unavailable"):
        await lost.verify(token, sent=request(proof(token)))
    await gone.aclose()


def test_refusals_are_of_one_tree() -> None:
    assert all(issubclass(kind, CaracalError) for kind in (Forbidden, Unauthenticated, Unavailable))
