from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.errors import BadInput, Forbidden
from caracal.events.delegation_constraints import (
    Authority,
    Constraints,
    broadened,
    check_narrowing,
    normalised,
    read,
)

NOW = clock.now()


def test_normalised() -> None:
    given = {"max_depth": 3, "resources": ["r"], "budget": None, "policy_approved": True}
    assert normalised(given) == {"max_hops": 3, "resources": ["r"], "policy_approved": True}
    assert normalised({"max_hops": 2, "max_depth": 2}) == {"max_hops": 2}
    assert normalised({}) == {}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"resources": "r"}, "invalid_resources"),
        ({"resources": [""]}, "invalid_resources"),
        ({"resources": ["r"] * 65}, "invalid_resources"),
        ({"actions": [1]}, "invalid_actions"),
        ({"max_hops": 0}, "invalid_max_hops"),
        ({"max_hops": 11}, "invalid_max_hops"),
        ({"max_hops": True}, "invalid_max_hops"),
        ({"max_depth": 1.0}, "invalid_max_depth"),
        ({"max_depth": 2, "max_hops": 3}, "invalid_max_hops"),
        ({"ttl_seconds": 86_401}, "invalid_ttl_seconds"),
        ({"budget": 0}, "invalid_budget"),
        ({"budget": ["read"]}, "invalid_budget"),
        ({"policy_approved": 1}, "invalid_policy_approved"),
        ({"expires_at": "soon"}, "invalid_expires_at"),
        ({"expires_at": "2026-01-01T00:00:00"}, "invalid_expires_at"),
        ({"broad_reason": ""}, "invalid_broad_reason"),
        ({"broad_reason": "r" * 257}, "invalid_broad_reason"),
        ({"broad_reason": "\x00"}, "invalid_broad_reason"),
        ({"actions": ["\ud800"]}, "invalid_actions"),
        ({"colour": "red"}, "invalid_delegation_constraint"),
        ({"colour": None}, "invalid_delegation_constraint"),
    ],
)
def test_bad_values(given: dict[str, Any], code: str) -> None:
    with pytest.raises(BadInput, match=code):
        normalised(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_hops": 0}, "the constraint max_hops must be a number 1-10"),
        ({"resources": "r"}, "the constraint resources must be a list of at most 64 texts"),
        ({"policy_approved": 1}, "the constraint policy_approved must be true or false"),
        (
            {"expires_at": "soon"},
            "the constraint expires_at must be an RFC 3339 time with an offset",
        ),
        ({"hops": 1}, "there is no constraint 'hops', but resources, actions, max_hops, "),
    ],
)
def test_a_bad_value_is_told_the_rule(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        normalised(given)
    assert (refused.value.description or "").startswith(said)


def test_a_broad_edge_says_so() -> None:
    broad = {"policy_approved": True, "broad_reason": "resource_null_delegation"}
    assert broadened({}) == broad
    given = {"policy_approved": False, "broad_reason": "an inventory", "budget": 2}
    assert broadened(given) == {**given, "policy_approved": True}


def test_read() -> None:
    assert read({}) == Constraints()
    assert read({"budget": ["a", "b"]}).scopes == ("a", "b")
    assert read({"actions": []}).actions == ()
    stored = {"expires_at": clock.rfc3339(NOW), "max_hops": 4, "broad_reason": "x"}
    assert read(stored) == Constraints(max_hops=4, expires_at=NOW)
    for bad in ({"x": 1}, {"budget": [1]}, {"budget": -1}, {"expires_at": 3}):
        with pytest.raises(BadInput):
            read(bad)


PARENT = Authority(
    frozenset({"read", "write"}),
    frozenset({"r1", "r2"}),
    Constraints(max_hops=3, ttl_seconds=60, budget=2, actions=("get", "put")),
    NOW,
)
CHILD = replace(
    PARENT, constraints=Constraints(max_hops=2, ttl_seconds=60, budget=2, actions=("get",))
)


def constrained(**members: Any) -> Authority:
    return replace(CHILD, constraints=replace(CHILD.constraints, **members))


def test_narrower_or_equal_is_fine() -> None:
    check_narrowing(CHILD, PARENT)
    check_narrowing(replace(CHILD, scopes=frozenset()), PARENT)
    check_narrowing(constrained(budget=None), PARENT)  # two scopes: it cannot spend more
    broad = Authority(PARENT.scopes, None, Constraints(max_hops=2), NOW)
    check_narrowing(Authority(frozenset(), None, Constraints(), NOW), broad)
    check_narrowing(Authority(frozenset(), frozenset({"r"}), Constraints(), NOW), broad)


@pytest.mark.parametrize(
    ("child", "member"),
    [
        (replace(CHILD, scopes=frozenset({"admin"})), "scopes"),
        (replace(CHILD, expires_at=NOW + timedelta(seconds=1)), "expires_at"),
        (replace(CHILD, resources=None), "resources"),
        (replace(CHILD, resources=frozenset()), "resources"),
        (replace(CHILD, resources=frozenset({"r1", "r3"})), "resources"),
        (constrained(max_hops=3), "max_hops"),
        (constrained(ttl_seconds=None), "ttl_seconds"),
        (constrained(ttl_seconds=61), "ttl_seconds"),
        (constrained(budget=3), "budget"),
        (constrained(actions=None), "actions"),
        (constrained(actions=("get", "drop")), "actions"),
    ],
)
def test_more_is_refused(child: Authority, member: str) -> None:
    with pytest.raises(Forbidden, match="delegation_exceeds_parent_authority") as caught:
        check_narrowing(child, PARENT)
    assert caught.value.extras == {"detail": member}


def test_one_hop_leaves_none() -> None:
    parent = replace(PARENT, constraints=Constraints())
    with pytest.raises(Forbidden):
        check_narrowing(replace(CHILD, constraints=Constraints()), parent)


AUTHORITIES = st.builds(
    Authority,
    scopes=st.frozensets(st.sampled_from("abc")),
    resources=st.none() | st.frozensets(st.sampled_from("rst"), min_size=1),
    constraints=st.builds(
        Constraints,
        max_hops=st.integers(1, 10),
        ttl_seconds=st.none() | st.integers(1, 3),
        actions=st.none() | st.lists(st.sampled_from("xy"), unique=True).map(tuple),
    ),
    expires_at=st.sampled_from([NOW, NOW + timedelta(seconds=1)]),
)


@given(AUTHORITIES, AUTHORITIES, AUTHORITIES)
def test_narrowing_is_transitive(a: Authority, b: Authority, c: Authority) -> None:
    try:
        check_narrowing(b, a)
        check_narrowing(c, b)
    except Forbidden:
        return
    check_narrowing(c, a)


@given(
    st.dictionaries(
        st.text(max_size=12), st.none() | st.integers() | st.text() | st.lists(st.text())
    )
)
def test_anything_is_read_or_refused(given: dict[str, Any]) -> None:
    try:
        stored = normalised(given)
    except BadInput:
        return
    assert normalised(stored) == stored
    read(stored)
