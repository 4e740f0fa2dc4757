"""Step-up challenges: what it takes to satisfy one, and to use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.errors import CaracalError, Conflict, NotFound, Unauthenticated
from caracal.events.catalogue import export_of
from caracal.events.challenge import LIFE, Actor, Challenge, resources_sha256
from caracal.events.store.log import Log, Saved, Store, retrying
from caracal.events.store.memory import MemoryLog
from tests.making import consume, in_zone, new_challenge, store_with, told

NOW = clock.now()


def satisfied(**members: Any) -> Challenge:
    challenge = new_challenge(now=NOW, **members)
    with in_zone():
        challenge.satisfy("grace", NOW)
    return challenge


def used(challenge: Challenge, **members: Any) -> Challenge:
    return consume(challenge, **({"now": NOW} | members))


async def test_issued_satisfied_consumed() -> None:
    challenge = used(satisfied())
    issued = {
        "principal": "ada",
        "session_id": "sid-1",
        "challenge_type": "human_approval",
        "secret_sha256": sha256(b"the secret").hexdigest(),
        "resources_sha256": sha256(b"resource://one").hexdigest(),
        "metadata": {"resource": "resource://one", "call": None},
        "expires_at": clock.rfc3339(NOW + timedelta(minutes=5)),
    }
    assert told(await store_with(challenge)) == [
        ("challenge.issued", issued),
        ("challenge.satisfied", {"approver_subject_id": "grace"}),
        ("challenge.consumed", {}),
    ]
    assert "secret_sha256" not in export_of("challenge.issued", issued)


async def test_nothing_in_a_dead_zone() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_challenge(), keys=())
    challenge = new_challenge(now=NOW)
    store = await store_with(challenge)
    store.held.keys.clear()
    with in_zone():
        challenge.satisfy(None, NOW)
    with pytest.raises(NotFound, match="zone_not_found"):
        await store.save(challenge)


@pytest.mark.parametrize("approver", [None, "grace", "ADA", "ada "])
def test_who_may_satisfy(approver: str | None) -> None:
    challenge = new_challenge(now=NOW)
    with in_zone():
        challenge.satisfy(approver, NOW + LIFE - timedelta(microseconds=1))
    assert challenge.satisfied_at is not None


@pytest.mark.parametrize(
    ("made", "approver", "late", "error", "code"),
    [
        (new_challenge, "ada", timedelta(0), Conflict, "challenge_not_satisfiable"),
        (new_challenge, "grace", LIFE, NotFound, "challenge_not_found_or_expired"),
        (new_challenge, "ada", LIFE, NotFound, "challenge_not_found_or_expired"),
        (satisfied, "grace", timedelta(0), NotFound, "challenge_not_found_or_expired"),
        (lambda: used(satisfied()), None, timedelta(0), NotFound, "challenge_not_found_or_exp"),
    ],
)
def test_who_may_not(
    made: Callable[[], Challenge],
    approver: str | None,
    late: timedelta,
    error: type[CaracalError],
    code: str,
) -> None:
    challenge = made()
    before = challenge.version
    moment = clock.parse(challenge.expires_at) - LIFE + late
    with in_zone(), pytest.raises(error, match=code):
        challenge.satisfy(approver, moment)
    assert challenge.version == before


CALL: dict[str, Any] = {
    "http": {"method": "POST", "path": "/mcp"},
    "mcp": {"method": "tools/call", "name": "refund", "arguments_sha256": "a"},
}
MISSING: dict[str, dict[str, Any]] = {
    "zone": {"zone_id": "other"},
    "principal": {"principal": "grace"},
    "session": {"session_id": "sid-2"},
    "no session": {"session_id": None},
    "secret": {"secret": "The secret"},
    "no secret": {"secret": ""},
    "digest as secret": {"secret": sha256(b"the secret").hexdigest()},
    "half a character": {"secret": "\ud800"},
    "resources": {"resources": ["resource://two"]},
    "more resources": {"resources": ["resource://one", "resource://two"]},
    "the same twice": {"resources": ["resource://one", "resource://one"]},
    "no resources": {"resources": []},
    "another scope": {"scopes": ["write"]},
    "more scopes": {"scopes": ["read", "list", "write"]},
    "another agent": {"actor": Actor("agent-2", "edge-1")},
    "another edge": {"actor": Actor("agent-1", "edge-2")},
    "no edge": {"actor": Actor("agent-1")},
    "no agent": {"actor": Actor()},
    "another tool": {"call": {**CALL, "mcp": {**CALL["mcp"], "name": "delete_all"}}},
    "other arguments": {"call": {**CALL, "mcp": {**CALL["mcp"], "arguments_sha256": "b"}}},
    "another path": {"call": {**CALL, "http": {"method": "POST", "path": "/other"}}},
    "another method": {"call": {**CALL, "http": {"method": "PUT", "path": "/mcp"}}},
    "half of the call": {"call": {"http": CALL["http"]}},
    "no call": {"call": None},
    "time": {"now": NOW + LIFE},
}
SHOWN = {
    "requested_scopes": ["read", "list"],
    "agent_session_id": "agent-1",
    "delegation_edge_id": "edge-1",
}


@pytest.mark.parametrize("missing", MISSING)
def test_each_requirement_is_required(missing: str) -> None:
    challenge = satisfied(metadata=SHOWN, call=CALL)
    turned = dict(reversed(CALL.items()))  # order says nothing
    right = {"scopes": ["list"], "actor": Actor("agent-1", "edge-1"), "call": turned}
    with pytest.raises(Unauthenticated, match="access_denied: the step-up challenge"):
        used(challenge, **(right | MISSING[missing]))
    used(challenge, **right)  # a failed attempt uses nothing up


def test_only_what_is_satisfied_and_only_once() -> None:
    with pytest.raises(Unauthenticated):
        used(new_challenge(now=NOW))
    over = used(satisfied())
    with pytest.raises(Unauthenticated):
        used(over)


def test_agreement_without_a_call_is_for_none() -> None:
    with pytest.raises(Unauthenticated):
        used(satisfied(), call=CALL)


@pytest.mark.parametrize("call", [None, {}, CALL])
def test_a_challenge_from_before_calls_were_kept_is_for_nothing(call: Any) -> None:
    """What its agreement was for is not known; it has five minutes, then it is asked anew."""
    old = satisfied()
    del old.metadata["call"]
    with pytest.raises(Unauthenticated):
        used(old, call=call)


@pytest.mark.parametrize("unbound", [None, ""])
@pytest.mark.parametrize("session", [None, "", "sid-9"])
def test_an_unbound_challenge_asks_for_no_session(unbound: str | None, session: str | None) -> None:
    used(satisfied(session_id=unbound), session_id=session)


@given(st.lists(st.text(alphabet="aAbB /:", max_size=6), max_size=5), st.randoms())
def test_resources_are_a_list_without_order_case_or_outer_spaces(
    resources: list[str], random: Any
) -> None:
    given = resources_sha256(resources)
    shuffled = [f" {resource.swapcase()}\t" for resource in resources]
    random.shuffle(shuffled)
    assert resources_sha256(shuffled) == given
    assert resources_sha256([*resources, "another"]) != given


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    return MemoryLog() if request.param == "memory" else request.getfixturevalue("log")


Decision = Callable[[Challenge], None]


@pytest.mark.parametrize(
    ("made", "decide", "refusal"),
    [
        (new_challenge, lambda one: one.satisfy(None, clock.now()), NotFound),
        (satisfied, lambda one: used(one), Unauthenticated),
    ],
    ids=["satisfy", "consume"],
)
async def test_of_many_writers_one_wins(
    store: Store | Log, made: Callable[[], Challenge], decide: Decision, refusal: type[CaracalError]
) -> None:
    challenge = made()
    challenge.collect_guards()
    await store.save(challenge)

    async def command() -> Saved:
        found = await store.find(Challenge, challenge.aggregate_id)
        assert found is not None
        with in_zone():
            decide(found)
        found.collect_guards()
        return await store.save(found)

    outcomes = await asyncio.gather(*(retrying(command) for _ in range(32)), return_exceptions=True)
    assert sum(isinstance(outcome, Saved) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, refusal) for outcome in outcomes) == 31
