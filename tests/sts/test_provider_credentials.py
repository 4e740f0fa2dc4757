"""Which credential of a provider an exchange gives, and to whom."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from caracal.events.base import Fact, Fall
from caracal.events.grant import Grant
from caracal.events.store.vault import Unreadable
from caracal.services.sts.app import create_app
from caracal.services.sts.opened_secrets import OpenedSecrets
from tests.backbone import eventually
from tests.making import in_zone
from tests.signing import ec_key, pem_of
from tests.sts.brokering import Brokerage, ask, broker, config, directive, status
from tests.sts.oauth_server import CLIENT_SECRET, HOST, MARK, OAuthServer, answering
from tests.sts.world import VAULT, World, new_world, serving

FAILED = (403, "access_denied", "credential_refresh_failed")
MISSING = (403, "access_denied", "credential_not_provisioned")
NO_GRANT = (403, "access_denied", "grant_required")
ANSWER = '{"access_token": "later", "expires_in": 600}'


@pytest.fixture(scope="module")
async def module_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path_factory.mktemp("oauth")).serving() as made:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(made.ca))
            yield made


@pytest.fixture(scope="module")
async def world(
    module_server: OAuthServer, module_database_url: str, module_redis_url: str
) -> AsyncIterator[World]:
    async with new_world(
        module_database_url, module_redis_url, ALLOW_PRIVATE_UPSTREAMS="loopback"
    ) as made:
        yield made


@pytest.fixture
def server(module_server: OAuthServer) -> OAuthServer:
    module_server.forget()
    return module_server


async def of_user(world: World, server: OAuthServer, **tokens: Any) -> tuple[Brokerage, Grant]:
    made = await broker(world.tenant, "oauth2", config(server))
    grant = await made.grant()
    await made.tokens(grant, **tokens)
    return made, grant


async def revoke(world: World, grant: Grant) -> None:
    with in_zone(world.tenant.id):
        grant.revoke(Fall("test", ()))
    await world.tenant.save(grant)


# --- stored secrets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "secrets", "told"),
    [
        (
            "apikey",
            {"header_name": "X-Key", "allowed_upstream_hosts": ["api.example"]},
            {"api_key": "K"},
            {
                "auth_mode": "provider_apikey",
                "auth_header": "X-Key",
                "auth_scheme": "",
                "allowed_hosts": ["api.example"],
            },
        ),
        (
            "api_key",
            {"auth_scheme": "Token"},
            {"api_key": "K"},
            {
                "auth_mode": "provider_apikey",
                "auth_header": "Authorization",
                "auth_scheme": "Token",
            },
        ),
        (
            "bearer_token",
            {},
            {"bearer_token": "K"},
            {
                "auth_mode": "provider_apikey",
                "auth_header": "Authorization",
                "auth_scheme": "Bearer",
            },
        ),
    ],
)
async def test_a_stored_secret_is_for_the_gateway_alone(
    world: World,
    kind: str,
    settings: dict[str, Any],
    secrets: dict[str, Any],
    told: dict[str, Any],
) -> None:
    made = await broker(world.tenant, kind, settings, secrets=secrets)
    grant = await made.grant(None)
    answer = await ask(world, made)
    known = {"url": "http://127.0.0.1:9", **told}
    assert directive(answer) == {**known, "provider_token": "K"}
    assert grant.aggregate_id in answer.json()["anchors"]
    direct = await world.post(made.form())
    assert directive(direct) == known
    assert '"K"' not in direct.text


async def test_a_provider_always_needs_a_grant_of_the_scopes_for_the_user(world: World) -> None:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "K"})
    assert await status(world, await ask(world, made)) == NO_GRANT
    assert await status(world, await world.post(made.form())) == NO_GRANT
    await made.grant("somebody else")
    assert await status(world, await ask(world, made)) == NO_GRANT
    mine = await made.grant()
    assert directive(await ask(world, made, scope="read"))["provider_token"] == "K"
    assert await status(world, await ask(world, made, scope="write")) == NO_GRANT
    await revoke(world, mine)
    assert await status(world, await ask(world, made)) == NO_GRANT


async def test_the_secret_is_read_once_and_dropped_on_change(world: World) -> None:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "one"})
    await made.grant()
    assert directive(await ask(world, made))["provider_token"] == "one"
    async with world.log._pool.connection() as db:
        where = (made.provider.secret_config_ref,)
        await db.execute("UPDATE vault SET ciphertext = '' WHERE ref = %s", where)
    assert directive(await ask(world, made))["provider_token"] == "one"
    await made.change({"api_key": "two"})
    assert directive(await ask(world, made))["provider_token"] == "two"
    with in_zone(world.tenant.id):
        made.provider.archive()
    await world.tenant.save(made.provider)
    assert await status(world, await ask(world, made)) == MISSING


@pytest.mark.parametrize(
    ("kind", "settings", "secrets"),
    [
        ("workload", {}, {}),
        ("of the future", {}, {"api_key": "K"}),
        ("apikey", {}, {}),
        ("apikey", {}, {"api_key": 5}),
        ("apikey", {}, {"api_key": "a" * 9000}),
        ("apikey", {"header_name": ["X"]}, {"api_key": "K"}),
        ("apikey", {"auth_scheme": 5}, {"api_key": "K"}),
        ("bearer_token", {}, {"api_key": "K"}),
        ("oauth2", {"grant_type": "client_credentials"}, {}),
        ("oauth2_client_credentials", {}, {"client_secret": "s"}),
    ],
)
async def test_what_is_not_provisioned(
    world: World, kind: str, settings: dict[str, Any], secrets: dict[str, Any]
) -> None:
    made = await broker(world.tenant, kind, settings, secrets=secrets)
    await made.grant()
    assert await status(world, await ask(world, made)) == MISSING
    assert await status(world, await world.post(made.form())) == MISSING


async def test_a_secret_that_does_not_open_is_not_provisioned(world: World) -> None:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "K"})
    await made.grant()
    async with world.log._pool.connection() as db:
        where = (made.provider.secret_config_ref,)
        await db.execute("UPDATE vault SET ciphertext = '' WHERE ref = %s", where)
    assert await status(world, await ask(world, made)) == MISSING


@pytest.mark.parametrize("kind", ["none", "caracal_mandate"])
async def test_kinds_that_take_the_mandate_follow_the_ordinary_grant_rule(
    world: World, kind: str
) -> None:
    settings = {"allowed_upstream_hosts": ["a.example"]}
    made = await broker(world.tenant, kind, settings, secrets={})
    told = directive(await ask(world, made))
    assert told == {
        "url": "http://127.0.0.1:9",
        "auth_mode": "caracal_jwt",
        "auth_header": "Authorization",
        "auth_scheme": "Bearer",
        "allowed_hosts": ["a.example"],
    }
    await made.grant("somebody else")
    assert await status(world, await ask(world, made)) == NO_GRANT


async def test_policy_still_decides(world: World) -> None:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "K"}, scopes=["write"])
    grant = Grant.create
    with in_zone(world.tenant.id):
        wide = grant(
            f"wide-{made.resource.aggregate_id}",
            zone_id=world.tenant.id,
            application_id=world.tenant.app_id,
            resource_id=made.resource.aggregate_id,
            scopes=["write"],
            of=["write"],
        )
    await world.tenant.save(wide)
    answer = await ask(world, made, scope="write")
    assert await status(world, answer) == (403, "access_denied", "complete")
    assert "K" not in answer.json()


# --- users ------------------------------------------------------------------------------------


async def test_a_fresh_user_token_is_given_as_it_is(world: World, server: OAuthServer) -> None:
    made, grant = await of_user(world, server)
    told = directive(await ask(world, made))
    assert told["provider_token"] == f"{MARK}-access-0"
    assert told["auth_mode"] == "provider_oauth"
    assert 0 < told["expires_at"] - time.time() <= 600
    direct = directive(await world.post(made.form()))
    assert not {"provider_token", "expires_at"} & set(direct)
    assert server.calls == []
    await made.change(config={}, secrets={})  # it is not even looked at
    await made.tokens(grant, access="access-new")
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-new"


async def test_a_user_token_needs_its_user_and_its_tokens(
    world: World, server: OAuthServer
) -> None:
    made = await broker(world.tenant, "oidc", config(server))
    assert await status(world, await ask(world, made)) == NO_GRANT
    await made.grant(None)
    assert await status(world, await ask(world, made)) == NO_GRANT
    grant = await made.grant()
    assert await status(world, await ask(world, made)) == MISSING
    await made.tokens(grant)
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-0"
    ambient = await world.post(made.form(subject_token=None))
    assert await status(world, ambient) == MISSING


@pytest.mark.parametrize("seconds", [-1, None])
async def test_an_expired_or_unknown_life_is_refreshed(
    world: World, server: OAuthServer, seconds: float | None
) -> None:
    made, grant = await of_user(world, server, seconds=seconds)
    told = directive(await ask(world, made))
    assert told["provider_token"] == f"{MARK}-access-1"
    assert 500 < told["expires_at"] - time.time() <= 600
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"
    assert [call["refresh_token"] for call in server.calls] == [f"{MARK}-refresh-0"]
    found = await world.log.find(Grant, grant.aggregate_id)
    assert found is not None
    assert found.token_version == 2
    await made.tokens(found, access="x", refresh="refresh-1", seconds=-1)
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-2"


async def test_without_a_new_refresh_token_the_old_one_stays_and_life_is_capped(
    world: World, server: OAuthServer
) -> None:
    made, grant = await of_user(world, server, seconds=-1)
    server.members = {"refresh_token": None, "expires_in": 10**9}
    server.refresh_tokens.add(f"{MARK}-refresh-0")
    before = (await world.log.find(Grant, grant.aggregate_id)).refresh_token_ref  # type: ignore[union-attr]
    told = directive(await ask(world, made))
    assert 3500 < told["expires_at"] - time.time() <= 3600
    after = await world.log.find(Grant, grant.aggregate_id)
    assert after is not None
    assert after.refresh_token_ref == before
    made, _ = await of_user(world, server, seconds=-1)
    server.refresh_tokens = {f"{MARK}-refresh-0"}
    server.members = {"expires_in": None}
    assert directive(await ask(world, made))["expires_at"] - time.time() > 3500


async def test_tokens_of_another_provider_go_nowhere(world: World, server: OAuthServer) -> None:
    """The resource has another provider since: the old one's tokens are not for it to see."""
    made, grant = await of_user(world, server, seconds=-1, provider_id="the one before")
    assert await status(world, await ask(world, made)) == MISSING
    assert server.calls == []
    await made.tokens(grant, access="own", provider_id=made.provider.aggregate_id)
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-own"


async def test_what_cannot_be_refreshed(world: World, server: OAuthServer) -> None:
    made, _ = await of_user(world, server, seconds=-1, refresh=None)
    assert await status(world, await ask(world, made)) == FAILED
    assert await status(world, await world.post(made.form())) == FAILED
    assert server.calls == []
    made, _ = await of_user(world, server, seconds=-1)
    for settings in (
        config(server, allowed_token_hosts=["other.example"]),
        config(server, token_endpoint=server.url.replace("https", "http")),
    ):
        await made.change(config=settings)
        assert await status(world, await ask(world, made)) == FAILED
    assert server.calls == []


async def test_many_at_once_are_one_refresh(world: World, server: OAuthServer) -> None:
    made, _ = await of_user(world, server, seconds=-1)
    server.gate = asyncio.Event()
    asking = [asyncio.create_task(ask(world, made)) for _ in range(8)]
    await eventually(lambda: called(server), what="the refresh")
    await asyncio.sleep(0.05)
    server.gate.set()
    tokens = {directive(one)["provider_token"] for one in await asyncio.gather(*asking)}
    assert tokens == {f"{MARK}-access-1"}
    assert len(server.calls) == 1


async def called(server: OAuthServer) -> bool:
    return bool(server.calls)


async def test_two_replicas_race_and_one_refreshes(world: World, server: OAuthServer) -> None:
    async with serving(create_app(world.settings)) as url:
        other = World(url, world.settings, world.http, world.redis, world.log, world.tenant)
        for _ in range(3):
            server.forget()
            made, _ = await of_user(world, server, seconds=-1)
            asking = [ask(one, made) for one in (world, other) * 4]
            told = [directive(answer) for answer in await asyncio.gather(*asking)]
            assert {one["provider_token"] for one in told} == {f"{MARK}-access-1"}
            assert len(server.calls) == 1
    assert [key async for key in world.redis.scan_iter("provider-refresh-lease:*")] == []


async def test_a_lease_of_a_dead_replica_is_waited_for(world: World, server: OAuthServer) -> None:
    made, grant = await of_user(world, server, seconds=-1)
    lease = f"provider-refresh-lease:{grant.aggregate_id}"
    await world.redis.set(lease, "dead", px=400)
    begun = time.monotonic()
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"
    assert time.monotonic() - begun > 0.3


@pytest.mark.parametrize("refresh", ["refresh-0", "ended at the provider"])
async def test_a_token_that_a_peer_stored_meanwhile_wins(
    world: World, server: OAuthServer, refresh: str
) -> None:
    made, grant = await of_user(world, server, seconds=-1, refresh=refresh)
    server.gate = asyncio.Event()
    asking = asyncio.create_task(ask(world, made))
    await eventually(lambda: called(server), what="the refresh")
    await made.tokens(grant, access="peer")
    server.gate.set()
    assert directive(await asking)["provider_token"] == f"{MARK}-peer"


async def test_a_grant_revoked_while_refreshing_gives_nothing(
    world: World, server: OAuthServer
) -> None:
    made, grant = await of_user(world, server, seconds=-1)
    await made.change(config=config(server, revocation_endpoint=f"{server.issuer}/revoke"))
    server.gate = asyncio.Event()
    asking = asyncio.create_task(ask(world, made))
    await eventually(lambda: called(server), what="the refresh")
    await revoke(world, grant)
    server.gate.set()
    answer = await asking
    assert await status(world, answer) == NO_GRANT
    assert MARK not in answer.text
    kinds = [call["token_type_hint"] for call in server.revoked]  # what nobody knows any more
    assert kinds == ["refresh_token", "access_token"]


async def test_a_provider_changed_while_refreshing_is_asked_about_again(
    world: World, server: OAuthServer
) -> None:
    made, _ = await of_user(world, server, seconds=-1)
    server.gate = asyncio.Event()
    asking = asyncio.create_task(ask(world, made))
    await eventually(lambda: called(server), what="the refresh")
    await made.change(config=config(server, header_name="X-New"))
    server.gate.set()
    assert directive(await asking)["auth_header"] == "X-New"
    with in_zone(world.tenant.id):
        made.provider.archive()
    await world.tenant.save(made.provider)
    assert await status(world, await ask(world, made)) == MISSING


async def test_a_refresh_outlives_who_wanted_it(world: World, server: OAuthServer) -> None:
    """The Gateway gives up after a while; what the provider issued must not be lost."""
    made, grant = await of_user(world, server, seconds=-1)
    server.gate = asyncio.Event()
    form = made.form()
    with pytest.raises(httpx.ReadTimeout):
        await world.http.post(f"{world.url}/oauth/2/token", data=form, timeout=0.3)
    server.gate.set()

    async def kept() -> bool:
        found = await world.log.find(Grant, grant.aggregate_id)
        return found is not None and found.token_version == 2

    await eventually(kept, what="the refreshed token")
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"


# --- the circuit ------------------------------------------------------------------------------


async def test_the_circuit_opens_after_five_failures_and_a_success_closes_it(
    world: World, server: OAuthServer
) -> None:
    made, _ = await of_user(world, server, seconds=-1)
    server.behaviour = answering("", 400)
    for _ in range(5):
        assert await status(world, await ask(world, made)) == FAILED
    assert len(server.calls) == 5
    server.behaviour = None
    assert await status(world, await ask(world, made)) == FAILED
    assert len(server.calls) == 5
    circuit = f"provider-refresh-circuit:{made.provider.aggregate_id}"
    failures = f"provider-refresh-failures:{made.provider.aggregate_id}"
    assert 0 < await world.redis.ttl(circuit) <= 30
    assert 0 < await world.redis.ttl(failures) <= 300
    await world.redis.delete(circuit)  # as time does
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-6"
    assert await world.redis.exists(circuit, failures) == 0


async def test_one_more_failure_opens_it_again(world: World, server: OAuthServer) -> None:
    made, _ = await of_user(world, server, seconds=-1)
    server.behaviour = answering("", 400)
    for _ in range(5):
        await ask(world, made)
    circuit = f"provider-refresh-circuit:{made.provider.aggregate_id}"
    await world.redis.delete(circuit)
    assert await status(world, await ask(world, made)) == FAILED
    assert await world.redis.exists(circuit) == 1


async def test_users_whose_grant_the_provider_ended_open_no_circuit(
    world: World, server: OAuthServer
) -> None:
    made = await broker(world.tenant, "oauth2", config(server))
    for _ in range(6):  # the newest grant is asked about
        await made.tokens(await made.grant(), seconds=-1, refresh="unknown")
        assert await status(world, await ask(world, made)) == FAILED
    assert len(server.calls) == 6


async def test_what_the_provider_has_ended_is_asked_for_once(
    world: World, server: OAuthServer
) -> None:
    async with serving(create_app(world.settings)) as url:
        other = World(url, world.settings, world.http, world.redis, world.log, world.tenant)
        made, grant = await of_user(world, server, seconds=-1, refresh="unknown")
        assert await status(world, await ask(world, made)) == FAILED
        for replica in (world, other, world):
            assert await status(world, await ask(replica, made)) == MISSING
        assert len(server.calls) == 1
        found = await world.log.find(Grant, grant.aggregate_id)
        assert found is not None
        assert (found.status, found.credential_expired) == ("active", True)
        await made.tokens(found, access="anew")
        for replica in (world, other):
            assert directive(await ask(replica, made))["provider_token"] == f"{MARK}-anew"


async def test_many_at_once_learn_that_it_has_ended(world: World, server: OAuthServer) -> None:
    async with serving(create_app(world.settings)) as url:
        other = World(url, world.settings, world.http, world.redis, world.log, world.tenant)
        made, _ = await of_user(world, server, seconds=-1, refresh="unknown")
        asking = (ask(one, made) for one in (world, other) * 4)
        told = {await status(world, answer) for answer in await asyncio.gather(*asking)}
        assert told <= {FAILED, MISSING}
        assert len(server.calls) == 1


async def test_a_provider_that_wants_assertions(world: World, server: OAuthServer) -> None:
    key = ec_key()
    server.key = key.public_key()
    secrets = {"private_key": pem_of(key)}
    made = await broker(world.tenant, "oauth2_client_credentials", config(server), secrets=secrets)
    await made.grant(None)
    for _ in range(2):  # the second one is at hand
        assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"
    broken = await broker(
        world.tenant, "oauth2_client_credentials", config(server), secrets={"private_key": "K"}
    )
    await broken.grant(None)
    assert await status(world, await ask(world, broken)) == MISSING


# --- services ---------------------------------------------------------------------------------


async def test_a_service_token_is_fetched_once(world: World, server: OAuthServer) -> None:
    settings = config(server, scopes=["a", "b"], audience="api")
    made = await broker(world.tenant, "oauth2_client_credentials", settings)
    await made.grant(None)
    told = [directive(one) for one in await asyncio.gather(*(ask(world, made) for _ in range(6)))]
    assert {one["provider_token"] for one in told} == {f"{MARK}-access-1"}
    assert {one["auth_mode"] for one in told} == {"provider_oauth"}
    [call] = server.calls
    wanted = {"grant_type": "client_credentials", "scope": "a b", "audience": "api"}
    assert wanted.items() <= call.items()
    await made.change(name="another name")
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"
    server.calls.clear()
    await made.change(config=settings | {"audience": "other"})
    assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-1"
    assert server.calls[0]["audience"] == "other"


async def test_a_service_token_about_to_end_is_fetched_anew(
    world: World, server: OAuthServer
) -> None:
    settings = config(server, grant_type="client_credentials", scope="x")
    made = await broker(world.tenant, "oauth2", settings)
    await made.grant(None)
    server.members = {"expires_in": 29}
    for number in (1, 2):
        assert directive(await ask(world, made))["provider_token"] == f"{MARK}-access-{number}"
    server.behaviour = answering("", 401)
    assert await status(world, await ask(world, made)) == FAILED
    server.behaviour = answering(ANSWER)
    assert directive(await ask(world, made))["provider_token"] == "later"


# --- what must not be seen, and what must not cost --------------------------------------------


async def test_no_token_is_found_in_logs_facts_or_the_trail(
    world: World, server: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made, _ = await of_user(world, server, seconds=-1)
    assert MARK in (await ask(world, made)).text
    direct = await world.post(made.form())
    assert direct.status_code == 200
    service = await broker(world.tenant, "oauth2_client_credentials", config(server))
    await service.grant(None)
    assert MARK in (await ask(world, service)).text
    server.behaviour = answering(f'{{"error": "{MARK}"}}', 401)
    made, _ = await of_user(world, server, seconds=-1)
    failed = await ask(world, made)
    secrets = (MARK, CLIENT_SECRET)
    texts = [caplog.text, failed.text, direct.text, str(await world.audit(failed))]
    texts += [str(await world.redis.xrange(key)) async for key in streams(world.redis)]
    async with world.log._pool.connection() as db:
        texts += map(
            str,
            await (
                await db.execute("SELECT name || convert_from(state, 'UTF8') FROM log")
            ).fetchall(),
        )
    assert "grant.credential_refreshed" in " ".join(texts)
    for text in texts:
        assert not any(secret in text for secret in secrets)


async def streams(redis: Redis) -> AsyncIterator[bytes]:
    async for key in redis.scan_iter(_type="stream"):
        yield key


async def test_a_warm_credential_costs_no_query(world: World, server: OAuthServer) -> None:
    made, _ = await of_user(world, server)
    first = directive(await ask(world, made))
    async with world.log._pool.connection() as db:
        await db.execute("ALTER TABLE vault RENAME TO vault_away")
        try:
            assert directive(await ask(world, made)) == first
        finally:
            await db.execute("ALTER TABLE vault_away RENAME TO vault")


async def test_many_resources_and_several_providers_in_one_exchange(
    world: World, server: OAuthServer, tmp_path: Path
) -> None:
    key = await broker(world.tenant, "apikey", secrets={"api_key": "K"})
    user, _ = await of_user(world, server, seconds=-1)
    broken = await broker(world.tenant, "workload")
    await key.grant()
    names = [one.resource.identifier for one in (key, broken, user)] + ["resource://one"]
    answer = await ask(world, key, resource=names)
    told = answer.json()["upstreams"]
    tokens = {name: told[name].get("provider_token") for name in told}
    assert tokens == {names[0]: "K", names[2]: f"{MARK}-access-1", "resource://one": None}
    assert HOST in server.url


async def test_opened_secrets_are_forgotten_with_what_they_belong_to(world: World) -> None:
    made = await broker(world.tenant, "apikey", secrets={"api_key": "K"})
    owner, ref = made.provider.aggregate_id, made.provider.secret_config_ref
    assert ref is not None
    secrets = OpenedSecrets(world.log._pool, VAULT)
    erase = "UPDATE vault SET ciphertext = '' WHERE ref = %s"
    assert await secrets.opened(owner, ref) == b'{"api_key":"K"}'
    async with world.log._pool.connection() as db:
        await db.execute(erase, (ref,))
    fact = Fact(1, "provider.changed", world.tenant.id, owner, 2, {}, {})
    secrets.applied(replace(fact, aggregate_id="another"))
    secrets.applied(replace(fact, name="resource.changed"))
    assert await secrets.opened(owner, ref) == b'{"api_key":"K"}'
    secrets.applied(fact)
    with pytest.raises(Unreadable):
        await secrets.opened(owner, ref)
