"""Who may come in: mandates, their order of checks, the operator, limits; who was refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from caracal.events.base import Fall
from caracal.ids import new_id
from caracal.key_sets import JwksCache
from caracal.mandate import SigningKey
from caracal.services.coordinator.app import create_app
from caracal.services.proxy_headers import behind_proxy
from tests.backbone import eventually
from tests.coordinator.running import OPERATOR, Crew, Ship, ship
from tests.coordinator.test_agents import refusal
from tests.coordinator.test_services import registered
from tests.making import in_zone
from tests.sts.world import ISSUER, new_world, serving

ROUTES = (
    ("POST", "/agents"),
    ("GET", "/agents"),
    ("GET", "/agents/any"),
    ("GET", "/agents/any/children"),
    ("PATCH", "/agents/any/suspend"),
    ("PATCH", "/agents/any/resume"),
    ("DELETE", "/agents/any"),
    ("POST", "/agents/any/heartbeat"),
    ("POST", "/agent-services"),
    ("GET", "/agent-services"),
    ("POST", "/invocations"),
    ("GET", "/invocations/any"),
    ("PATCH", "/invocations/any/start"),
    ("PATCH", "/invocations/any/cancel"),
    ("PATCH", "/invocations/any/complete"),
    ("POST", "/delegations"),
    ("GET", "/delegations"),
    ("GET", "/nothing"),
)
OF_OPERATOR = {
    ("GET", "/agents"),
    ("GET", "/agents/any"),
    ("GET", "/agents/any/children"),
    ("PATCH", "/agents/any/suspend"),
    ("PATCH", "/agents/any/resume"),
    ("DELETE", "/agents/any"),
    ("GET", "/delegations"),
}


async def test_the_document_is_open_and_nothing_beside_it(crew: Crew) -> None:
    answer = await crew.client.get("/openapi.json")
    assert (answer.status_code, answer.json()["info"]["title"]) == (200, "Caracal Coordinator")
    assert (await crew.client.get("/openapi.json/")).status_code == 401


async def with_token(crew: Crew, token: str, path: str = "/agents") -> tuple[int, str]:
    answer = await crew.call("GET", path, token=token)
    assert answer.headers.get("www-authenticate") == (
        "Bearer" if answer.status_code == 401 else None
    )
    return refusal(answer)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_token_and_tokens_that_are_none(crew: Crew, method: str, path: str) -> None:
    for header in (None, "", "Bearer", "Basic abc", f"bearer {crew.token()}"):
        headers = {} if header is None else {"Authorization": header}
        url = f"/zones/{crew.zone}{path}"
        answer = await crew.client.request(method, url, json={"bad": 1}, headers=headers)
        assert refusal(answer) == (401, "missing_token")
    long = await crew.call(method, path, {"bad": 1}, token="a" * 4097)
    assert refusal(long) == (401, "missing_token")
    for token in ("a", "a.b.c", f"{crew.token()}x", OPERATOR + "x"):
        answer = await crew.call(method, path, {"bad": 1}, token=token)
        assert refusal(answer) == (401, "invalid_token")


async def test_claims_that_are_wrong(crew: Crew) -> None:
    now = int(time.time())
    for claims in (
        {"zone_id": None},
        {"zone_id": 1},
        {"zone_id": "a b"},
        {"zone_id": "unknown"},
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": ["resource://one"]},
        {"aud": None},
        {"exp": now - 1},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": ""},
        {"sub": 1},
        {"use": "per_call"},
        {"client_id": None},
        {"client_id": ""},
        {"anchors": "sid"},
        {"delegation_path": [1]},
    ):
        assert await with_token(crew, crew.token(**claims)) == (401, "invalid_token"), claims
    one = await crew.call("GET", "/agents", token=crew.token(aud=ISSUER))
    assert one.status_code == 200  # RFC 7519, section 4.1.3


async def test_keys_of_others(coordinator: Ship, crew: Crew) -> None:
    other = await coordinator.crew()
    assert await with_token(crew, other.token(zone_id=crew.zone)) == (401, "invalid_token")
    stranger = SigningKey.generate(crew.tenant.key.kid)
    token = stranger.sign(crew.tenant.claims(scope="agent:lifecycle"))
    assert await with_token(crew, token) == (401, "invalid_token")


async def test_scope_before_zone_before_client(coordinator: Ship, crew: Crew) -> None:
    other = await coordinator.crew()
    for scope in (None, "", "agent", "agent:lifecycle2", 1, ["agent:lifecycle"]):
        token = other.token(scope=scope, client_id=None)
        assert await with_token(crew, token) == (403, "missing_scope")
    assert await with_token(crew, other.token(client_id=None)) == (403, "zone_mismatch")
    assert await with_token(crew, other.token()) == (403, "zone_mismatch")
    for bad in ("a%20b", "a" * 129):
        answer = await crew.call("GET", f"//zones/{bad}/agents")
        assert refusal(answer) == (400, "invalid_params")
    for bad in ("a%20b", "%00", "a" * 129):
        for path in (f"/agents/{bad}", f"/agents/{bad}/children", f"/invocations/{bad}"):
            assert refusal(await crew.call("GET", path)) == (400, "invalid_params")


async def test_who_has_no_standing_any_longer(crew: Crew) -> None:
    revoked = (401, "identity_revoked")
    assert await with_token(crew, crew.token(client_id=new_id())) == revoked
    session = await crew.session()
    token = crew.token(sid=session.aggregate_id)
    inherited = crew.token(anchors=[session.aggregate_id])
    for one in (token, inherited):
        assert (await crew.call("GET", "/agents", token=one)).status_code == 200
    with in_zone(crew.zone):
        session.revoke("token_revoked")
    await crew.save(session)
    for one in (token, inherited):
        await eventually(lambda one=one: refused_as(crew, one, revoked), what="the revocation")
    other = await crew.another()
    application = await crew.log.find(type(crew.tenant.application), other.application_id)
    assert application is not None
    assert (await other.call("GET", "/agents")).status_code == 200
    with in_zone(crew.zone):
        application.archive(Fall())
    await crew.save(application)
    await eventually(lambda: refused_as(crew, other.token(), revoked), what="the revocation")


async def refused_as(crew: Crew, token: str, expected: tuple[int, str]) -> bool:
    answer = await crew.call("GET", "/agents", token=token)
    return answer.status_code == expected[0] and refusal(answer) == expected


async def test_an_application_made_just_now_is_known(crew: Crew) -> None:
    for _ in range(5):
        other = await crew.another()
        assert (await other.call("GET", "/agents")).status_code == 200


async def test_a_mandate_of_the_sts(ship_database: str, ship_redis: str) -> None:
    """The whole way: client secret, STS, Coordinator."""
    async with (
        new_world(ship_database, ship_redis, worker=True) as world,
        ship(ship_database, ship_redis, worker=False, sts=world.url) as running,
    ):
        tenant = world.tenant
        given = await world.exchange(
            scope="agent:lifecycle", resource="resource://one", subject_token=None
        )
        assert given.status_code == 200, given.text
        token = given.json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "idempotency-key": "0" * 64}
        body = {"application_id": tenant.app_id, "kind": "instance"}
        answer = await running.client.post(f"/zones/{tenant.id}/agents", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        agent = answer.json()["agent_session_id"]
        ended = await running.client.delete(f"/zones/{tenant.id}/agents/{agent}", headers=headers)
        assert ended.status_code == 204


async def test_a_rotated_key_is_learnt(crew: Crew) -> None:
    assert (await crew.call("GET", "/agents")).status_code == 200  # the old key set is held
    new = SigningKey.generate(new_id())
    await crew.tenant.rotate(new.kid, new.public_jwk(), new.pem())
    token = new.sign(
        crew.tenant.claims(scope="agent:lifecycle", client_id=crew.application_id, sid=crew.sid)
    )

    async def accepted() -> bool:
        return (await crew.call("GET", "/agents", token=token)).status_code == 200

    await eventually(accepted, what="the new key")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_the_operator(crew: Crew, method: str, path: str) -> None:
    answer = await crew.call(method, path, token=OPERATOR)
    if (method, path) in OF_OPERATOR:
        assert answer.status_code == (
            200 if path in ("/agents", "/delegations") or "children" in path else 404
        )
    else:
        assert refusal(answer) == (401, "invalid_token")
    alias = await crew.call(method, f"//v1/zones/{crew.zone}{path}", token=OPERATOR)
    assert alias.status_code == answer.status_code


async def test_what_the_operator_does(crew: Crew) -> None:
    agent = await crew.spawn()
    for method, path in (("PATCH", "/suspend"), ("PATCH", "/resume"), ("DELETE", "")):
        answer = await crew.call(method, f"/agents/{agent['id']}{path}", token=OPERATOR)
        assert answer.status_code in (200, 204)
    assert await crew.statuses() == {agent["id"]: "terminated"}
    async with crew.database() as db:
        cursor = await db.execute(
            "SELECT actor_id, action FROM admin_audit_events WHERE zone_id = %s"
            " AND actor_id = 'caracal-operator' ORDER BY occurred_at",
            (crew.zone,),
        )
        rows = await cursor.fetchall()
    base = f"/zones/{crew.zone}/agents/{agent['id']}"
    assert rows == [
        ("caracal-operator", f"PATCH {base}/suspend"),
        ("caracal-operator", f"PATCH {base}/resume"),
        ("caracal-operator", f"DELETE {base}"),
    ]


async def test_routes_and_methods_that_are_none(crew: Crew) -> None:
    assert refusal(await crew.call("GET", "/nothing")) == (404, "not_found")
    assert refusal(await crew.call("GET", "//v1/nothing")) == (404, "not_found")
    assert refusal(await crew.call("GET", "/agents/")) == (404, "not_found")
    for path, methods in (
        ("/agents", "GET, HEAD, POST"),
        ("/agents/any", "DELETE, GET, HEAD"),
        ("/agents/any/heartbeat", "POST"),
    ):
        for where in (path, f"//v1/zones/{crew.zone}{path}"):
            answer = await crew.call("PUT", where)
            assert refusal(answer) == (405, "method_not_allowed")
            assert answer.headers["allow"] == methods
    slashes = await crew.call("GET", f"//zones%2F{crew.zone}%2Fagents")
    assert slashes.status_code == 404
    head = await crew.call("HEAD", "/agents")
    assert (head.status_code, head.content) == (200, b"")


# --- refused requests are on record -----------------------------------------------------------


async def test_refused_requests_are_on_record(crew: Crew) -> None:
    agent = await crew.spawn()
    other = await crew.another()
    await other.call("DELETE", f"/agents/{agent['id']}")

    async def found() -> list[Any]:
        async with crew.database() as db:
            cursor = await db.execute(
                "SELECT actor_id, method, entity_type, entity_id, status_code, changed"
                " FROM admin_audit_events WHERE zone_id = %s AND status_code >= 400",
                (crew.zone,),
            )
            return await cursor.fetchall()

    rows = await eventually(found, what="the refusal on record")
    assert rows == [(other.application_id, "DELETE", "agents", agent["id"], 403, False)]
    async with crew.database() as db:
        cursor = await db.execute(
            "SELECT actor_id, entity_type, status_code, changed FROM admin_audit_events"
            " WHERE zone_id = %s AND actor_id = %s AND status_code < 400",
            (crew.zone, crew.application_id),
        )
        assert await cursor.fetchall() == [(crew.application_id, "zones", 201, True)]


# --- limits -----------------------------------------------------------------------------------


@asynccontextmanager
async def limited(coordinator: Ship, redis_url: str = "", **limits: str) -> AsyncIterator[Ship]:
    given = coordinator.settings
    where = (given.database_url, redis_url or given.redis_url)
    async with ship(*where, worker=False, sts=given.sts_url, **limits) as running:
        yield running


async def asked(crew: Crew, times: int, method: str = "GET", path: str = "/agents") -> list[int]:
    return [(await crew.call(method, path)).status_code for _ in range(times)]


async def test_tokens_of_zones_that_are_not_there_push_no_keys_out(
    coordinator: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may send a token names its zone: neither the cache nor the STS is theirs to use."""
    fetched: list[str] = []
    refresh = JwksCache._refresh

    async def seen(self: JwksCache, name: str, entry: Any) -> None:
        fetched.append(name)
        await refresh(self, name, entry)

    monkeypatch.setattr(JwksCache, "_refresh", seen)
    async with limited(coordinator, JWKS_CACHE_MAX="2") as running:
        crew = await running.crew()
        assert (await crew.call("GET", "/agents")).status_code == 200
        for path in ("/v1/verify", "/zones/other/agents"):
            tokens = [crew.token(zone_id=f"zone-{number}") for number in range(4)]
            headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
            for token, header in zip(tokens, headers, strict=True):
                answer = await running.client.post(path, json={"token": token}, headers=header)
                assert answer.status_code == 401
        assert (await crew.call("GET", "/agents")).status_code == 200
    assert fetched == [crew.zone]


async def test_requests_a_minute_of_all_replicas(coordinator: Ship) -> None:
    limits = {"COORDINATOR_RATE_LIMIT_PER_MIN": "6"}
    async with limited(coordinator, **limits) as one, limited(coordinator, **limits) as other:
        crew = await one.crew()
        async with whole_minute(coordinator, "global_rl"):
            assert await asked(crew, 3) == [200] * 3
            assert await asked(crew.at(other), 4) == [200, 200, 200, 429]
            answer = await crew.client.get("/zones/any/agents")  # before authentication
            assert refusal(answer) == (429, "rate_limited")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert (await crew.client.get("/health")).status_code == 200


async def test_addresses_of_one_network_count_as_one(coordinator: Ship) -> None:
    """Who has an address of IPv6 has 2^64 of them."""
    limits = {"COORDINATOR_RATE_LIMIT_PER_MIN": "3", "VERIFY_RATE_LIMIT_PER_MIN": "2"}
    async with limited(coordinator, **limits) as running:
        statuses = []
        proxied = serving(behind_proxy(create_app(running.settings)))
        async with proxied as url, whole_minute(coordinator, "global_rl"):
            for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"):
                header = {"X-Forwarded-For": address}
                answer = await running.client.post(f"{url}/v1/verify", headers=header)
                statuses.append(answer.status_code)
    assert statuses == [400, 400, 429, 400]


async def test_invocations_a_minute_of_a_client(coordinator: Ship) -> None:
    async with limited(coordinator, INVOCATION_RATE_LIMIT_PER_MIN="2") as running:
        crew = await running.crew()
        other = await crew.another()
        async with whole_minute(coordinator, "invocation_rl"):
            moves = ("PATCH", "/invocations/any/start")
            assert await asked(crew, 3, *moves) == [404, 404, 429]
            assert await asked(other, 1, *moves) == [404]
            assert await asked(crew, 1, "GET", "/invocations/any") == [404]
            assert await asked(crew, 1) == [200]


async def test_no_spelling_of_the_path_steps_around_the_limit(coordinator: Ship) -> None:
    spellings = (
        "/%69nvocations/any/start",
        "/invocations%2Fany%2Fstart",
        "/invocations/a%0A/start",
    )
    async with limited(coordinator, INVOCATION_RATE_LIMIT_PER_MIN="2") as running:
        crew = await running.crew()
        async with whole_minute(coordinator, "invocation_rl"):
            statuses = [await asked(crew, 1, "PATCH", path) for path in spellings]
    assert (len(spellings), statuses[-1]) == (3, [429])


async def test_readiness_checks_a_minute(coordinator: Ship) -> None:
    async with limited(coordinator, READY_RATE_LIMIT_PER_MIN="2") as running:
        async with whole_minute(coordinator, "ready_rl"):
            answers = [await running.client.get("/ready") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert refusal(answers[-1]) == (429, "rate_limited")


async def test_without_redis_each_process_counts_alone(coordinator: Ship) -> None:
    gone = "redis://127.0.0.1:1/0"
    async with limited(coordinator, gone, COORDINATOR_RATE_LIMIT_PER_MIN="2") as running:
        crew = await running.crew()
        assert await asked(crew, 3) == [200, 200, 429]


@asynccontextmanager
async def whole_minute(coordinator: Ship, window: str) -> AsyncIterator[None]:
    """Begin early in a minute, with nothing counted in it."""
    while time.time() % 60 > 50:
        await asyncio.sleep(0.1)
    async with Redis.from_url(coordinator.settings.redis_url) as redis:
        for key in [key async for key in redis.scan_iter(f"coordinator:{window}:*")]:
            assert 0 < await redis.ttl(key) <= 90
            await redis.delete(key)
        yield
        assert [key async for key in redis.scan_iter(f"coordinator:{window}:*")]


# --- operations -------------------------------------------------------------------------------


async def test_metrics_are_for_operators(coordinator: Ship, crew: Crew) -> None:
    async def ask(token: str | None, accept: str = "text/plain") -> httpx.Response:
        headers = {"Accept": accept}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await coordinator.client.get("/metrics", headers=headers)

    assert refusal(await ask(None)) == (401, "missing_token")
    assert refusal(await ask("other")) == (403, "operator_token_required")
    assert refusal(await ask(crew.token())) == (403, "operator_token_required")
    agent = await crew.spawn()
    await crew.call("PATCH", f"/agents/{agent['id']}/suspend")
    counters = (await ask(OPERATOR, "application/json")).json()
    assert counters.keys() == {
        "caracal_invocations_total",
        "caracal_agents_live",
        "caracal_delegations_active",
        "caracal_revocations_active",
        "caracal_log_emitted_total",
        "caracal_log_dropped_total",
    }
    assert counters["caracal_agents_live"] >= 1
    assert counters["caracal_revocations_active"] >= 1
    assert counters["caracal_log_emitted_total"] >= 2
    text = (await ask(OPERATOR)).text
    assert "\ncaracal_agents_live " in text
    async with limited(coordinator, METRICS_BEARER="m", CARACAL_COORDINATOR_TOKEN="") as running:
        headers = {"Authorization": "Bearer m"}
        assert (await running.client.get("/metrics", headers=headers)).status_code == 200
        empty = await running.client.get("/metrics", headers={"Authorization": "Bearer"})
        assert refusal(empty) == (401, "missing_token")


async def test_invocations_are_counted_by_status(coordinator: Ship, crew: Crew) -> None:
    service = await registered(crew)
    body = {"service_id": service["id"], "idempotency_key": "k", "method": "m"}
    made = (await crew.call("POST", "/invocations", body)).json()
    await crew.call("PATCH", f"/invocations/{made['id']}/start")
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    text = (await coordinator.client.get("/metrics", headers=headers)).text
    assert 'caracal_invocations_total{status="pending"}' in text
    assert 'caracal_invocations_total{status="running"}' in text


async def test_ready_and_a_job_that_stands_still(coordinator: Ship, crew: Crew) -> None:
    answer = await coordinator.client.get("/ready")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    async with crew.database() as db:

        async def ticked() -> bool:
            cursor = await db.execute("SELECT job FROM job_ticks")
            jobs = {row[0] for row in await cursor.fetchall()}
            names = ("ttl_sweep", "service_lease_sweep", "invocation_deadline", "retention_cleanup")
            return jobs.issuperset(names)

        await eventually(ticked, what="a tick of each job")
    assert (await coordinator.client.get("/health")).json() == {"ok": True}
