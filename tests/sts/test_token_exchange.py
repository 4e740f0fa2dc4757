"""What an exchange gives: claims, anchors, answer, evidence."""

from __future__ import annotations

import hmac

import orjson

from caracal import mandate, secret_hash
from caracal.events.session import Session
from caracal.events.topics import AUDIT
from caracal.ids import new_id
from caracal.mandate import SigningKey
from tests.making import in_zone
from tests.sts.world import AUDIT_KEY, ISSUER, World


def claims_of(world: World, token: str) -> mandate.Claims:
    """The claims, proven as any verifier does: by the published keys."""
    published = orjson.dumps({"keys": [world.tenant.key.public_jwk()]})
    return mandate.verify(token, mandate.parse_jwks(published))


async def test_an_ambient_token_becomes_a_mandate_for_one_resource(world: World) -> None:
    tenant = world.tenant
    ambient = tenant.claims(sub="ada", sub_type="user")
    answer = await world.exchange(subject_token=tenant.key.sign(ambient), scope="read")
    body = answer.json()
    claims = claims_of(world, body.pop("access_token"))
    assert body == {
        "token_type": "Bearer",
        "expires_in": ambient["exp"] - claims["iat"],
        "scope": "read",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "target_resources": ["resource://one"],
        "upstreams": {
            "resource://one": {
                "url": "http://127.0.0.1:9",
                "auth_mode": "caracal_jwt",
                "auth_header": "Authorization",
                "auth_scheme": "Bearer",
            }
        },
    }
    jti, issued_at = claims.pop("jti"), claims.pop("iat")
    assert claims == {
        "iss": ISSUER,
        "sub": "ada",
        "aud": ["resource://one"],
        "exp": ambient["exp"],
        "zone_id": tenant.id,
        "client_id": tenant.app_id,
        "sid": ambient["sid"],
        "root_sid": ambient["root_sid"],
        "use": "per_call",
        "sub_type": "user",
        "target": ["resource://one"],
        "scope": "read",
        "anchors": [tenant.resource.aggregate_id],
    }
    assert jti != ambient["jti"]
    assert isinstance(issued_at, int)


async def test_the_life_of_a_mandate(world: World) -> None:
    now = world.tenant.claims()["iat"]
    long_lived = {"subject_token": world.tenant.token(exp=now + 3000)}
    lives = [
        (await world.exchange(**long_lived, ttl_seconds=seconds)).json()["expires_in"]
        for seconds in (None, "0", "60", "901", "9" * 30)
    ]
    assert lives == [900, 900, 60, 900, 900]


async def test_a_subject_token_in_its_leeway_has_no_life_to_give(world: World) -> None:
    now = world.tenant.claims()["iat"]
    answer = await world.exchange(subject_token=world.tenant.token(exp=now - 5))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    events = await world.audit(answer)
    assert [event["decision"] for event in events] == ["allow", "deny"]


async def test_partial_success_covers_what_was_granted_only(world: World) -> None:
    other = await world.tenant.add_resource()
    wanted = ["resource://one", "resource://none", other.identifier, "resource://one"]
    answer = await world.per_call(resource=wanted)
    body = answer.json()
    granted = ["resource://one", other.identifier]
    assert body["target_resources"] == granted
    assert list(body["upstreams"]) == granted
    claims = claims_of(world, body["access_token"])
    assert claims["aud"] == claims["target"] == granted
    assert other.aggregate_id in claims["anchors"]
    told = [(e["decision"], e["evaluation_status"]) for e in await world.audit(answer)]
    assert told == [("allow", "complete"), ("deny", "resource_not_found"), ("allow", "complete")]


async def test_the_rate_limit_takes_one_of_two_resources_out(world: World) -> None:
    limit = {"window_seconds": 600, "max_requests": 1}
    narrow = await world.tenant.add_resource(rate_limit=limit)
    wanted = [narrow.identifier, "resource://one"]
    assert (await world.per_call(resource=wanted)).json()["target_resources"] == wanted
    answer = await world.per_call(resource=wanted)
    assert answer.json()["target_resources"] == ["resource://one"]
    assert narrow.aggregate_id not in claims_of(world, answer.json()["access_token"])["anchors"]
    told = [event["evaluation_status"] for event in await world.audit(answer)]
    assert told == ["rate_limited", "complete"]


async def test_a_policy_without_a_usable_decision_ends_the_request(world: World) -> None:
    """The resources before it keep their evidence; those after it are not looked at."""
    other = await world.tenant.add_resource(scopes=["read"])
    wanted = [other.identifier, "resource://one"]
    answer = await world.per_call(resource=wanted, scope="odd")
    assert (answer.status_code, answer.json()["error"]) == (403, "policy_eval_failed")
    told = [event["evaluation_status"] for event in await world.audit(answer)]
    assert told == ["scope_mismatch", "partial"]


async def test_a_prefix_resource_stands_for_what_lies_below_it(world: World) -> None:
    tree = await world.tenant.add_resource(identifier="https://api.example/v1", prefix_match=True)
    asked = "https://api.example/v1/pets/7"
    body = (await world.per_call(resource=asked)).json()
    assert body["target_resources"] == [tree.identifier]
    assert set(body["upstreams"]) == {tree.identifier, asked}
    beside = await world.per_call(resource="https://api.example/v10")
    climbing = await world.per_call(resource="https://api.example/v1/../v2")
    assert [beside.status_code, climbing.status_code] == [403, 403]


async def test_a_grant_that_was_relied_on_is_an_anchor(world: World) -> None:
    resource = await world.tenant.add_resource()
    await world.tenant.add_grant(resource, user_id="bob")
    own = await world.tenant.add_grant(resource, user_id="ada")
    token = world.tenant.token(sub="ada", sub_type="user")
    answer = await world.exchange(subject_token=token, resource=resource.identifier, scope="read")
    claims = claims_of(world, answer.json()["access_token"])
    assert claims["anchors"] == sorted([resource.aggregate_id, own.aggregate_id])


async def test_an_actor_token_hands_its_anchors_on(world: World) -> None:
    actor = world.tenant.claims(sub="agent", anchors=[anchor := new_id()])
    answer = await world.per_call(actor_token=world.tenant.key.sign(actor))
    claims = claims_of(world, answer.json()["access_token"])
    assert {anchor, actor["sid"]} <= set(claims["anchors"])
    (event,) = await world.audit(answer)
    seen = event["metadata_json"]["policy_input"]["context"]["actor_claims"]
    assert (seen["sub"], seen["caracal_client_id"]) == ("agent", world.tenant.app_id)


async def test_the_gateway_needs_no_secret_and_gets_all_anchors(world: World) -> None:
    tenant = world.tenant
    front = await tenant.add_application()
    resource = await tenant.add_resource(gateway_application_id=front.aggregate_id)
    subject = tenant.claims()
    call = {"http": {"method": "POST", "path": "/mcp"}, "mcp": {"method": "tools/call"}}
    form = tenant.form(
        application_id=front.aggregate_id,
        client_secret=None,
        resource=resource.identifier,
        subject_token=tenant.key.sign(subject),
        call_context=orjson.dumps(call).decode(),
    )
    answer = await world.by_gateway(form)
    body = answer.json()
    claims = claims_of(world, body["access_token"])
    assert claims["client_id"] == front.aggregate_id
    assert set(body["anchors"]) == mandate.anchors_of(claims)
    assert {subject["sid"], tenant.id, tenant.app_id, resource.aggregate_id} <= set(body["anchors"])
    (event,) = await world.audit(answer)
    seen = event["metadata_json"]["policy_input"]["context"]
    assert {"http": seen["http"], "mcp": seen["mcp"]} == call
    assert seen["subject_claims"]["client_id"] == tenant.app_id


async def test_others_do_not_say_what_the_call_is(world: World) -> None:
    answer = await world.per_call(call_context='{"http": {"method": "GET"}}')
    (event,) = await world.audit(answer)
    assert event["metadata_json"]["policy_input"]["context"]["http"] is None
    assert "anchors" not in answer.json()


async def test_query_parameters_are_no_fields(world: World) -> None:
    url = f"{world.url}/oauth/2/token"
    sent = await world.http.post(url, params=world.tenant.form(), data={"zone_id": world.tenant.id})
    assert sent.status_code == 401


async def test_the_evidence_of_an_allow_is_whole_and_signed(world: World) -> None:
    answer = await world.per_call(scope="read")
    (event,) = await world.audit(answer)
    assert event["zone_id"] == world.tenant.id
    assert (event["event_type"], event["decision"]) == ("token_exchange", "allow")
    assert event["determining_policies_json"] == ["tests/allow"]
    version = world.tenant.policy_set.versions[event["policy_set_version_id"]]
    assert event["manifest_sha"] == version.manifest_sha256
    metadata = event["metadata_json"]
    given = metadata["policy_input"]
    assert given["context"]["trace_id"] == event["request_id"]
    assert given["resource"]["identifier"] == metadata["resource"] == "resource://one"
    assert metadata["log_position"] >= await world.position()
    entries = [fields for _, fields in await world.redis.xrange(AUDIT)]
    (entry,) = [fields for fields in entries if fields[b"id"] == event["id"].encode()]
    expected = hmac.digest(AUDIT_KEY, entry[b"data"], "sha256").hex()
    assert entry[b"sig"] == expected.encode()


async def test_no_secret_and_no_token_gets_into_the_trail(world: World) -> None:
    token = world.tenant.token()
    answers = [
        await world.exchange(subject_token=token, client_secret="hush-hush"),
        await world.exchange(subject_token=token),
        await world.exchange(subject_token=token, scope="write"),
    ]
    told = orjson.dumps([await world.audit(answer) for answer in answers]).decode()
    for secret in (token, token.rpartition(".")[2], "hush-hush", world.tenant.secret):
        assert secret not in told


async def test_refusals_of_no_zone_stand_under_system(world: World) -> None:
    (nowhere,) = await world.audit(await world.exchange(zone_id="nowhere"))
    (here,) = await world.audit(await world.exchange(client_secret="wrong"))
    assert (nowhere["zone_id"], here["zone_id"]) == ("system", world.tenant.id)


async def test_refusals_of_their_own_kind_say_so(world: World) -> None:
    challenged = await world.audit(await world.exchange(challenge_id="c"))
    assert challenged[0]["event_type"] == "challenge_invalid"
    form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
    first = await world.by_gateway(form, **{"X-Request-Id": "first"})
    replay = {n: v for n, v in first.request.headers.items() if n.startswith("x-caracal-gateway")}
    again = await world.by_gateway(form, replay=replay, **{"X-Request-Id": "first"})
    assert again.status_code == 401
    assert [e["event_type"] for e in await world.audit(again)] == [
        "token_exchange",
        "replay_detected",
    ]


async def test_a_refused_gateway_call_uses_its_nonce_up(world: World) -> None:
    form = world.tenant.form(subject_token="x", client_secret=None)
    first = await world.by_gateway(form, **{"X-Request-Id": "refused"})
    assert first.json()["error"] == "invalid_token"
    replay = {n: v for n, v in first.request.headers.items() if n.startswith("x-caracal-gateway")}
    again = await world.by_gateway(form, replay=replay, **{"X-Request-Id": "refused"})
    assert again.json()["error"] == "access_denied"


async def test_a_session_of_the_application_can_be_named(world: World) -> None:
    """Without a subject token the session comes from the read model, which the worker fills."""
    tenant, sid = world.tenant, new_id()
    async with world.log._pool.connection() as db:
        await db.execute(
            "INSERT INTO sessions (id, position, zone_id, session_type, subject_id, expires_at)"
            " VALUES (%s, 1, %s, 'application', %s, now() + interval '1 hour')",
            (sid, tenant.id, tenant.app_id),
        )
    answer = await world.exchange(session_id=sid)
    assert answer.status_code == 200
    (event,) = await world.audit(answer)
    assert event["metadata_json"]["policy_input"]["session"] == {"id": sid}
    assert (await world.per_call(session_id=sid)).status_code == 403


async def test_a_failed_exchange_takes_its_session_back(world: World) -> None:
    limit = {"window_seconds": 600, "max_requests": 1}
    narrow = await world.tenant.add_resource(rate_limit=limit)
    await world.per_call(resource=narrow.identifier)
    before = await world.position()
    answer = await world.exchange(resource=narrow.identifier)
    assert answer.status_code == 429
    async with world.log._pool.connection() as db:
        cursor = await db.execute(
            "SELECT name, state FROM log WHERE position > %s ORDER BY position", (before,)
        )
        facts = [(name, orjson.loads(state)) for name, state in await cursor.fetchall()]
    assert [name for name, _ in facts] == ["session.started", "session.revoked"]
    started, revoked = (state for _, state in facts)
    assert revoked["reason"] == "exchange_failed"
    session = await world.log.find(Session, started["aggregate_id"])
    assert session is not None
    assert session.ended


async def test_the_newest_key_signs_and_the_one_before_still_verifies(world: World) -> None:
    tenant = world.tenant
    old = tenant.token()
    key = SigningKey.generate(new_id())
    await tenant.rotate(key.kid, key.public_jwk(), key.pem())
    minted = (await world.exchange(subject_token=old)).json()["access_token"]
    assert mandate.peek(minted).kid == key.kid
    assert (await world.exchange(subject_token=key.sign(tenant.claims()))).status_code == 200
    with in_zone(tenant.id):
        tenant.key_fact.retire("unreadable")
    await tenant.save(tenant.key_fact)
    minted = (await world.exchange(subject_token=old)).json()["access_token"]
    assert mandate.peek(minted).kid == tenant.key.kid
    refused = await world.exchange(subject_token=key.sign(tenant.claims()))
    assert refused.status_code == 401


async def test_a_parked_thing_is_refused(world: World) -> None:
    """Decisions deny on what a projection could not apply."""
    application = await world.tenant.add_application(secret_hash.of_random("cs_parked"))
    resource = await world.tenant.add_resource()
    ids = [application.aggregate_id, resource.aggregate_id]
    async with world.log._pool.connection() as db:
        for thing in ids:
            await db.execute(
                "INSERT INTO parked (projection, aggregate_id, topic, position, n, ids, error,"
                " attempts) VALUES ('applications', %s, 't', 1, 0, %s, 'e', 5)",
                (thing, [thing]),
            )
        await db.execute("SELECT pg_notify('caracal_parked', '')")
    await world.parked(len(ids))
    by_app = await world.exchange(application_id=ids[0], client_secret="cs_parked")
    by_resource = await world.per_call(resource=resource.identifier)
    assert [by_app.status_code, by_resource.status_code] == [403, 403]
    told = [[e["evaluation_status"] for e in await world.audit(a)] for a in (by_app, by_resource)]
    assert told == [
        ["complete", "session_invalid"],
        ["resource_not_found", "exchange_denied"],
    ]
    async with world.log._pool.connection() as db:
        await db.execute("DELETE FROM parked")
        await db.execute("SELECT pg_notify('caracal_parked', '')")
    await world.parked(0)
    assert (await world.per_call(resource=resource.identifier)).status_code == 200
