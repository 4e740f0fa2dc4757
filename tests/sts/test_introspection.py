"""Introspection (RFC 7662) and revocation (RFC 7009) of tokens, with a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal import clock, mandate, secret_hash
from caracal.events.base import Fall
from caracal.events.session import Session
from caracal.ids import new_id
from caracal.jwk import public_key, thumbprint
from caracal.mandate import SigningKey
from caracal.projections.query import one
from caracal.projections.session import SESSIONS
from caracal.services import gateway_signature
from caracal.services.sts.client_assertion import ASSERTION_TYPE
from tests.making import in_zone, new_session
from tests.signing import dpop_proof, ec_key, public_jwk, signed
from tests.sts.world import GATEWAY_KEY, ISSUER, Tenant, World, new_tenant, new_world

INACTIVE = {"active": False}
REFUSED = (401, "access_denied")


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    async with new_world(module_database_url, module_redis_url, worker=True) as made:
        yield made


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


async def ask(world: World, what: str, token: str | None, **members: Any) -> httpx.Response:
    """Ask as the tenant's application; a member given as None is left out."""
    form = world.tenant.form(resource=None, token=token, **members)
    request = world.http.build_request("POST", f"{world.url}/oauth/2/{what}", data=form)
    return await world._send(request, {})


async def introspected(world: World, token: str, **members: Any) -> Any:
    answer = await ask(world, "introspect", token, **members)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def ambient(world: World, **members: Any) -> str:
    """A token that opened a session."""
    return str((await world.exchange(**members)).json()["access_token"])


async def per_call(world: World, subject_token: str) -> str:
    answer = await world.exchange(subject_token=subject_token, scope="read")
    return str(answer.json()["access_token"])


async def another(world: World) -> tuple[str, dict[str, str]]:
    """A further application of the zone, and what it proves itself by."""
    made = await world.tenant.add_application(secret_hash.of_random("another"))
    app_id = made.aggregate_id
    return app_id, {"application_id": app_id, "client_secret": "another"}


# --- introspection --------------------------------------------------------------------------


async def test_an_active_token_is_told_as_it_is(world: World) -> None:
    first = await ambient(world)
    for token in (first, await per_call(world, first)):
        claims = mandate.peek(token).claims
        assert await introspected(world, token) == {
            **claims,
            "active": True,
            "token_type": "Bearer",
        }
    assert await introspected(world, first, token_type_hint="access_token") != INACTIVE


async def test_a_token_that_is_bound_says_so(world: World) -> None:
    """RFC 9449, section 6.2: a resource server must see that this is no bearer token."""
    key = ec_key()
    sent = dpop_proof(key, "POST", f"{ISSUER}/oauth/2/token")
    answer = await world.post(world.tenant.form(), DPoP=sent)
    told = await introspected(world, answer.json()["access_token"])
    assert (told["active"], told["token_type"]) == (True, "DPoP")
    assert told["cnf"] == {"jkt": thumbprint(public_key(public_jwk(key)))}


async def test_any_client_of_the_zone_may_ask(world: World) -> None:
    _, credentials = await another(world)
    assert (await introspected(world, await ambient(world), **credentials))["active"] is True


def _inactive(tenant: Tenant, other: Tenant) -> dict[str, str]:
    now = tenant.claims()["iat"]
    foreign = SigningKey.generate(tenant.key.kid)
    whole = tenant.token()
    header, payload, _ = whole.split(".")
    return {
        "expired": tenant.token(exp=now - 1),
        "without an end": tenant.token(exp=None),
        "of another zone": other.token(),
        "of another zone, by its own key": other.key.sign(tenant.claims()),
        "of another zone by claim": tenant.token(zone_id=other.id),
        "of another issuer": tenant.token(iss="https://other.example"),
        "by a foreign key": foreign.sign(tenant.claims()),
        "unsigned": f"{header}.{payload}.",
        "with hidden anchors": tenant.token(anchors="all"),
        "cut": whole[:-1],
        "no token": "token",
        "too long": "a" * 5000,
        "text": "é\x00",
    }


async def test_of_others_nothing_is_told(world: World) -> None:
    other = await new_tenant(world.log)
    for what, token in _inactive(world.tenant, other).items():
        assert await introspected(world, token) == INACTIVE, what


@pytest.mark.parametrize("name", ["sid", "root_sid", "agent_session_id", "anchors"])
async def test_a_revocation_is_known_at_once(world: World, name: str) -> None:
    session = new_session(world.tenant.app_id, zone_id=world.tenant.id)
    await world.tenant.save(session)
    sid = session.aggregate_id
    token = world.tenant.token(**{name: [sid] if name == "anchors" else sid})
    assert (await introspected(world, token))["active"] is True
    with in_zone(world.tenant.id):
        session.revoke("test")
    await world.log.save(session)
    form = world.tenant.form(resource=None, token=token)
    answer = await world.http.post(f"{world.url}/oauth/2/introspect", data=form)
    assert answer.json() == INACTIVE  # without waiting for any position


async def test_the_application_of_a_token_has_ended(world: World) -> None:
    made = await world.tenant.add_application()
    token = world.tenant.token(client_id=made.aggregate_id)
    assert (await introspected(world, token))["active"] is True
    with in_zone(world.tenant.id):
        made.archive(Fall.of_sessions({}), "requested")
    await world.log.save(made)
    assert await introspected(world, token) == INACTIVE


# --- who may ask, both ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["introspect", "revoke"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "wrong"},
        {"client_secret": None},
        {"application_id": new_id()},
        {"zone_id": new_id()},
        {"zone_id": None},
    ],
)
async def test_who_does_not_prove_itself_is_told_nothing(
    world: World, what: str, wrong: dict[str, Any]
) -> None:
    token = world.tenant.token()
    answer = await ask(world, what, token, **wrong)
    assert told(answer) == REFUSED
    (event,) = await world.audit(answer)
    names = {"introspect": "token_introspection", "revoke": "token_revocation"}
    known = world.tenant.id if "zone_id" not in wrong else "system"
    assert (event["event_type"], event["evaluation_status"], event["zone_id"]) == (
        names[what],
        "client_auth_failed",
        known,
    )
    assert (await introspected(world, token))["active"] is True


@pytest.mark.parametrize("what", ["introspect", "revoke"])
async def test_the_gateways_signature_proves_nothing_here(world: World, what: str) -> None:
    token = world.tenant.token()
    form = world.tenant.form(resource=None, token=token, client_secret=None, subject_token=token)
    url = f"{world.url}/oauth/2/{what}"
    request = world.http.build_request("POST", url, data=form)
    request_id = new_id()
    signature = gateway_signature.sign(
        GATEWAY_KEY,
        request_id=request_id,
        method="POST",
        path=f"/oauth/2/{what}",
        body=request.content,
        now=clock.now().timestamp(),
    )
    answer = await world._send(request, {"X-Request-Id": request_id, **signature})
    assert told(answer) == REFUSED


@pytest.mark.parametrize("what", ["introspect", "revoke"])
async def test_requests_that_cannot_be_read(world: World, what: str) -> None:
    url = f"{world.url}/oauth/2/{what}"
    assert told(await ask(world, what, None)) == (400, "invalid_token")
    assert told(await ask(world, what, "")) == (400, "invalid_token")
    assert told(await ask(world, what, "a", scope=["a", "b"])) == (400, "invalid_token")
    assert (await world.http.post(url, json={})).status_code == 415
    assert (await world.http.get(url)).status_code == 405
    assert (await world.http.post(url, content=b"a" * 70_000)).status_code == 413


@pytest.mark.parametrize("what", ["introspect", "revoke"])
async def test_an_assertion_proves_a_client_here_too(world: World, what: str) -> None:
    key = ec_key()
    made = await world.tenant.add_application(jwks={"keys": [public_jwk(key, kid="k")]})
    app_id, now = made.aggregate_id, int(clock.now().timestamp())
    claims = {"iss": app_id, "sub": app_id, "aud": ISSUER, "jti": new_id(), "exp": now + 60}
    proof = {
        "application_id": app_id,
        "client_secret": None,
        "client_assertion": signed(key, {"alg": "ES256", "kid": "k"}, claims),
        "client_assertion_type": ASSERTION_TYPE,
    }
    token = world.tenant.token(client_id=app_id)
    assert (await ask(world, what, token, **proof)).status_code == 200
    assert told(await ask(world, what, token, **proof)) == REFUSED  # it is good once


# --- revocation -----------------------------------------------------------------------------


async def live_session_of(world: World, token: str) -> Any:
    sid = mandate.peek(token).claims["sid"]
    async with world.log._pool.connection() as db:
        return await one(db, SESSIONS, id=sid)


@pytest.mark.parametrize("which", ["ambient", "per_call"])
async def test_a_token_ends_with_its_session_and_all_that_was_made_from_it(
    world: World, which: str
) -> None:
    first = await ambient(world)
    made = await per_call(world, first)
    token = first if which == "ambient" else made
    assert await live_session_of(world, token) is not None
    answer = await ask(world, "revoke", token, token_type_hint="access_token")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["caracal-position"]) == await world.position()
    assert "caracal-consistency" not in answer.headers
    assert await live_session_of(world, token) is None
    assert await introspected(world, first) == await introspected(world, made) == INACTIVE
    refused = await world.exchange(subject_token=first)
    assert told(refused) == (403, "access_denied")


async def test_what_is_told_of_it_in_the_log(world: World) -> None:
    token = await ambient(world)
    answer = await ask(world, "revoke", token)
    session = await world.log.find(Session, mandate.peek(token).claims["sid"])
    assert session is not None
    assert session.ended
    async with world.log._pool.connection() as db:
        cursor = await db.execute(
            "SELECT convert_from(state, 'UTF8') FROM log WHERE name = 'session.revoked'"
            " ORDER BY position DESC LIMIT 1"
        )
        row = await cursor.fetchone()
    assert row is not None
    text = str(row[0])
    assert '"token_revoked"' in text
    for member in (world.tenant.app_id, "POST /oauth/2/revoke", answer.headers["x-request-id"]):
        assert member in text


async def test_again_and_of_what_is_unknown_nothing_happens(world: World) -> None:
    token = await ambient(world)
    assert (await ask(world, "revoke", token)).status_code == 200
    position = await world.position()
    other = await new_tenant(world.log)
    before = await world.position()
    assert before > position
    unknown = [token, world.tenant.token(), other.token(), "token", "é\x00", "a" * 5000]
    for each in unknown:
        answer = await ask(world, "revoke", each)
        assert (answer.status_code, answer.content) == (200, b"")
        assert "caracal-position" not in answer.headers
    assert await world.position() == before


async def test_many_at_once_end_it_once(world: World) -> None:
    token = await ambient(world)
    await introspected(world, token)
    form = world.tenant.form(resource=None, token=token)
    url = f"{world.url}/oauth/2/revoke"
    answers = await asyncio.gather(*(world.http.post(url, data=form) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {200}
    session = await world.log.find(Session, mandate.peek(token).claims["sid"])
    assert session is not None
    assert session.version == 2


async def test_a_session_that_a_cascade_has_ended(world: World) -> None:
    token = await ambient(world)
    sid = mandate.peek(token).claims["sid"]
    async with world.log._pool.connection() as db:
        await db.execute("DELETE FROM guard_key WHERE key = %s", (f"live:session:{sid}",))
    assert (await ask(world, "revoke", token)).status_code == 200


async def test_a_token_of_another_client_is_not_ended(world: World) -> None:
    token = await ambient(world)
    _, credentials = await another(world)
    answer = await ask(world, "revoke", token, **credentials)
    assert told(answer) == (403, "access_denied")
    (event,) = await world.audit(answer)
    assert (event["event_type"], event["decision"]) == ("token_revocation", "deny")
    assert (await introspected(world, token))["active"] is True


async def test_another_clients_session_is_not_ended_by_what_was_made_from_it(
    world: World,
) -> None:
    """On behalf of: the mandate is one application's, the session another's."""
    app_id, credentials = await another(world)
    subject = await ambient(world)
    actor = await ambient(world, **credentials)
    answer = await world.exchange(subject_token=subject, actor_token=actor, **credentials)
    made = answer.json()["access_token"]
    assert mandate.peek(made).claims["client_id"] == app_id
    refused = await ask(world, "revoke", made, **credentials)
    assert told(refused) == (400, "unsupported_token_type")
    assert (await introspected(world, subject))["active"] is True
    assert (await introspected(world, made))["active"] is True


async def test_metadata_lists_the_endpoints(world: World) -> None:
    path = "/.well-known/oauth-authorization-server"
    document = (await world.http.get(world.url + path)).json()
    assert document["introspection_endpoint"] == f"{ISSUER}/oauth/2/introspect"
    assert document["revocation_endpoint"] == f"{ISSUER}/oauth/2/revoke"
    for endpoint in ("introspection", "revocation"):
        methods = document[f"{endpoint}_endpoint_auth_methods_supported"]
        assert methods == ["client_secret_post", "private_key_jwt"]


# --- typing (RFC 9068) ----------------------------------------------------------------------


async def test_the_type_of_tokens_is_a_setting(database_url: str, redis_url: str) -> None:
    async with new_world(database_url, redis_url, ACCESS_TOKEN_TYP="at+jwt") as other:
        token = await ambient(other)
        made = await per_call(other, token)
        for each in (token, made):
            header = mandate.json_object(mandate.peek(each).header)
            assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
            required = {"iss", "exp", "aud", "sub", "client_id", "iat", "jti"}
            assert required <= mandate.peek(each).claims.keys()
            assert (await introspected(other, each))["active"] is True


async def test_else_it_is_jwt(world: World) -> None:
    assert mandate.json_object(mandate.peek(await ambient(world)).header)["typ"] == "JWT"
