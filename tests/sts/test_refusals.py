"""Every row of the errors that the token endpoint has: status, code, and what the trail says."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from caracal import clock, secret_hash
from caracal.events.base import Fall
from caracal.ids import new_id
from caracal.mandate import SigningKey
from tests.making import in_zone, new_application, new_session
from tests.sts.brokering import broker
from tests.sts.world import ISSUER, World, new_tenant

Send = Callable[[World], Awaitable[httpx.Response]]
TOKEN = "/oauth/2/token"
OWN = "urn:ietf:params:oauth:grant-type:token-exchange"


def form(**members: Any) -> Send:
    async def send(world: World) -> httpx.Response:
        return await world.exchange(**members)

    return send


def with_subject(**claims: Any) -> Send:
    """An exchange of an ambient token with other claims."""

    async def send(world: World) -> httpx.Response:
        return await world.exchange(subject_token=world.tenant.token(**claims))

    return send


def with_actor(**claims: Any) -> Send:
    async def send(world: World) -> httpx.Response:
        tenant = world.tenant
        return await world.per_call(actor_token=tenant.token(**claims))

    return send


def raw(body: bytes, content_type: str = "application/x-www-form-urlencoded") -> Send:
    async def send(world: World) -> httpx.Response:
        headers = {"Content-Type": content_type}
        return await world.http.post(f"{world.url}{TOKEN}", content=body, headers=headers)

    return send


async def archived_application(world: World) -> httpx.Response:
    secret = "cs_archived"
    application = await world.tenant.add_application(secret_hash.of_random(secret))
    with in_zone(world.tenant.id):
        application.archive(Fall())
    await world.tenant.save(application)
    return await world.exchange(application_id=application.aggregate_id, client_secret=secret)


async def expired_application(world: World) -> httpx.Response:
    made = await world.tenant.add_application(
        secret_hash.of_random("cs_x"), expires_at=clock.now() - timedelta(seconds=1)
    )
    return await world.exchange(application_id=made.aggregate_id, client_secret="cs_x")


async def public_application(world: World) -> httpx.Response:
    made = await world.tenant.add_application(
        secret_hash.of_random("cs_x"), credential_type="public"
    )
    return await world.exchange(application_id=made.aggregate_id, client_secret="cs_x")


async def application_without_secret(world: World) -> httpx.Response:
    made = await world.tenant.add_application(credential_type="public-key")
    return await world.exchange(application_id=made.aggregate_id, client_secret="cs_x")


async def unreadable_secret_form(world: World) -> httpx.Response:
    made = await world.tenant.add_application("argon2id$nonsense")
    return await world.exchange(application_id=made.aggregate_id, client_secret="cs_x")


async def secret_of_another_application(world: World) -> httpx.Response:
    other = await world.tenant.add_application(secret_hash.of_random("cs_other"))
    assert other.aggregate_id != world.tenant.app_id
    return await world.exchange(client_secret="cs_other")


async def application_of_another_zone(world: World) -> httpx.Response:
    other = await new_tenant(world.log)
    return await world.exchange(application_id=other.app_id, client_secret=other.secret)


async def token_of_another_zone(world: World) -> httpx.Response:
    other = await new_tenant(world.log)
    return await world.exchange(subject_token=other.token())


async def foreign_zone_in_claims(world: World) -> httpx.Response:
    """Signed by a key of another zone, with the claims and the kid of this one."""
    other = await new_tenant(world.log)
    forged = SigningKey.from_pem(world.tenant.key.kid, other.key.pem())
    return await world.exchange(subject_token=forged.sign(world.tenant.claims()))


async def unknown_kid(world: World) -> httpx.Response:
    key = SigningKey.generate(new_id())
    return await world.exchange(subject_token=key.sign(world.tenant.claims()))


async def retired_key(world: World) -> httpx.Response:
    """Two newer keys: the oldest verifies no more."""
    tenant = await new_tenant(world.log)
    for _ in range(2):
        key = SigningKey.generate(new_id())
        await tenant.rotate(key.kid, key.public_jwk(), key.pem())
    return await world.post(tenant.form(subject_token=tenant.token()))


def forged(header: dict[str, Any] | Callable[[World], dict[str, Any]], key: str = "") -> Send:
    """A token with a header of the forger's, unsigned or signed by HMAC with the public key."""

    async def send(world: World) -> httpx.Response:
        given = header(world) if callable(header) else header
        given = {"typ": "JWT", "kid": world.tenant.key.kid} | given
        signed = b".".join(_b64(orjson.dumps(part)) for part in (given, world.tenant.claims()))
        secret = orjson.dumps(world.tenant.key.public_jwk())
        signature = hmac.digest(secret, signed, "sha256") if key == "public" else b""
        return await world.exchange(subject_token=(signed + b"." + _b64(signature)).decode())

    return send


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def embedded_key(world: World) -> httpx.Response:
    """RFC 8725, section 3.1: a key that the token brings along counts for nothing."""
    mine = SigningKey.generate(world.tenant.key.kid)
    header = {"alg": "ES256", "kid": mine.kid, "jwk": mine.public_jwk(), "jku": "https://evil"}
    signed = b".".join(_b64(orjson.dumps(part)) for part in (header, world.tenant.claims()))
    signature = mine.sign({}).rpartition(".")[2]
    return await world.exchange(subject_token=f"{signed.decode()}.{signature}")


async def per_call_token_as_subject(world: World) -> httpx.Response:
    minted = (await world.per_call()).json()["access_token"]
    return await world.exchange(subject_token=minted)


async def tampered(world: World) -> httpx.Response:
    head, _, signature = world.tenant.token().rpartition(".")
    payload = _b64(orjson.dumps(world.tenant.claims(sub="root"))).decode()
    return await world.exchange(subject_token=f"{head.partition('.')[0]}.{payload}.{signature}")


async def revoked_session(world: World) -> httpx.Response:
    tenant = world.tenant
    session = new_session(tenant.app_id, zone_id=tenant.id)
    await tenant.save(session)
    with in_zone(tenant.id):
        session.revoke("test")
    await tenant.save(session)
    return await world.exchange(subject_token=tenant.token(sid=session.aggregate_id))


async def revoked_further_anchor(world: World) -> httpx.Response:
    tenant = world.tenant
    resource = await tenant.add_resource()
    with in_zone(tenant.id):
        resource.archive()
    await tenant.save(resource)
    return await world.exchange(subject_token=tenant.token(anchors=[resource.aggregate_id]))


async def other_client(world: World) -> httpx.Response:
    other = await world.tenant.add_application(secret_hash.of_random("cs_x"))
    return await world.per_call(application_id=other.aggregate_id, client_secret="cs_x")


async def same_principal(world: World) -> httpx.Response:
    token = world.tenant.token
    return await world.exchange(subject_token=token(), actor_token=token())


async def foreign_session(world: World) -> httpx.Response:
    tenant = world.tenant
    other = new_application(tenant.id)
    session = new_session(other.aggregate_id, zone_id=tenant.id, subject_id="someone")
    await tenant.save(other)
    await tenant.save(session)
    return await world.exchange(session_id=session.aggregate_id)


async def rate_limited(world: World) -> httpx.Response:
    resource = await world.tenant.add_resource(
        rate_limit={"window_seconds": 600, "max_requests": 1}
    )
    assert (await world.per_call(resource=resource.identifier)).status_code == 200
    return await world.per_call(resource=resource.identifier)


async def rate_limited_ambient(world: World) -> httpx.Response:
    resource = await world.tenant.add_resource(
        rate_limit={"window_seconds": 600, "max_requests": 1}
    )
    assert (await world.per_call(resource=resource.identifier)).status_code == 200
    return await world.exchange(resource=resource.identifier)


async def with_provider(world: World) -> httpx.Response:
    made = await broker(world.tenant, "workload")
    return await world.per_call(resource=made.resource.identifier)


async def with_dead_credential(world: World) -> httpx.Response:
    made = await broker(world.tenant, "oauth2")
    await made.tokens(await made.grant(), seconds=-1, refresh=None)
    return await world.post(made.form())


async def without_provider_grant(world: World) -> httpx.Response:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "K"})
    return await world.post(made.form())


async def grant_of_another_user(world: World) -> httpx.Response:
    resource = await world.tenant.add_resource()
    await world.tenant.add_grant(resource, user_id="ada")
    return await world.per_call(resource=resource.identifier, scope="read")


async def grant_of_fewer_scopes(world: World) -> httpx.Response:
    resource = await world.tenant.add_resource()
    await world.tenant.add_grant(resource)
    return await world.per_call(resource=resource.identifier, scope="agent:lifecycle")


async def revoked_grant(world: World) -> httpx.Response:
    resource = await world.tenant.add_resource()
    grant = await world.tenant.add_grant(resource)
    with in_zone(world.tenant.id):
        grant.revoke(Fall())
    await world.tenant.save(grant)
    return await world.per_call(resource=resource.identifier, scope="read")


async def no_active_policy(world: World) -> httpx.Response:
    tenant = await new_tenant(world.log)
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await tenant.save(tenant.policy_set)
    return await world.post(tenant.form(subject_token=tenant.token()))


async def too_large(world: World) -> httpx.Response:
    made = [
        await world.tenant.add_resource(identifier=f"resource://{'x' * 60}/{number}")
        for number in range(25)
    ]
    return await world.per_call(resource=[resource.identifier for resource in made])


async def zone_archived(world: World) -> httpx.Response:
    tenant = await new_tenant(world.log)
    await world.position()
    with in_zone(tenant.id):
        tenant.zone.archive(Fall())
    await tenant.save(tenant.zone)
    return await world.post(tenant.form(subject_token=tenant.token()))


def by_gateway(**headers: str) -> Send:
    """A signed call with other signature headers."""

    async def send(world: World) -> httpx.Response:
        form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
        return await world.by_gateway(form, **headers)

    return send


async def unsigned_member(world: World) -> httpx.Response:
    """A signed call whose body was changed on the way."""
    tenant = world.tenant
    form = tenant.form(subject_token=tenant.token(), client_secret=None)
    signed = (await world.by_gateway(form)).request.headers
    names = ("x-caracal-gateway-timestamp", "x-caracal-gateway-signature")
    replay = {name: signed[name] for name in names}
    replay["x-caracal-gateway-request"] = "0" * 32
    return await world.by_gateway(form | {"scope": "read"}, replay=replay)


async def replayed_nonce(world: World) -> httpx.Response:
    tenant = world.tenant
    form = tenant.form(subject_token=tenant.token(), client_secret=None)
    first = await world.by_gateway(form)
    assert first.status_code == 200, first.text
    replay = {n: v for n, v in first.request.headers.items() if n.startswith("x-caracal-gateway")}
    request_id = first.request.headers["x-request-id"]
    return await world.by_gateway(form, replay=replay, **{"X-Request-Id": request_id})


def deep(levels: int) -> str:
    return '{"http": ' + '{"a": ' * levels + "1" + "}" * levels + "}"


def gateway_context(text: str) -> Send:
    async def send(world: World) -> httpx.Response:
        form = world.tenant.form(
            subject_token=world.tenant.token(), client_secret=None, call_context=text
        )
        return await world.by_gateway(form)

    return send


async def gateway_without_subject(world: World) -> httpx.Response:
    return await world.by_gateway(world.tenant.form(client_secret=None))


async def gateway_for_another_application(world: World) -> httpx.Response:
    other = await world.tenant.add_application()
    form = world.tenant.form(
        application_id=other.aggregate_id, subject_token=world.tenant.token(), client_secret=None
    )
    return await world.by_gateway(form)


def row(name: str, send: Send, status: int, code: str, *audit: str) -> Any:
    return pytest.param(send, status, code, list(audit), id=name)


ROWS = [
    # 0a, 0b
    row("0a body too large", raw(b"x=" + b"y" * 65_536), 413, "payload_too_large"),
    row("0b json", raw(b"{}", "application/json"), 415, "unsupported_media_type"),
    row("0b no type", raw(b"a=b", ""), 415, "unsupported_media_type"),
    row("0b no pair", raw(b"a=b&c"), 400, "invalid_token"),
    row("0b not utf-8", raw(b"a=%ff"), 400, "invalid_token"),
    row("0b not ascii", raw(b"a=\xff"), 400, "invalid_token"),
    row("0b grant type", form(grant_type="client_credentials"), 400, "invalid_token"),
    row("0b token type", form(subject_token_type="saml"), 400, "invalid_token"),
    row("0b actor type", form(actor_token_type="saml"), 400, "invalid_token"),
    row("0b ttl word", form(ttl_seconds="soon"), 400, "invalid_token"),
    row("0b ttl negative", form(ttl_seconds="-1"), 400, "invalid_token"),
    row("0b ttl fraction", form(ttl_seconds="1.5"), 400, "invalid_token"),
    row("0b twice", form(scope=["read", "write"]), 400, "invalid_token"),
    row("0b two secrets", form(client_secret=["a", "b"]), 400, "invalid_token"),
    row("0b too many", form(resource=[f"r{n}" for n in range(257)]), 400, "invalid_token"),
    row(
        "0b scopes",
        form(scope=" ".join(f"s{n}" for n in range(257))),
        400,
        "invalid_token",
    ),
    row("0b deep context", gateway_context(deep(40)), 400, "invalid_token"),
    row("0b deepest context", gateway_context(deep(2000)), 400, "invalid_token"),
    # 0c
    row(
        "0c signature",
        by_gateway(**{"X-Caracal-Gateway-Signature": "0" * 64}),
        401,
        "access_denied",
        "client_auth_failed",
    ),
    row(
        "0c old",
        by_gateway(**{"X-Caracal-Gateway-Timestamp": "1700000000"}),
        401,
        "access_denied",
        "client_auth_failed",
    ),
    row("0c other body", unsigned_member, 401, "access_denied", "client_auth_failed"),
    # The first call stands under the same request id.
    row("0c replay", replayed_nonce, 401, "access_denied", "complete", "client_auth_failed"),
    # 1
    row("1 nothing", raw(b""), 401, "access_denied", "client_auth_failed"),
    row("1 no zone", form(zone_id=None), 401, "access_denied", "client_auth_failed"),
    row("1 unknown zone", form(zone_id="nowhere"), 401, "access_denied", "client_auth_failed"),
    row("1 no application", form(application_id=None), 401, "access_denied", "client_auth_failed"),
    row("1 unknown", form(application_id="nobody"), 401, "access_denied", "client_auth_failed"),
    row("1 no secret", form(client_secret=None), 401, "access_denied", "client_auth_failed"),
    row("1 wrong secret", form(client_secret="no"), 401, "access_denied", "client_auth_failed"),
    row("1 archived", archived_application, 401, "access_denied", "client_auth_failed"),
    row("1 expired", expired_application, 401, "access_denied", "client_auth_failed"),
    row("1 public", public_application, 401, "access_denied", "client_auth_failed"),
    row("1 has none", application_without_secret, 401, "access_denied", "client_auth_failed"),
    row("1 unreadable", unreadable_secret_form, 401, "access_denied", "client_auth_failed"),
    row("1 other's", secret_of_another_application, 401, "access_denied", "client_auth_failed"),
    row("1 other zone", application_of_another_zone, 401, "access_denied", "client_auth_failed"),
    row("1 zone archived", zone_archived, 401, "access_denied", "client_auth_failed"),
    row("1 gateway", gateway_without_subject, 401, "access_denied", "client_auth_failed"),
    # 2
    row("2 no resource", form(resource=None), 400, "invalid_token", "exchange_denied"),
    row("2 empty resource", form(resource=""), 400, "invalid_token", "exchange_denied"),
    # 3
    row("3 no jwt", form(subject_token="x"), 401, "invalid_token", "subject_token_invalid"),
    row("3 none", forged({"alg": "none"}), 401, "invalid_token", "subject_token_invalid"),
    row(
        "3 hs256",
        forged({"alg": "HS256"}, key="public"),
        401,
        "invalid_token",
        "subject_token_invalid",
    ),
    row("3 es256 empty", forged({"alg": "ES256"}), 401, "invalid_token", "subject_token_invalid"),
    row("3 no kid", forged({"kid": None}), 401, "invalid_token", "subject_token_invalid"),
    row(
        "3 kid path",
        forged({"alg": "ES256", "kid": "../../etc"}),
        401,
        "invalid_token",
        "subject_token_invalid",
    ),
    row("3 own key", embedded_key, 401, "invalid_token", "subject_token_invalid"),
    row("3 unknown kid", unknown_kid, 401, "invalid_token", "subject_token_invalid"),
    row("3 old key", retired_key, 401, "invalid_token", "subject_token_invalid"),
    row("3 tampered", tampered, 401, "invalid_token", "subject_token_invalid"),
    row("3 other zone", token_of_another_zone, 401, "invalid_token", "subject_token_invalid"),
    row("3 other's key", foreign_zone_in_claims, 401, "invalid_token", "subject_token_invalid"),
    row("3 per call", per_call_token_as_subject, 401, "invalid_token", "subject_token_invalid"),
    *(
        row(f"3 {name}", with_subject(**claims), 401, "invalid_token", "subject_token_invalid")
        for name, claims in {
            "expired": {"exp": 1_000_000_000},
            "no exp": {"exp": None},
            "exp text": {"exp": "9999999999"},
            "exp true": {"exp": True},
            "future": {"iat": 9_999_999_999, "exp": 9_999_999_999},
            "iss": {"iss": f"{ISSUER}/"},
            "aud text": {"aud": ISSUER},
            "aud more": {"aud": [ISSUER, "resource://one"]},
            "zone": {"zone_id": "other"},
            "use": {"use": None},
            "no sub": {"sub": None},
            "sub number": {"sub": 7},
            "no client": {"client_id": None},
            "anchors text": {"anchors": "all"},
        }.items()
    ),
    # 4
    row("4 no sid", with_subject(sid=None), 403, "invalid_token", "session_invalid"),
    row("4 revoked", revoked_session, 403, "access_denied", "session_invalid"),
    row("4 anchor", revoked_further_anchor, 403, "access_denied", "session_invalid"),
    # 5, 6
    row("5 actor", with_actor(exp=1), 401, "invalid_token", "actor_token_invalid"),
    row("5 actor sid", with_actor(sid=None), 403, "invalid_token", "session_invalid"),
    row("6 same", same_principal, 400, "invalid_token", "actor_token_invalid"),
    # 8
    row("8 challenge", form(challenge_id="c"), 401, "access_denied", "challenge_invalid"),
    # 9
    row("9 client", other_client, 403, "access_denied", "session_invalid"),
    row("9 gateway", gateway_for_another_application, 403, "access_denied", "session_invalid"),
    row("9 foreign session", foreign_session, 403, "access_denied", "session_invalid"),
    row("9 no session", form(session_id="s"), 403, "access_denied", "session_invalid"),
    row("9 NUL", form(session_id="\x00"), 403, "access_denied", "session_invalid"),
    row("9 agent", form(agent_session_id="a"), 403, "access_denied", "session_invalid"),
    row("9 edge", form(delegation_edge_id="e"), 403, "access_denied", "delegation_invalid"),
    # 10 to 12
    row(
        "10 A unknown",
        form(resource="resource://none"),
        403,
        "access_denied",
        "resource_not_found",
        "exchange_denied",
    ),
    row(
        "10 B scope",
        form(scope="fly"),
        403,
        "access_denied",
        "scope_mismatch",
        "exchange_denied",
    ),
    row(
        "10 D limit", rate_limited, 429, "provider_rate_limited", "rate_limited", "exchange_denied"
    ),
    row(
        "10 D ambient",
        rate_limited_ambient,
        429,
        "provider_rate_limited",
        "rate_limited",
        "exchange_denied",
    ),
    row(
        "10 E provider",
        with_provider,
        403,
        "access_denied",
        "credential_not_provisioned",
        "exchange_denied",
    ),
    row(
        "10 E refresh",
        with_dead_credential,
        403,
        "access_denied",
        "credential_refresh_failed",
        "exchange_denied",
    ),
    row(
        "10 E provider grant",
        without_provider_grant,
        403,
        "access_denied",
        "grant_required",
        "exchange_denied",
    ),
    row(
        "10 E user",
        grant_of_another_user,
        403,
        "access_denied",
        "grant_required",
        "exchange_denied",
    ),
    row(
        "10 E scopes",
        grant_of_fewer_scopes,
        403,
        "access_denied",
        "grant_required",
        "exchange_denied",
    ),
    row("10 E revoked", revoked_grant, 403, "access_denied", "grant_required", "exchange_denied"),
    row("10 G incomplete", form(scope="odd"), 403, "policy_eval_failed", "partial"),
    row("10 I deny", form(scope="write"), 403, "access_denied", "complete", "exchange_denied"),
    row("10 I none", no_active_policy, 403, "access_denied", "complete", "exchange_denied"),
    # 13
    row("13 size", too_large, 403, "token_too_large", *["complete"] * 25, "exchange_denied"),
]


@pytest.mark.parametrize(("send", "status", "code", "audit"), ROWS)
async def test_each_refusal_has_its_answer_and_its_evidence(
    world: World, send: Send, status: int, code: str, audit: list[str]
) -> None:
    answer = await send(world)
    events = await world.audit(answer)
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code), answer.text
    assert body["requestId"] == answer.headers["x-request-id"]
    assert "access_token" not in body
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert [event["evaluation_status"] for event in events] == audit
    assert not events or events[-1]["decision"] == "deny"
