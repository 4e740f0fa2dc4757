"""Admin token: what it decides, what it asks for, what it records."""

from __future__ import annotations

from typing import Any

import pytest

from caracal.errors import Conflict, NotFound
from caracal.events.admin_token import AdminToken, LastToken
from caracal.events.base import acting
from caracal.events.guards import Free, Need, Take
from caracal.events.store.memory import MemoryLog
from tests.backbone import archive_zone, new_zone


def new_token(token_id: str, **members: Any) -> AdminToken:
    given: dict[str, Any] = {
        "name": "ci",
        "token_sha256": f"digest of {token_id}",
        "scope": "global",
        "zone_id": None,
        "capability": "write",
        "created_by": "operator",
    }
    with acting(zone_id=members.get("zone_id"), actor="operator"):
        return AdminToken.create(token_id, **(given | members))


def revoke(token: AdminToken, survivor: str) -> AdminToken:
    with acting(zone_id=None, actor="operator"):
        token.revoke(survivor)
    return token


async def test_created_with_what_it_needs() -> None:
    token = new_token("t")
    assert [(g.key, g.owner) for g in token.guards if isinstance(g, Take)] == [
        ("admin_token:digest of t", "t"),
        ("live:admin_token:t", "t"),
    ]
    log = MemoryLog()
    await log.save(token)
    fact = log.records[0].fact()
    assert (fact.name, fact.zone_id) == ("admin_token.created", None)
    assert fact.data == {
        "name": "ci",
        "token_sha256": "digest of t",
        "scope": "global",
        "zone_id": None,
        "capability": "write",
        "created_by": "operator",
    }


async def test_one_of_a_zone_needs_the_zone() -> None:
    log = MemoryLog()
    with pytest.raises(NotFound, match="zone_not_found"):
        await log.save(new_token("t", scope="zone", zone_id="z"))
    zone = new_zone("z")
    await log.save(zone, new_token("t", scope="zone", zone_id="z"))
    assert log.records[-1].fact().zone_id == "z"
    await log.save(archive_zone(zone))
    with pytest.raises(NotFound, match="zone_not_found"):
        await log.save(new_token("u", scope="zone", zone_id="z"))


async def test_a_digest_is_known_once_also_after_its_end() -> None:
    log = MemoryLog()
    first = new_token("a", token_sha256="same")
    await log.save(first, new_token("b"))
    for token_id in ("c", "d"):
        with pytest.raises(Conflict, match="admin_token_known"):
            await log.save(new_token(token_id, token_sha256="same"))
        if not first.revoked:
            await log.save(revoke(first, "b"))


async def test_revoked_is_final() -> None:
    token = new_token("a")
    revoke(token, "b")
    assert token.guards[2:] == [
        Need("live:admin_token:b", token.guards[2].refusal),
        Free(("live:admin_token:a",), "a"),
    ]
    with pytest.raises(NotFound, match="admin_token_not_found"):
        revoke(token, "b")


async def test_the_last_that_manages_stays() -> None:
    log = MemoryLog()
    first, second = new_token("a"), new_token("b")
    await log.save(first, second, new_token("reader", capability="read"))
    await log.save(revoke(first, "b"))
    with pytest.raises(LastToken):
        await log.save(revoke(second, "a"))


@pytest.mark.parametrize("lesser", [{"capability": "read"}, {"capability": "approve"}])
async def test_a_lesser_one_may_always_go(lesser: dict[str, str]) -> None:
    log = MemoryLog()
    token = new_token("a", **lesser)
    await log.save(token)
    await log.save(revoke(token, "nobody"))
    assert [record.name for record in log.records][-1] == "admin_token.revoked"
