from __future__ import annotations

from typing import Any

from caracal.projections.grant import GRANTS, grants
from caracal.projections.memory import apply
from caracal.services.sts.view import GrantTable
from tests.making import facts, in_zone, new_grant, store_with

NEEDED = ("live:zone:zone-of-tests", "live:application:app", "live:resource:res")


def row(**members: Any) -> dict[str, Any]:
    blank = dict.fromkeys(GRANTS.columns)
    return {"id": "g", "position": 1, "ended_at": None, "stub": False, **blank, **members}


async def test_a_grant_that_has_ended_is_remembered() -> None:
    """Where there ever was a grant, policy alone decides no more."""
    grant = new_grant("app", "res")
    store = await store_with(grant, keys=NEEDED)
    with in_zone():
        grant.expire()
    await store.save(grant)
    table = GrantTable()
    for fact in facts(store):
        apply({"grants": table}, grants.reduce(fact))
    assert table.live(grant.aggregate_id) is None
    assert table.ever == {("app", "res")}


def test_a_snapshot_tells_of_grants_that_have_ended() -> None:
    table = GrantTable()
    there = {"zone_id": "z", "application_id": "a", "resource_id": "r"}
    unseen = row(id="h", stub=True, ended_at=3, position=0)
    table.load(iter([row(ended_at=2, **there), unseen]))
    assert table.ever == {("a", "r")}
    table.load([])
    assert table.ever == set()
