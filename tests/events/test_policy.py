from __future__ import annotations

from hashlib import sha256

import pytest

from caracal.errors import Conflict, NotFound
from caracal.events.policy import Policy
from tests.making import in_zone, new_policy, store_with, told


async def test_versions_count_from_one_without_a_gap() -> None:
    policy = new_policy(versions=2)
    store = await store_with(policy)
    again = await store.find(Policy, policy.aggregate_id)
    assert again is not None
    with in_zone():
        third = again.add_version("v3", content="é", schema_version="2026-03-16")
    await store.save(again)
    assert (third.version, third.content_sha256) == (3, sha256("é".encode()).hexdigest())
    assert [version.version for version in again.versions] == [1, 2, 3]
    assert told(store)[-1] == (
        "policy.version_added",
        {
            "version_id": "v3",
            "version": 3,
            "content": "é",
            "content_sha256": third.content_sha256,
            "schema_version": "2026-03-16",
        },
    )


async def test_a_name_has_one_live_policy_in_a_zone() -> None:
    policy = new_policy(name="a")
    store = await store_with(policy)
    with pytest.raises(Conflict, match="policy_name_conflict"):
        await store.save(new_policy(name="a"))
    with in_zone():
        policy.archive()
    await store.save(policy)
    await store.save(new_policy(name="a"))
    assert told(store)[1] == ("policy.archived", {})


def test_what_is_archived_is_not_found() -> None:
    policy = new_policy()
    with in_zone():
        policy.archive()
        with pytest.raises(NotFound, match="policy_not_found"):
            policy.archive()
        with pytest.raises(NotFound, match="policy_not_found"):
            policy.add_version("v", content="x", schema_version="2026-03-16")


async def test_a_dead_zone_gets_no_policy() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_policy(), keys=())
