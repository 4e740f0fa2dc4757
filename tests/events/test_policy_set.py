from __future__ import annotations

import asyncio

import pytest

from caracal.errors import Conflict, NotFound, Unprocessable
from caracal.events.policy_set import PolicySet, active_key, manifest_sha256
from caracal.events.store.log import Saved, Store, retrying
from caracal.events.store.memory import MemoryLog
from tests.making import ZONE, in_zone, new_policy, new_policy_set, signals, store_with, told


def first_version(policy_set: PolicySet) -> str:
    return next(iter(policy_set.versions))


def activate(chosen: PolicySet, replacing: PolicySet | None = None) -> None:
    with in_zone():
        chosen.activate(first_version(chosen), policies=(), replacing=replacing)


def test_manifest_digest() -> None:
    digest = "e7388625e7afa28ca7927662b2decb5077ef39c5ff1ab43f1847845232968087"
    assert manifest_sha256(["pv-1", "pv-2"]) == digest


async def test_versions_count_from_one_and_need_their_policies() -> None:
    policy, made = new_policy(versions=1), new_policy_set(manifests=[["a"], ["b", "a"]])
    store = await store_with(policy, made)
    versions = list(made.versions.values())
    assert [(v.version, v.manifest) for v in versions] == [(1, ("a",)), (2, ("b", "a"))]
    with in_zone():
        members = {"manifest": ["a"], "schema_version": "2026-03-16"}
        made.add_version("v3", policies=[policy.aggregate_id], **members)
    await store.save(made)
    with in_zone():
        made.add_version("v4", policies=["archived"], **members)
    with pytest.raises(Unprocessable, match="invalid_policy_contract"):
        await store.save(made)


async def test_one_set_is_active() -> None:
    one, other = (new_policy_set(name=n, manifests=[["a"]]) for n in "ab")
    store = await store_with(one, other)
    activate(one)
    await store.save(one)
    activate(other, replacing=one)
    await store.save(other, one)
    assert one.active_version_id is None
    assert other.active_version_id == first_version(other)
    assert store.held.keys[active_key(ZONE)] == other.aggregate_id
    assert [name for name, _ in told(store)[-2:]] == [
        "policy_set.activated",
        "policy_set.deactivated",
    ]
    assert told(store)[-1][1] == {"replaced_by": other.aggregate_id}


async def test_activating_what_is_active_stores_nothing() -> None:
    made = new_policy_set(manifests=[["a"], ["b"]])
    store = await store_with(made)
    activate(made)
    await store.save(made)
    activate(made)
    assert await store.save(made) == Saved()
    first, second = made.versions
    with in_zone():
        made.activate(second, first, policies=(), replacing=None)
    assert (await store.save(made)).events
    assert (made.active_version_id, made.shadow_version_id) == (second, first)


def test_versions_of_other_sets_are_unknown() -> None:
    made = new_policy_set(manifests=[["a"]])
    with in_zone(), pytest.raises(NotFound, match=r"^version_not_found"):
        made.activate("other", policies=(), replacing=None)
    with in_zone(), pytest.raises(NotFound, match="shadow_version_not_found"):
        made.activate(first_version(made), "other", policies=(), replacing=None)


async def test_an_archived_policy_is_not_activated() -> None:
    made = new_policy_set(manifests=[["a"]])
    store = await store_with(made)
    with in_zone():
        made.activate(first_version(made), policies=["archived"], replacing=None)
    with pytest.raises(Conflict, match="referenced_policy_version_missing"):
        await store.save(made)


async def test_archiving_the_active_set_leaves_none_and_says_so() -> None:
    one, other = (new_policy_set(name=n, manifests=[["a"]]) for n in "ab")
    store = await store_with(one, other)
    activate(one)
    with in_zone():
        one.archive()
        other.archive()
    await store.save(one, other)
    assert active_key(ZONE) not in store.held.keys
    sent = signals(store, "caracal.policy.invalidate")
    assert [(entry["fact"], entry["policy_set_version_id"]) for entry in sent] == [
        ("policy_set.activated", first_version(one)),
        ("policy_set.archived", ""),
    ]
    with in_zone(), pytest.raises(NotFound, match="policy_set_not_found"):
        one.archive()
    await store.save(new_policy_set(name="a"))  # its name is free


async def test_a_name_has_one_live_set() -> None:
    store = await store_with(new_policy_set(name="a"))
    with pytest.raises(Conflict, match="policy_set_name_conflict"):
        await store.save(new_policy_set(name="a"))


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("log")


async def test_many_activate_and_one_is_active(store: Store) -> None:
    sets = [new_policy_set(name=str(n), manifests=[["a"]]) for n in range(8)]
    for made in sets:
        made.collect_guards()
        await store.save(made)
    holder: list[str] = []  # as the service would read it; stale under concurrency

    async def command(chosen_id: str) -> Saved:
        chosen = await store.find(PolicySet, chosen_id)
        replaced = await store.find(PolicySet, holder[-1]) if holder else None
        assert chosen is not None
        activate(chosen, replacing=replaced)
        things = [chosen] if replaced is None else [chosen, replaced]
        saved = await store.save(*things)
        holder.append(chosen_id)
        return saved

    calls = [retrying(lambda one=made: command(one.aggregate_id)) for made in sets]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {Saved, Conflict}
    found = [await store.find(PolicySet, made.aggregate_id) for made in sets]
    active = [made.aggregate_id for made in found if made and made.active_version_id]
    assert active == [holder[-1]]
