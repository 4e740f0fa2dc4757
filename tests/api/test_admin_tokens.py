"""Admin tokens: made once, shown never, revoked at once."""

from __future__ import annotations

import asyncio
import logging
import re
from hashlib import sha256
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from caracal.projections.query import select
from caracal.services.api.uses import Uses
from tests.api.running import OPERATOR, Plane, plane
from tests.api.test_seed import running
from tests.backbone import eventually

PATH = "/admin-tokens"
GLOBAL = {"name": "ci", "scope": "global"}


def bearer(made: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {made['token']}"}


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


async def listed(api: Plane) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in (await api.call("GET", f"{PATH}?limit=500")).json()}


async def own_id(api: Plane) -> str:
    rows = await listed(api)
    return next(row["id"] for row in rows.values() if row["created_by"] == "env-bootstrap")


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    made = await api.made(PATH, GLOBAL)
    assert re.fullmatch(r"cat_[A-Za-z0-9_-]{43}", made["token"])
    assert made == {
        "id": made["id"],
        "name": "ci",
        "scope": "global",
        "zone_id": None,
        "capability": "write",
        "created_by": await own_id(api),
        "created_at": made["created_at"],
        "last_used_at": None,
        "revoked_at": None,
        "token": made["token"],
    }
    shown = (await listed(api))[made["id"]]
    assert shown == {name: value for name, value in made.items() if name != "token"}
    assert (await api.call("GET", "/zones", headers=bearer(made))).status_code == 200


async def test_neither_text_nor_digest_is_shown_again(api: Plane) -> None:
    made = await api.made(PATH, GLOBAL)
    digest = sha256(made["token"].encode()).hexdigest()
    shown = (await api.call("GET", f"{PATH}?limit=500")).text
    assert made["token"] not in shown
    assert digest not in shown
    async with api.database() as db:
        states = [bytes(row["state"]) for row in await select(db, "SELECT state FROM log", [])]
    async with Redis.from_url(api.redis_url) as redis:
        topic = repr(await redis.xrange("caracal.admin_tokens.events")).encode()
    assert not [state for state in (*states, topic) if made["token"].encode() in state]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": value} for value in ("", "a" * 121, 1, None, "\x00")),
        *({"scope": value} for value in ("all", None, 1)),
        *({"capability": value} for value in ("admin", None, 1)),
        {"zone_id": "of a global one"},
        {"scope": "zone"},
        {"scope": "zone", "zone_id": "a b"},
    ],
)
async def test_bad_bodies(api: Plane, wrong: dict[str, Any]) -> None:
    before = await listed(api)
    answer = await api.call("POST", PATH, GLOBAL | wrong)
    assert error_of(answer) == (400, "invalid_body")
    assert answer.json()["issues"]
    assert await listed(api) == before


async def test_a_token_of_an_unknown_zone(api: Plane) -> None:
    body = {"name": "ci", "scope": "zone", "zone_id": "unknown"}
    assert error_of(await api.call("POST", PATH, body)) == (404, "zone_not_found")


@pytest.mark.parametrize("scope", ["global", "zone"])
@pytest.mark.parametrize("capability", ["read", "write", "approve"])
async def test_what_a_token_may(api: Plane, scope: str, capability: str) -> None:
    zone = await api.zone()
    body = {"name": "ci", "scope": scope, "capability": capability}
    made = await api.made(PATH, body | ({"zone_id": zone} if scope == "zone" else {}))
    seen = await api.call("GET", f"/zones/{zone}", headers=bearer(made))
    assert seen.status_code == 200
    path = f"/zones/{zone}/applications"
    wrote = await api.call("POST", path, {"name": "a"}, headers=bearer(made))
    if capability == "write":
        assert wrote.status_code == 201
    else:
        assert error_of(wrote) == (403, "admin_token_capability")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("DELETE", "/any")])
async def test_zone_tokens_manage_none(api: Plane, method: str, path: str) -> None:
    zone = await api.zone()
    made = await api.made(PATH, {"name": "z", "scope": "zone", "zone_id": zone})
    answer = await api.call(method, f"{PATH}{path}", {"bad": 1}, headers=bearer(made))
    assert error_of(answer) == (403, "admin_token_management_requires_global")


async def test_unknown_ids(api: Plane) -> None:
    zone = await api.zone()
    for token_id in ("unknown", zone, "a" * 128):
        answer = await api.call("DELETE", f"{PATH}/{token_id}")
        assert error_of(answer) == (404, "admin_token_not_found")
    answer = await api.call("DELETE", f"{PATH}/a%20b")
    assert error_of(answer) == (400, "invalid_params")


async def test_a_revoked_token_is_refused_on_every_replica(api: Plane) -> None:
    async with plane(api.database_url, api.redis_url, api.log) as other:
        for by in (api, other, api):
            made = await by.made(PATH, GLOBAL)
            for replica in (api, other):
                answer = await replica.call("GET", "/zones", headers=bearer(made))
                assert answer.status_code == 200
            revoked = await by.call("DELETE", f"{PATH}/{made['id']}")
            assert (revoked.status_code, revoked.content) == (204, b"")
            answer = await by.call("GET", "/zones", headers=bearer(made))
            assert error_of(answer) == (401, "invalid_admin_token")

            async def refused(made: dict[str, Any] = made) -> bool:
                answers = [
                    await r.call("GET", "/zones", headers=bearer(made)) for r in (api, other)
                ]
                return [answer.status_code for answer in answers] == [401, 401]

            await eventually(refused, what="the refusal on both replicas")
            assert (await listed(other))[made["id"]]["revoked_at"] is not None
            again = await other.call("DELETE", f"{PATH}/{made['id']}")
            assert error_of(again) == (404, "admin_token_not_found")


async def test_a_token_revokes_itself_while_another_is_left(api: Plane) -> None:
    made = await api.made(PATH, GLOBAL)
    path = f"{PATH}/{made['id']}"
    assert (await api.call("DELETE", path, headers=bearer(made))).status_code == 204
    answer = await api.call("DELETE", path, headers=bearer(made))
    assert error_of(answer) == (401, "invalid_admin_token")


async def test_who_revokes_all_at_once_leaves_one(database_url: str, redis_url: str) -> None:
    """Nine tokens that revoke each other, 32 at once: nobody is locked out."""
    async with running(database_url, redis_url, OPERATOR) as api:
        made = [await api.made(PATH, GLOBAL) for _ in range(8)]
        ids = [token["id"] for token in made] + [await own_id(api)]
        headers = [bearer(token) for token in made] + [bearer({"token": OPERATOR})]

        async def revoke(number: int) -> int:
            path = f"{PATH}/{ids[number % len(ids)]}"
            answer = await api.call("DELETE", path, headers=headers[number // 4 % len(ids)])
            return answer.status_code

        statuses = set(await asyncio.gather(*(revoke(number) for number in range(32))))
        for number in range(len(ids)):  # those that are left, one by one
            answer = await api.call("DELETE", f"{PATH}/{ids[number]}", headers=headers[number])
            statuses.add(answer.status_code)
        assert statuses <= {204, 401, 404, 409}
        left = [await api.call("GET", PATH, headers=header) for header in headers]
        (one,) = [answer for answer in left if answer.status_code == 200]
        live = [row["id"] for row in one.json() if row["revoked_at"] is None]
        (header,) = [headers[ids.index(token_id)] for token_id in live]
        answer = await api.call("DELETE", f"{PATH}/{live[0]}", headers=header)
        assert error_of(answer) == (409, "last_admin_token")


async def test_the_last_use_is_shown(api: Plane) -> None:
    made = await api.made(PATH, GLOBAL)
    for _ in range(3):
        await api.call("GET", "/zones", headers=bearer(made))

    async def noted() -> str | None:
        return (await listed(api))[made["id"]]["last_used_at"]

    first = await eventually(noted, what="the last use")
    await api.call("GET", "/zones", headers=bearer(made))
    assert await noted() == first > made["created_at"]


async def test_uses_never_fail_a_request(api: Plane, caplog: pytest.LogCaptureFixture) -> None:
    made = await api.made(PATH, GLOBAL)
    async with api.database() as db:
        await db.execute("ALTER TABLE admin_token_uses RENAME TO hidden")
        try:
            with caplog.at_level(logging.WARNING):
                answer = await api.call("GET", "/zones", headers=bearer(made))
                assert answer.status_code == 200

                async def warned() -> bool:
                    return "not noted" in caplog.text

                await eventually(warned, what="the warning")
        finally:
            await db.execute("ALTER TABLE hidden RENAME TO admin_token_uses")
    other = await api.made(PATH, GLOBAL)  # the task goes on
    await api.call("GET", "/zones", headers=bearer(other))

    async def noted() -> bool:
        return (await listed(api))[other["id"]]["last_used_at"] is not None

    await eventually(noted, what="the use after the failure")


def test_a_use_is_noted_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    uses, now = Uses(), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    noted = []
    for now in (1000.0, 1059.9, 1060.0, 1061.0):  # noqa: B007 - read by the clock above
        uses.note("a")
        noted.append(bool(uses._waiting))
        uses._waiting.clear()
    assert noted == [True, False, True, False]
