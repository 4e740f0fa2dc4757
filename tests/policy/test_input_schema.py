"""What an input lacks of the shape that exchanges give."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.policy.engine import STEP_UP_TYPES
from caracal.policy.input_schema import OUTPUT_CONTRACT, input_warnings
from caracal.policy.samples import SAMPLES

ZONE = SAMPLES[1]["principal"]["zone_id"]
DELEGATED = SAMPLES[3]


@pytest.mark.parametrize("sample", SAMPLES[1:])
def test_what_exchanges_give_has_no_warning(sample: dict[str, Any]) -> None:
    assert input_warnings(sample, ZONE) == []


def test_nothing_is_missing_everything() -> None:
    assert input_warnings({}, ZONE) == [
        "missing_resource",
        "missing_action",
        "missing_context",
        "input_schema_mismatch:principal",
        "input_schema_mismatch:session",
        "input_schema_mismatch:delegation_edge",
    ]


def test_what_was_recorded_before_a_member_came_is_not_wrong_for_it() -> None:
    older = deepcopy(DELEGATED)
    del older["schema_version"]
    for name in ("registration_method", "agent_kind", "capabilities"):
        del older["principal"][name]
    assert input_warnings(older, ZONE) == []


def test_a_principal_of_another_zone() -> None:
    assert input_warnings(DELEGATED, "other") == ["principal_zone_mismatch"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", "2026-03-15"),
        ("schema_version", None),
        ("principal.registration_method", None),
        ("principal.agent_kind", 1),
        ("principal.capabilities", "browse"),
        ("principal.type", "application"),
        ("principal.zone_id", 1),
        ("resource", []),
        ("resource.type", "Zone"),
        ("resource.scopes", "read"),
        ("action.id", "Read"),
        ("context.challenge_resolved", "false"),
        ("context.requested_scopes", None),
        ("context.http", "GET"),
        ("session", "a"),
        ("delegation_edge.edge_version", True),
        ("delegation_edge.constraints_json", None),
    ],
)
def test_a_member_of_another_kind_is_named(path: str, value: Any) -> None:
    changed = deepcopy(DELEGATED)
    holder = changed
    *steps, name = path.split(".")
    for step in steps:
        holder = holder[step]
    holder[name] = value
    assert f"input_schema_mismatch:{path}" in input_warnings(changed, ZONE)


def test_a_member_that_no_exchange_gives() -> None:
    known = input_warnings(DELEGATED | {"user": "u", "time": 1}, ZONE)
    assert known == ["input_schema_mismatch:time", "input_schema_mismatch:user"]


def test_what_is_told_is_bounded() -> None:
    many = {f"{number:03}{'x' * 100}": 1 for number in range(100)}
    told = input_warnings(DELEGATED | many, ZONE)
    assert (len(told), max(map(len, told))) == (8, len("input_schema_mismatch:") + 64)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["principal", "zone_id", "context", "http", "id", "x"]),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*DELEGATED, "x"]), json_values, max_size=6))
def test_any_json_gives_a_bounded_list(policy_input: dict[str, Any]) -> None:
    found = input_warnings(policy_input, ZONE)
    assert len(found) == len(set(found)) < 60


def test_the_contract_names_the_types_that_the_engine_knows() -> None:
    assert set(OUTPUT_CONTRACT["step_up_required"]) == STEP_UP_TYPES
