"""Users who sign in at a trusted issuer: id_token, session, mandate; and every refusal of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from redis.asyncio import Redis

from caracal import clock
from caracal.events.base import Fall
from caracal.events.catalogue import MEMBERS
from caracal.events.challenge import Challenge
from caracal.events.session import Session
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.mandate import peek
from caracal.services.sts.id_token import MAX_BYTES
from caracal.user_id import user_id_of
from tests.backbone import eventually
from tests.making import in_zone, new_trusted_issuer
from tests.signing import dpop_proof, ec_key, rsa_key
from tests.sts import spoiling
from tests.sts.oauth_server import answering
from tests.sts.oidc_provider import CLIENT, Issuer, OidcProvider, trusted
from tests.sts.spoiling import Spoiling, claims, negated, once_more
from tests.sts.world import POLICY, VAULT, World, new_tenant, new_world

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
INVALID = (401, "invalid_token", "subject_token_invalid")
STEP_UP = POLICY.replace(
    'every scope in input.context.requested_scopes { scope in {"read", "agent:lifecycle"} }',
    "input.context.challenge_resolved",
).replace('{"reason": "no_rule_applies"}', '{"step_up_required": "mfa"}')
OF_STAFF = POLICY.replace(
    'every scope in input.context.requested_scopes { scope in {"read", "agent:lifecycle"} }',
    """input.context.subject_claims.sub_type == "user"
	"staff" in input.context.subject_claims.user.claims.groups""",
)


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    async with OidcProvider(tmp_path_factory.mktemp("oidc")).serving() as made:
        with pytest.MonkeyPatch.context() as patch:
            trusted(patch, made)
            yield made


@pytest.fixture(scope="module")
async def world(
    provider: OidcProvider, module_database_url: str, module_redis_url: str
) -> AsyncIterator[World]:
    urls = module_database_url, module_redis_url
    more = {"ALLOW_PRIVATE_UPSTREAMS": "loopback"}
    async with new_world(*urls, worker=True, **more) as made:  # nobody waits for read models
        made.http.timeout = httpx.Timeout(60)
        yield made


@dataclass
class Desk:
    """An issuer, the zone's rules for it, and an application whose users sign in there."""

    world: World
    issuer: Issuer
    rules: TrustedIssuer

    async def login(self, token: str | None = None, **members: Any) -> httpx.Response:
        """Send an id_token, the right one unless named."""
        subject = self.issuer.token() if token is None else token
        given = {"subject_token": subject, "subject_token_type": ID_TOKEN} | members
        return await self.world.exchange(**given)

    async def change(self, **members: Any) -> None:
        with in_zone(self.world.tenant.id):
            self.rules.change(members)
        await self.world.tenant.save(self.rules)

    async def archive(self, *sids: str) -> None:
        with in_zone(self.world.tenant.id):
            self.rules.archive(Fall.of_sessions(sids))
        await self.world.tenant.save(self.rules)

    async def data_key(self) -> bytes:
        async with self.world.log._pool.connection() as db:
            return await VAULT.read(db, self.world.tenant.zone.data_key_ref)


@pytest.fixture
async def desk(world: World, provider: OidcProvider) -> Desk:
    return await trusting(world, provider)


async def trusting(world: World, provider: OidcProvider, **members: Any) -> Desk:
    issuer = provider.issuer()
    given = {"issuer": issuer.url, "audiences": [CLIENT], "mapped_claims": ["groups"]} | members
    rules = new_trusted_issuer(world.tenant.id, **given)
    await world.tenant.save(rules)
    return Desk(world, issuer, rules)


def claims_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return peek(answer.json()["access_token"]).claims


async def refused(desk: Desk, answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code, and what the trail says, which has one entry."""
    (entry,) = await desk.world.audit(answer)
    assert entry["decision"] == "deny"
    return answer.status_code, answer.json()["error"], entry["evaluation_status"]


async def reason(desk: Desk, answer: httpx.Response) -> str:
    (entry,) = await desk.world.audit(answer)
    return str(entry["metadata_json"]["subject_check"])


# --- what comes of a login ----------------------------------------------------------------------


async def test_a_user_begins_a_session_and_gets_mandates(desk: Desk) -> None:
    tenant, issuer = desk.world.tenant, desk.issuer
    ambient = claims_of(answer := await desk.login(scope="read"))
    user = user_id_of(await desk.data_key(), issuer.url, "248289761001")
    assert (ambient["sub"], ambient["sub_type"], ambient["use"]) == (user, "user", "ambient")
    assert (ambient["client_id"], ambient["sid"]) == (tenant.app_id, ambient["root_sid"])
    assert ambient["user"] == {
        "issuer": issuer.url,
        "trusted_issuer_id": desk.rules.aggregate_id,
        "auth_time": ambient["user"]["auth_time"],
        "claims": {"groups": ["staff", "on call"]},
    }
    assert desk.rules.aggregate_id in ambient["anchors"]
    session = await desk.world.log.find(Session, ambient["sid"])
    assert session is not None
    assert (session.session_type, session.subject_id) == ("user", user)
    assert session.trusted_issuer_id == desk.rules.aggregate_id
    assert clock.parse(session.authenticated_at).timestamp() == ambient["user"]["auth_time"]
    mandate = await desk.world.exchange(subject_token=answer.json()["access_token"], scope="read")
    per_call = claims_of(mandate)
    assert (per_call["sub"], per_call["sub_type"], per_call["sid"]) == (
        *(user, "user"),
        ambient["sid"],
    )
    assert "user" not in per_call
    assert desk.rules.aggregate_id in per_call["anchors"]
    assert issuer.calls == ["/.well-known/openid-configuration", "/keys"]


async def test_nothing_of_the_id_token_stays_but_what_is_mapped(desk: Desk) -> None:
    answer = await desk.login()
    token = desk.issuer.token()
    assert answer.status_code == 200
    async with desk.world.log._pool.connection() as db:
        cursor = await db.execute("SELECT convert_from(state, 'UTF8') FROM log")
        log = "".join(row[0] for row in await cursor.fetchall())
    trail = b"".join(
        fields[b"data"] for _, fields in await desk.world.redis.xrange("caracal.audit.events")
    )
    for hidden in ("248289761001", "ada@corp.example", token.split(".")[0]):
        assert hidden not in log
        assert hidden.encode() not in trail
    assert b"on call" in trail


async def test_a_user_is_the_same_one_tomorrow_and_another_elsewhere(
    desk: Desk, world: World, provider: OidcProvider
) -> None:
    first, again = claims_of(await desk.login()), claims_of(await desk.login())
    assert first["sub"] == again["sub"]
    assert first["sid"] != again["sid"]
    bob = claims_of(await desk.login(desk.issuer.token(sub="bob")))
    elsewhere = await trusting(world, provider)
    same_name = claims_of(await elsewhere.login())
    assert len({first["sub"], bob["sub"], same_name["sub"]}) == 3


async def test_another_claim_names_the_user(world: World, provider: OidcProvider) -> None:
    desk = await trusting(world, provider, subject_claim="oid", issuer=provider.issuer().url)
    desk.issuer = provider._issuers[desk.rules.issuer.rpartition("/")[2]]
    user = claims_of(await desk.login(desk.issuer.token(oid="0-1")))["sub"]
    assert user == user_id_of(await desk.data_key(), desk.issuer.url, "0-1", "oid")
    answer = await desk.login(desk.issuer.token())
    assert await refused(desk, answer) == INVALID
    assert await reason(desk, answer) == "subject claim oid"


async def test_grants_for_the_user_are_the_users(desk: Desk) -> None:
    tenant = desk.world.tenant
    resource = await tenant.add_resource()
    await tenant.add_grant(resource, "somebody else")
    form = {"resource": resource.identifier, "scope": "read"}
    assert await refused_for(desk, await desk.login(**form)) == "grant_required"
    user = user_id_of(await desk.data_key(), desk.issuer.url, "248289761001")
    grant = await tenant.add_grant(resource, user)
    ambient = await desk.login(**form)
    assert grant.aggregate_id in claims_of(ambient)["anchors"]
    token = ambient.json()["access_token"]
    assert (
        grant.aggregate_id
        in claims_of(await desk.world.exchange(subject_token=token, **form))["anchors"]
    )
    with in_zone(tenant.id):
        grant.revoke(Fall())
    await tenant.save(grant)
    assert (await desk.world.exchange(subject_token=token, **form)).status_code == 403


async def refused_for(desk: Desk, answer: httpx.Response) -> str:
    assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")
    return str((await desk.world.audit(answer))[0]["evaluation_status"])


async def test_policies_see_the_user_now_and_later(world: World, provider: OidcProvider) -> None:
    tenant = await new_tenant(world.log, OF_STAFF)
    desk = await trusting(World(**(vars(world) | {"tenant": tenant})), provider)
    token = (await desk.login()).json()["access_token"]
    answer = await desk.world.exchange(subject_token=token, scope="read")
    assert answer.status_code == 200
    given = (await desk.world.audit(answer))[0]["metadata_json"]["policy_input"]
    seen = given["context"]["subject_claims"]["user"]
    assert (seen["issuer"], seen["claims"]["groups"]) == (desk.issuer.url, ["staff", "on call"])
    for groups in (["guests"], None):
        refusal = await desk.login(desk.issuer.token(groups=groups))
        assert await refused_for(desk, refusal) == "complete"
    assert (await desk.world.exchange(scope="read")).status_code == 403  # no user at all


@pytest.mark.parametrize(
    ("configured", "asked", "life"), [(600, None, 600), (3600, "120", 120), (90, "3600", 90)]
)
async def test_a_session_lasts_as_long_as_it_may(
    world: World, provider: OidcProvider, configured: int, asked: str | None, life: int
) -> None:
    desk = await trusting(world, provider, session_seconds=configured)
    ambient = claims_of(await desk.login(ttl_seconds=asked))
    assert ambient["exp"] - ambient["iat"] == life


async def test_a_session_may_be_bound_to_a_key(desk: Desk) -> None:
    proof = dpop_proof(ec_key(), "POST", "https://sts.example/oauth/2/token")
    form = desk.world.tenant.form(subject_token=desk.issuer.token(), subject_token_type=ID_TOKEN)
    answer = await desk.world.post(form, DPoP=proof)
    assert answer.json()["token_type"] == "DPoP"
    assert "jkt" in claims_of(answer)["cnf"]


async def test_step_up_comes_before_the_token_is_used_up(
    world: World, provider: OidcProvider
) -> None:
    tenant = await new_tenant(world.log, STEP_UP)
    desk = await trusting(World(**(vars(world) | {"tenant": tenant})), provider)
    token = desk.issuer.token()
    asked = await desk.login(token)
    assert (asked.status_code, asked.json()["error"]) == (401, "interaction_required")
    await satisfied(desk.world, asked.json()["challenge_id"])
    retry = {
        "challenge_id": asked.json()["challenge_id"],
        "challenge_response": asked.json()["challenge_secret"],
    }
    other = await desk.login(desk.issuer.token(sub="bob"), **retry)
    assert (other.status_code, other.json()["error"]) == (401, "access_denied")
    assert claims_of(await desk.login(token, **retry))["sub_type"] == "user"
    assert (await desk.login(token)).status_code == 401


async def satisfied(world: World, challenge_id: str) -> None:
    challenge = await world.log.find(Challenge, challenge_id)
    assert challenge is not None
    with in_zone(world.tenant.id):
        challenge.satisfy("operator", now=clock.now())
    await world.tenant.save(challenge)


# --- once ---------------------------------------------------------------------------------------


async def test_an_id_token_begins_one_session_however_it_is_spelt(desk: Desk) -> None:
    token = desk.issuer.token()
    answers = await asyncio.gather(*(desk.login(token) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 7]
    again = await desk.login(token)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_token")
    trail = await desk.world.audit(again)
    assert trail[-1]["evaluation_status"] == "subject_token_invalid"
    assert trail[-1]["metadata_json"]["reason"] == "the id_token was used before"
    made = desk.issuer.made_of()
    assert (await desk.login(made.text())).status_code == 200
    negative = spoiling.signature(negated)(made)
    assert (await desk.login(negative)).status_code == 401


async def test_a_session_that_was_ended_does_not_begin_again(desk: Desk) -> None:
    token = desk.issuer.token()
    ambient = claims_of(await desk.login(token))
    session = await desk.world.log.find(Session, ambient["sid"])
    assert session is not None
    with in_zone(desk.world.tenant.id):
        session.revoke("token_revoked")
    await desk.world.tenant.save(session)
    assert (await desk.login(token)).status_code == 401


async def test_a_used_token_is_remembered_whatever_the_rules_become(
    world: World, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age by the rules of today is no bound: those of tomorrow may allow more."""
    desk = await trusting(world, provider, max_age_seconds=60)
    kept: list[int] = []
    plain = Redis.set

    async def noted(self: Redis, name: Any, *rest: Any, **more: Any) -> Any:
        if str(name).startswith("sts:id-token:"):
            kept.append(more["ex"])
        return await plain(self, name, *rest, **more)

    monkeypatch.setattr(Redis, "set", noted)
    token = desk.issuer.token()  # good for 600 s
    assert (await desk.login(token)).status_code == 200
    await desk.change(max_age_seconds=3600)
    assert (await desk.login(token)).status_code == 401
    assert min(kept) > 600


async def test_an_issuer_may_let_its_tokens_begin_more(
    world: World, provider: OidcProvider
) -> None:
    desk = await trusting(world, provider, single_use=False)
    token = desk.issuer.token()
    one, other = claims_of(await desk.login(token)), claims_of(await desk.login(token))
    assert one["sid"] != other["sid"]


async def test_what_nobody_got_is_not_used_up(desk: Desk) -> None:
    token = desk.issuer.token(groups=["g" * 60] * 30)
    long = await desk.world.tenant.add_resource(identifier="resource://" + "x" * 900)
    too_large = await desk.login(token, resource=long.identifier)
    assert (too_large.status_code, too_large.json()["error"]) == (403, "token_too_large")
    assert (await desk.login(token, scope="write")).json()["error"] == "access_denied"
    few = await desk.world.tenant.add_resource(
        rate_limit={"window_seconds": 600, "max_requests": 1}
    )
    assert (await desk.login(resource=few.identifier)).status_code == 200
    limited = await desk.login(token, resource=few.identifier)  # known when it was used already
    assert (limited.status_code, limited.json()["error"]) == (429, "provider_rate_limited")
    assert (await desk.login(token)).status_code == 200


# --- ends ---------------------------------------------------------------------------------------


async def test_what_the_issuer_began_ends_with_it(desk: Desk) -> None:
    ambient = (await desk.login()).json()["access_token"]
    exchange = desk.world.exchange
    assert (await exchange(subject_token=ambient, scope="read")).status_code == 200
    other = desk.issuer.token()
    await desk.archive()  # without a list of sessions: the anchor is enough
    gone = await exchange(subject_token=ambient, scope="read")
    assert await refused(desk, gone) == (403, "access_denied", "session_invalid")
    late = await desk.login(other)
    assert await refused(desk, late) == INVALID
    assert await reason(desk, late) == "iss: not trusted"


@pytest.mark.parametrize("how", ["archived", "changed"])
async def test_rules_that_end_while_keys_are_fetched_hold_no_more(desk: Desk, how: str) -> None:
    desk.issuer.gate = asyncio.Event()
    login = asyncio.create_task(desk.login())

    async def asked() -> bool:
        return desk.issuer.fetched() == 1

    await eventually(asked, what="the fetch")
    await (desk.archive() if how == "archived" else desk.change(audiences=["another"]))
    await desk.world.exchange()  # the view has it now
    desk.issuer.gate.set()
    assert (await login).status_code == 403


async def test_rules_hold_from_their_change_on(desk: Desk) -> None:
    assert (await desk.login()).status_code == 200
    await desk.change(audiences=["another"])
    assert await refused(desk, await desk.login()) == INVALID
    await desk.change(audiences=["another", CLIENT], required_claims={"hd": "corp.example"})
    assert await refused(desk, await desk.login()) == INVALID
    assert (await desk.login(desk.issuer.token(hd="corp.example"))).status_code == 200


# --- refusals -----------------------------------------------------------------------------------


NOW = int(clock.now().timestamp())
OF_CLAIMS: dict[str, tuple[Spoiling, str]] = {
    "no iss": (claims(iss=None), "iss: not trusted"),
    "iss of a list": (claims(iss=["https://a.example"]), "iss: not trusted"),
    "iss and a slash": (
        lambda t: t.text(claims={"iss": t.claims["iss"] + "/"}),
        "iss: not trusted",
    ),
    "iss in capitals": (
        lambda t: t.text(claims={"iss": t.claims["iss"].upper()}),
        "iss: not trusted",
    ),
    "a second iss": (once_more(b'"iss":"https://other.example"'), "a member is there twice"),
    "a second sub": (once_more(b'"sub":"bob"'), "a member is there twice"),
    "no aud": (claims(aud=None), "aud"),
    "other aud": (claims(aud="somebody else"), "aud"),
    "empty aud": (claims(aud=[]), "aud"),
    "aud of an object": (claims(aud={"a": CLIENT}), "aud"),
    "aud of us and others": (claims(aud=[CLIENT, "evil"], azp=CLIENT), "aud"),
    "several aud, no azp": (claims(aud=[CLIENT, CLIENT]), "azp: missing, with several audiences"),
    "azp of others": (claims(azp="evil"), "azp"),
    "azp of a list": (claims(azp=[CLIENT]), "azp"),
    "expired": (claims(exp=NOW - 120), "exp"),
    "no exp": (claims(exp=None), "exp"),
    "exp of text": (claims(exp=str(NOW + 3000)), "exp"),
    "exp of true": (claims(exp=True), "exp"),
    "no iat": (claims(iat=None), "iat"),
    "iat in the future": (claims(iat=NOW + 6000, exp=NOW + 9000), "iat"),
    "old": (claims(iat=NOW - 4000, exp=NOW + 3000), "iat: too old"),
    "not yet": (claims(nbf=NOW + 6000), "nbf"),
    "nbf of text": (claims(nbf="later"), "nbf"),
    "nbf of null": (lambda t: t.text(claims=orjson.dumps({**t.claims, "nbf": None})), "nbf"),
    "auth_time in the future": (claims(auth_time=NOW + 6000), "auth_time"),
    "auth_time of text": (claims(auth_time="now"), "auth_time"),
    "auth_time before time": (claims(auth_time=-1), "auth_time"),
    "no sub": (claims(sub=None), "sub"),
    "empty sub": (claims(sub=""), "sub"),
    "sub of a number": (claims(sub=7), "sub"),
    "long sub": (claims(sub="s" * 256), "subject claim sub"),
    "sub and NUL": (claims(sub="a\x00b"), "subject claim sub"),
    "a logout token": (
        claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
        "events: a logout token",
    ),
    "mapped too deep": (
        claims(groups=[[[[["a"]]]]]),
        "mapped claims: over 2048 bytes, or nested too deep",
    ),
    "mapped too large": (
        claims(groups=["g" * 3000]),
        "mapped claims: over 2048 bytes, or nested too deep",
    ),
}
OF_FORM: dict[str, Spoiling] = {
    name: spoil
    for kinds in (
        *(spoiling.ALGORITHMS, spoiling.CRITICAL, spoiling.KIDS, spoiling.BROUGHT),
        *(spoiling.SIGNATURES, spoiling.SPELLINGS, spoiling.AROUND, spoiling.PAYLOADS),
    )
    for name, spoil in kinds.items()
} | {
    "an access token": spoiling.header(typ="at+jwt"),
    "a logout token by type": spoiling.header(typ="logout+jwt"),
    "typ of a list": spoiling.header(typ=["JWT"]),
    "too large": claims(pad="p" * MAX_BYTES),
    "a second kid": lambda token: token.text(
        header=spoiling._appended(token.header, b'"kid":"one"')
    ),
}


@pytest.fixture(scope="module")
async def spoilt(world: World, provider: OidcProvider) -> Desk:
    """A desk for tokens that never work, so none uses it up."""
    return await trusting(world, provider)


@pytest.mark.parametrize("name", OF_CLAIMS)
async def test_claims_that_are_not_taken(spoilt: Desk, name: str) -> None:
    spoil, why = OF_CLAIMS[name]
    answer = await spoilt.login(spoil(spoilt.issuer.made_of()))
    assert await refused(spoilt, answer) == INVALID
    assert answer.json()["error_description"] == "invalid subject_token"
    assert await reason(spoilt, answer) == why


def test_the_guide_has_every_rule_and_every_check() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "federation.md").read_text()
    rules = MEMBERS[TrustedIssuer.Created.TOPIC].keys() - {"name"}
    assert [rule for rule in rules if f"`{rule}`" not in guide] == []
    checks = {why.partition(":")[0].partition(" claim ")[0] for _, why in OF_CLAIMS.values()}
    checks |= {"no kid", "kid: unknown", "alg", "signature", "form, type or algorithm", "keys: "}
    assert [check for check in checks if f"`{check}" not in guide] == []


@pytest.mark.parametrize("name", OF_FORM)
async def test_tokens_that_are_spoilt(spoilt: Desk, name: str) -> None:
    answer = await spoilt.login(OF_FORM[name](spoilt.issuer.made_of()))
    assert await refused(spoilt, answer) == INVALID, answer.text


TAKEN: dict[str, Spoiling] = {
    "as it is": claims(),
    "several audiences": claims(aud=[CLIENT, "other-client"], azp=CLIENT),
    "one in a list": claims(aud=[CLIENT]),
    "no typ": spoiling.header(typ=None),
    "typ in small letters": spoiling.header(typ="jwt"),
    "within the leeway": claims(iat=NOW + 30, nbf=NOW + 30, exp=NOW + 3000),
    "no auth_time": claims(auth_time=None),
    "with a key it brings": spoiling.header(jwk={"kty": "EC"}, jku="https://evil.example"),
    "times of fractions": claims(iat=NOW + 0.5, exp=NOW + 3000.5),
    "large": claims(groups=["g" * 50] * 20, pad="p" * 8000),
}


@pytest.mark.parametrize("name", TAKEN)
async def test_tokens_that_are_taken(spoilt: Desk, name: str) -> None:
    if spoilt.rules.audiences == [CLIENT]:
        await spoilt.change(audiences=[CLIENT, "other-client"])
    answer = await spoilt.login(TAKEN[name](spoilt.issuer.made_of()))
    assert claims_of(answer)["sub_type"] == "user"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("actor_token", "anything"),
        ("session_id", "sid"),
        ("agent_session_id", "agent"),
        ("delegation_edge_id", "edge"),
    ],
)
async def test_what_does_not_go_with_it(spoilt: Desk, member: str, value: str) -> None:
    if member == "actor_token":
        value = spoilt.world.tenant.token(sub="somebody", client_id="another")
    answer = await spoilt.login(**{member: value})
    assert await refused(spoilt, answer) == (400, "invalid_token", "subject_token_invalid")


Send = Callable[[Desk], Awaitable[httpx.Response]]


async def without_a_token(desk: Desk) -> httpx.Response:
    return await desk.login(subject_token=None)


async def as_actor(desk: Desk) -> httpx.Response:
    return await desk.world.exchange(actor_token_type=ID_TOKEN)


async def called_ours(desk: Desk) -> httpx.Response:
    return await desk.world.exchange(subject_token=desk.issuer.token())


async def ours_called_theirs(desk: Desk) -> httpx.Response:
    return await desk.login(desk.world.tenant.token())


async def of_a_wrong_client(desk: Desk) -> httpx.Response:
    return await desk.login(client_secret="wrong")


async def of_the_gateway(desk: Desk) -> httpx.Response:
    form = desk.world.tenant.form(
        subject_token=desk.issuer.token(), subject_token_type=ID_TOKEN, client_secret=None
    )
    return await desk.world.by_gateway(form)


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        (without_a_token, 400, "invalid_token"),
        (as_actor, 400, "invalid_token"),
        (called_ours, 401, "invalid_token"),
        (ours_called_theirs, 401, "invalid_token"),
        (of_a_wrong_client, 401, "access_denied"),
        (of_the_gateway, 401, "access_denied"),
    ],
)
async def test_what_is_no_login(spoilt: Desk, send: Send, status: int, code: str) -> None:
    answer = await send(spoilt)
    assert (answer.status_code, answer.json()["error"]) == (status, code)


async def test_an_issuer_may_be_for_some_applications(world: World, provider: OidcProvider) -> None:
    other = await world.tenant.add_application()
    desk = await trusting(world, provider, application_ids=[other.aggregate_id])
    answer = await desk.login()
    assert await refused(desk, answer) == (403, "access_denied", "subject_token_invalid")
    assert desk.issuer.calls == []
    await desk.change(application_ids=[other.aggregate_id, world.tenant.app_id])
    assert (await desk.login()).status_code == 200


async def test_without_the_issuers_keys_nobody_signs_in(desk: Desk) -> None:
    desk.issuer.behaviour = answering("down", 500)
    answer = await desk.login()
    assert await refused(desk, answer) == (503, "issuer_unavailable", "subject_token_invalid")
    assert await reason(desk, answer) == "keys: cannot be had"
    assert int(answer.headers["retry-after"]) >= 1


async def test_an_issuer_of_another_zone_is_nobody(desk: Desk) -> None:
    tenant = await new_tenant(desk.world.log)
    elsewhere = Desk(World(**(vars(desk.world) | {"tenant": tenant})), desk.issuer, desk.rules)
    assert await refused(elsewhere, await elsewhere.login()) == INVALID


async def test_required_claims_are_exact(world: World, provider: OidcProvider) -> None:
    wanted = {"hd": "corp.example", "admin": True, "level": 1}
    desk = await trusting(world, provider, required_claims=wanted)
    assert (await desk.login(desk.issuer.token(**wanted))).status_code == 200
    for other in (
        *({"hd": "corp.example.evil"}, {"hd": ["corp.example"]}, {"hd": None}),
        *({"admin": 1}, {"admin": "true"}, {"level": True}, {"level": "1"}, {"level": 1.0}),
    ):
        answer = await desk.login(desk.issuer.token(**(wanted | other)))
        assert await refused(desk, answer) == INVALID
        assert await reason(desk, answer) == f"required claim {next(iter(other))}"


async def test_an_address_names_a_user_if_it_is_verified(
    world: World, provider: OidcProvider
) -> None:
    desk = await trusting(world, provider, subject_claim="email")
    for said in (None, False, "true", 1):
        answer = await desk.login(desk.issuer.token(email_verified=said))
        assert await reason(desk, answer) == "email_verified"
    assert (await desk.login(desk.issuer.token(email_verified=True))).status_code == 200


@pytest.mark.parametrize("alg", ["RS256", "PS256"])
async def test_algorithms_are_those_of_the_rules_and_of_the_key(
    world: World, provider: OidcProvider, alg: str
) -> None:
    desk = await trusting(world, provider, algorithms=[alg])
    desk.issuer.keys = {"elliptic": ec_key(), "rsa": rsa_key()}
    assert (await desk.login(desk.issuer.token(alg=alg))).status_code == 200
    other = {"RS256": "PS256", "PS256": "RS256"}[alg]
    for token in (desk.issuer.token(alg=other), desk.issuer.token(kid="elliptic")):
        answer = await desk.login(token)
        assert await refused(desk, answer) == INVALID
        assert await reason(desk, answer) == "alg"


async def test_metrics_tell_of_logins(spoilt: Desk) -> None:
    async def counters() -> dict[str, int]:
        headers = {"Accept": "application/json"}
        answer = await spoilt.world.http.get(f"{spoilt.world.url}/metrics", headers=headers)
        return dict(answer.json()["sts"]["logins"])

    before = await counters()
    await spoilt.login()
    await spoilt.login("x.y.z")
    after = await counters()
    assert after["logins_total"] == before["logins_total"] + 1
    assert after["refused_total"] == before["refused_total"] + 1
    assert after["key_fetches_total"] >= 1


async def test_without_redis_nobody_can_tell_whether_it_was_used(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(Redis, "set", gone)
    answer = await desk.login()
    assert (answer.status_code, answer.json()["error"]) == (503, "audit_unavailable")
