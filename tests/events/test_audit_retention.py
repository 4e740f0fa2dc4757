"""Audit retention: given what was said, when something is said, then a fact or a refusal."""

from __future__ import annotations

import pytest

from caracal.errors import BadInput
from caracal.events.audit_retention import RETENTION_ID, AuditRetention
from caracal.events.base import acting
from caracal.projections.audit_retention import audit_retentions
from tests.making import facts, reduced, store_with, told

SAID = "audit_retention.changed"


def begun(days: int = 30, limit: int = 365) -> AuditRetention:
    with acting(zone_id=None, actor="operator"):
        return AuditRetention.begin(days, limit=limit)


def change(one: AuditRetention, days: int, limit: int = 365) -> AuditRetention:
    with acting(zone_id=None, actor="operator"):
        one.change(days, limit=limit)
    return one


async def test_the_first_word_begins_it() -> None:
    store = await store_with(begun(30))
    assert told(store) == [(SAID, {"retention_days": 30})]
    (fact,) = facts(store)
    assert (fact.aggregate_id, fact.zone_id, fact.version) == (RETENTION_ID, None, 1)


async def test_later_words_change_it() -> None:
    store = await store_with(begun(30))
    found = await store.find(AuditRetention, RETENTION_ID)
    assert found is not None
    await store.save(change(change(found, 40), 365))
    again = await store.find(AuditRetention, RETENTION_ID)
    assert again is not None
    assert (again.retention_days, again.version) == (365, 3)
    assert [data["retention_days"] for _, data in told(store)] == [30, 40, 365]


async def test_the_same_word_is_no_fact() -> None:
    store = await store_with(change(begun(30), 30))
    assert len(told(store)) == 1


def test_more_than_the_deployment_keeps_is_refused() -> None:
    for say in (lambda: begun(366), lambda: change(begun(365), 366), lambda: begun(8, limit=7)):
        with pytest.raises(BadInput) as refusal:
            say()
        assert refusal.value.code == "retention_above_limit"


async def test_the_read_model_has_the_last_word() -> None:
    store = await store_with(change(change(begun(30), 40), 20))
    (row,) = reduced(audit_retentions, store)["audit_retentions"].values()
    assert (row["id"], row["retention_days"], row["position"]) == (RETENTION_ID, 20, 3)
