"""DPoP at the token endpoint (RFC 9449, section 5): what is issued is bound to a key."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal import jwk, mandate, secret_hash
from caracal.embedded import EmbeddedServers
from caracal.jwk import ALGORITHMS
from caracal.services.sts.dpop_nonce import Nonces
from tests.signing import PrivateKey, dpop_proof, ec_key
from tests.sts.world import ISSUER, World, new_world

ENDPOINT = f"{ISSUER}/oauth/2/token"
KEY, OTHER = ec_key(), ec_key()
JKT, OTHER_JKT = (jwk.thumbprint(key.public_key()) for key in (KEY, OTHER))
BOUND = {"cnf": {"jkt": JKT}}


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


def proof(key: PrivateKey = KEY, **claims: Any) -> str:
    return dpop_proof(key, "POST", ENDPOINT, **claims)


async def exchange(world: World, sent: str | None, **members: Any) -> httpx.Response:
    headers = {} if sent is None else {"DPoP": sent}
    return await world.post(world.tenant.form(**members), **headers)


def cnf_of(answer: httpx.Response) -> Any:
    return mandate.peek(answer.json()["access_token"]).claims.get("cnf")


async def test_a_proof_binds_what_is_issued(world: World) -> None:
    answer = await exchange(world, proof())
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP")
    assert cnf_of(answer) == {"jkt": JKT}
    subject = answer.json()["access_token"]
    made = await exchange(world, proof(), subject_token=subject)
    assert (made.status_code, made.json()["token_type"]) == (200, "DPoP")
    assert cnf_of(made) == {"jkt": JKT}
    form = world.tenant.form(resource=None, token=made.json()["access_token"])
    told_of = await world.http.post(f"{world.url}/oauth/2/introspect", data=form)
    assert (told_of.json()["token_type"], told_of.json()["cnf"]) == ("DPoP", {"jkt": JKT})


async def test_a_token_that_is_bound_to_none_may_become_bound(world: World) -> None:
    answer = await exchange(world, proof(), subject_token=world.tenant.token())
    assert cnf_of(answer) == {"jkt": JKT}


async def test_without_a_proof_it_is_a_bearer_token(world: World) -> None:
    answer = await exchange(world, None)
    assert (answer.json()["token_type"], cnf_of(answer)) == ("Bearer", None)


@pytest.mark.parametrize("key", [None, OTHER])
@pytest.mark.parametrize("which", ["subject_token", "actor_token"])
async def test_a_bound_token_needs_its_key(
    world: World, key: PrivateKey | None, which: str
) -> None:
    tenant = world.tenant
    tokens = {"subject_token": tenant.token(sub="ada", sub_type="user")}
    tokens[which] = tenant.token(sub="bob", sub_type="user", **BOUND)
    answer = await exchange(world, proof(key) if key else None, **tokens)
    assert told(answer) == (401, "invalid_token")
    expected = f'DPoP error="invalid_token", algs="{" ".join(ALGORITHMS)}"'
    assert answer.headers["www-authenticate"] == expected
    (event,) = await world.audit(answer)
    assert event["evaluation_status"] == "subject_token_invalid"
    assert (await exchange(world, proof(), **tokens)).status_code == 200


async def test_bound_to_what_is_no_key(world: World) -> None:
    for cnf in ({}, {"jkt": ""}, {"x5t#S256": JKT}, "text"):
        answer = await exchange(world, proof(), subject_token=world.tenant.token(cnf=cnf))
        assert told(answer) == (401, "invalid_token")


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "GET"},
        {"htu": "https://gateway.example/oauth/2/token"},
        {"htu": f"{ISSUER}/oauth/2/introspect"},
        {"jti": None},
        {"iat": 1},
    ],
)
async def test_proofs_that_do_not_fit(world: World, claims: dict[str, Any]) -> None:
    answer = await exchange(world, proof(**claims))
    assert told(answer) == (400, "invalid_dpop_proof")
    (event,) = await world.audit(answer)
    assert (event["decision"], event["evaluation_status"]) == ("deny", "client_auth_failed")


async def test_it_is_one_proof(world: World) -> None:
    headers = [("DPoP", proof()), ("DPoP", proof())]
    answer = await world.http.post(
        f"{world.url}/oauth/2/token", data=world.tenant.form(), headers=headers
    )
    assert told(answer) == (400, "invalid_dpop_proof")
    assert told(await exchange(world, "")) == (400, "invalid_dpop_proof")


async def test_a_proof_is_good_once(world: World) -> None:
    sent, token = proof(), world.tenant.token()
    answers = await asyncio.gather(*(exchange(world, sent, subject_token=token) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    keys = [key async for key in world.redis.scan_iter("sts:dpop:*")]
    assert all([120 < await world.redis.ttl(key) <= 180 for key in keys])


async def test_the_client_proves_itself_first(world: World) -> None:
    """Whoever has no secret uses up no proof, and learns nothing of it."""
    sent = proof()
    assert told(await exchange(world, sent, client_secret="wrong")) == (401, "access_denied")
    assert (await exchange(world, sent)).status_code == 200


class TestByGateway:
    """The Gateway names the key that was proven to it; the mandate goes to the upstream."""

    @pytest.mark.parametrize(
        ("given", "status"),
        [(JKT, 200), (OTHER_JKT, 401), ("", 401), (None, 401)],
        ids=["own key", "other key", "no key", "none"],
    )
    async def test_a_bound_token(self, world: World, given: str | None, status: int) -> None:
        token = world.tenant.token(**BOUND)
        form = world.tenant.form(subject_token=token, client_secret=None, dpop_jkt=given)
        answer = await world.by_gateway(form)
        assert answer.status_code == status
        if status == 200:
            assert (answer.json()["token_type"], cnf_of(answer)) == ("Bearer", None)

    async def test_a_token_that_is_bound_to_none(self, world: World) -> None:
        form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
        assert cnf_of(await world.by_gateway(form | {"dpop_jkt": JKT})) is None

    async def test_who_is_not_the_gateway_names_no_key(self, world: World) -> None:
        token = world.tenant.token(**BOUND)
        answer = await exchange(world, None, subject_token=token, dpop_jkt=JKT)
        assert told(answer) == (401, "invalid_token")
        assert cnf_of(await exchange(world, None, dpop_jkt=JKT)) is None


async def test_on_behalf_of_with_one_key(world: World) -> None:
    made = await world.tenant.add_application(secret_hash.of_random("other"))
    other = {"application_id": made.aggregate_id, "client_secret": "other"}
    actor = world.tenant.token(client_id=made.aggregate_id, sub=made.aggregate_id, **BOUND)
    subject = world.tenant.token(sub="ada", sub_type="user")
    tokens = {"subject_token": subject, "actor_token": actor}
    assert cnf_of(await exchange(world, proof(), **tokens, **other)) == {"jkt": JKT}


async def test_metadata(world: World) -> None:
    answer = await world.http.get(f"{world.url}/.well-known/oauth-authorization-server")
    assert answer.json()["dpop_signing_alg_values_supported"] == ["ES256", "RS256", "PS256"]


async def test_without_redis_no_proof_is_taken(own_servers: EmbeddedServers) -> None:
    async with new_world(own_servers.database_url, own_servers.redis_url) as world:
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        own_servers.valkey.process.wait()
        assert told(await exchange(world, proof())) == (503, "audit_unavailable")


@pytest.fixture(scope="module")
async def asking(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    """An STS that wants a nonce of its own in each proof (RFC 9449, section 8)."""
    async with new_world(module_database_url, module_redis_url, DPOP_NONCE="true") as made:
        yield made


async def test_a_proof_without_one_is_told_which(asking: World) -> None:
    token = asking.tenant.token()
    answer = await exchange(asking, proof(), subject_token=token)
    assert told(answer) == (400, "use_dpop_nonce")
    (event,) = await asking.audit(answer)
    assert event["evaluation_status"] == "client_auth_failed"
    nonce = answer.headers["dpop-nonce"]
    assert nonce not in answer.text
    made = await exchange(asking, proof(nonce=nonce), subject_token=token)
    assert cnf_of(made) == {"jkt": JKT}
    again = proof(nonce=made.headers["dpop-nonce"])
    assert (await exchange(asking, again, subject_token=token)).status_code == 200
    assert told(await exchange(asking, again, subject_token=token)) == (
        400,
        "invalid_dpop_proof",
    )


@pytest.mark.parametrize("nonce", ["", "guess", "\x00", "é", 7, ["a"], True])
async def test_one_that_is_not_ours(asking: World, nonce: Any) -> None:
    answer = await exchange(asking, proof(nonce=nonce), subject_token=asking.tenant.token())
    assert told(answer) == (400, "use_dpop_nonce")


async def test_another_replica_knows_it(
    asking: World, module_database_url: str, module_redis_url: str
) -> None:
    first = await exchange(asking, proof(), subject_token=asking.tenant.token())
    more = {"DPOP_NONCE": "true"}
    async with new_world(module_database_url, module_redis_url, **more) as other:
        sent = proof(nonce=first.headers["dpop-nonce"])
        answer = await exchange(other, sent, subject_token=other.tenant.token())
        assert answer.status_code == 200


async def test_who_sends_no_proof_needs_none(asking: World) -> None:
    answer = await exchange(asking, None, subject_token=asking.tenant.token())
    assert answer.status_code == 200
    assert "dpop-nonce" not in answer.headers


def test_the_life_of_a_nonce() -> None:
    nonces, others = Nonces(b"k" * 32), Nonces(b"l" * 32)
    given = nonces.fresh(600)
    assert given == nonces.fresh(659)
    times = (539, 541, 600, 719, 720)
    assert [at for at in times if nonces.takes(given, at)] == [541, 600, 719]
    assert not others.takes(given, 600)
    assert not nonces.takes(None, 600)


async def test_by_default_there_are_no_nonces(world: World) -> None:
    answer = await exchange(world, proof(nonce="any"), subject_token=world.tenant.token())
    assert answer.status_code == 200
    assert "dpop-nonce" not in answer.headers
