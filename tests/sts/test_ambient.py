"""Client secret to ambient mandate, with a worker: the session is seen by everyone at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from caracal import mandate
from caracal.projections.query import one
from caracal.projections.session import SESSIONS
from tests.sts.world import ISSUER, World, new_world


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    async with new_world(module_database_url, module_redis_url, worker=True) as made:
        yield made


async def test_a_secret_opens_a_session(world: World) -> None:
    tenant = world.tenant
    answer = await world.exchange(
        grant_type="urn:ietf:params:oauth:grant-type:token-exchange", scope="agent:lifecycle"
    )
    body = answer.json()
    claims = mandate.peek(body["access_token"]).claims
    sid = claims["sid"]
    assert body["expires_in"] == claims["exp"] - claims["iat"] == 3600
    expected = {
        "iss": ISSUER,
        "sub": tenant.app_id,
        "aud": [ISSUER],
        "client_id": tenant.app_id,
        "root_sid": sid,
        "use": "ambient",
        "sub_type": "application",
        "target": ["resource://one"],
        "scope": "agent:lifecycle",
    }
    assert {name: claims[name] for name in expected} == expected
    assert int(answer.headers["caracal-position"]) == await world.position()
    assert "caracal-consistency" not in answer.headers
    async with world.log._pool.connection() as db:
        row = await one(db, SESSIONS, id=sid)
    assert row is not None
    known = (row["session_type"], row["subject_id"], row["application_id"], row["status"])
    assert known == ("application", tenant.app_id, tenant.app_id, "active")
    assert int(row["expires_at"].timestamp()) == claims["exp"]


async def test_what_was_opened_can_be_exchanged_and_named(world: World) -> None:
    ambient = (await world.exchange(ttl_seconds="120")).json()
    assert ambient["expires_in"] == 120
    sid = mandate.peek(ambient["access_token"]).claims["sid"]
    answer = await world.exchange(
        subject_token=ambient["access_token"], session_id=sid, scope="read"
    )
    claims = mandate.peek(answer.json()["access_token"]).claims
    assert (claims["sid"], claims["root_sid"], claims["use"]) == (sid, sid, "per_call")
    assert "caracal-position" not in answer.headers
    assert (await world.exchange(session_id=sid)).status_code == 200


async def test_the_session_s_event_keeps_the_caller_s_trace(world: World) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = await world.post(world.tenant.form(), traceparent=trace)
    async with world.log._pool.connection() as db:
        cursor = await db.execute(
            "SELECT state FROM log WHERE position = %s", (answer.headers["caracal-position"],)
        )
        row = await cursor.fetchone()
    assert row is not None
    assert orjson.loads(row[0])["meta"]["traceparent"] == trace
