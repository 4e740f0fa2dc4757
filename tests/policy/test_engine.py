"""Decisions of the real engine: only a complete allow allows."""

import gc
import json
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.policy.engine import (
    ENGINE_VERSION,
    MAX_INPUT,
    MAX_RESULT,
    Bundle,
    Decision,
    PolicyCompileError,
    PolicyEngines,
    deny,
)
from caracal.policy.samples import SAMPLES

HEAD = "package caracal.authz\nimport rego.v1\n"
SCOPES = (Path(__file__).parent / "scopes.rego").read_text()
ALLOW = {"decision": "allow", "evaluation_status": "complete"}
FAILED = deny("policy_eval_failed", status="error")


def bundle(*contents: str, name: str = "") -> Bundle:
    modules = tuple((f"{index}.rego", content) for index, content in enumerate(contents))
    return Bundle(name or repr(hash(contents)), modules)


def decide(content: str, policy_input: dict[str, Any] | None = None) -> Decision:
    engines = PolicyEngines(1 << 20)
    decision = engines.evaluate(bundle(HEAD + content), policy_input or {})
    engines.close()
    return decision


def returning(result: object) -> Decision:
    return decide(f"result := {json.dumps(result)}")


def asking(*scopes: str, resolved: bool = False) -> Decision:
    engines = PolicyEngines(1 << 20)
    context = SAMPLES[1]["context"]
    wanted = context | {"requested_scopes": [*scopes], "challenge_resolved": resolved}
    resource = SAMPLES[1]["resource"] | {"scopes": ["read", "list", "write", "delete"]}
    changes = {"context": wanted, "resource": resource}
    return engines.evaluate(bundle(SCOPES), SAMPLES[1] | changes)


def test_allows_what_the_policy_lists() -> None:
    assert asking("read", "list") == Decision(True, "allow", "complete", ["scopes/allow"], [])


def test_denies_the_rest_and_says_why() -> None:
    why = [{"reason": "scope_refused", "scopes": ["delete"]}]
    assert asking("read", "delete") == Decision(False, "deny", "complete", ["scopes/refused"], why)


def test_asks_for_step_up_until_it_is_resolved() -> None:
    assert asking("write").step_up == "human_approval"
    assert not asking("write").allowed
    assert asking("write", resolved=True).allowed


def test_denies_by_default() -> None:
    engines = PolicyEngines(1 << 20)
    decision = engines.evaluate(bundle(SCOPES), {})
    assert (decision.allowed, decision.determining_policies) == (False, ["scopes/default"])


@pytest.mark.parametrize(
    ("result", "allowed", "decision", "status"),
    [
        (ALLOW, True, "allow", "complete"),
        (ALLOW | {"decision": "deny"}, False, "deny", "complete"),
        (ALLOW | {"decision": "Allow"}, False, "Allow", "complete"),
        (ALLOW | {"decision": "allow "}, False, "allow ", "complete"),
        (ALLOW | {"decision": True}, False, "deny", "complete"),
        (ALLOW | {"decision": ["allow"]}, False, "deny", "complete"),
        (ALLOW | {"decision": "x" * 100}, False, "x" * 64, "complete"),
        (ALLOW | {"evaluation_status": "partial"}, False, "allow", "partial"),
        (ALLOW | {"evaluation_status": None}, False, "allow", "error"),
        ({"decision": "allow"}, False, "allow", "error"),
        ({"evaluation_status": "complete"}, False, "deny", "complete"),
        ({}, False, "deny", "error"),
    ],
)
def test_only_a_complete_allow_allows(
    result: object, allowed: bool, decision: str, status: str
) -> None:
    found = returning(result)
    assert (found.allowed, found.decision, found.evaluation_status) == (allowed, decision, status)


def test_a_result_without_status_says_so() -> None:
    engines = PolicyEngines(1 << 20)
    content = HEAD + 'result := {"decision": "allow", "diagnostics": [{"a": 1}]}'
    found = engines.evaluate(Bundle("0" * 64, (("p", content),)), {})
    assert found == Decision(
        *(False, "allow", "error"),
        diagnostics=[{"a": 1}, {"reason": "the result has no evaluation_status"}],
    )


@pytest.mark.parametrize("result", [None, True, 1, "allow", ["allow"], [ALLOW]])
def test_a_result_of_another_kind_is_an_error(result: object) -> None:
    assert returning(result) == FAILED


@pytest.mark.parametrize(
    "content", ["result := x if { x := input.missing }", "result := 1 if false"]
)
def test_an_undefined_result_is_a_complete_deny(content: str) -> None:
    assert decide(content) == Decision(False, "deny", "complete")


def test_only_strings_and_objects_determine() -> None:
    found = returning(ALLOW | {"determining_policies": ["a", {"id": "b"}, 3, None, ["c"]]})
    assert found.determining_policies == ["a", {"id": "b"}]


def test_only_objects_are_diagnostics() -> None:
    assert returning(ALLOW | {"diagnostics": [{"a": 1}, "b", 3]}).diagnostics == [{"a": 1}]
    assert returning(ALLOW | {"diagnostics": "all"}).diagnostics == []


def test_sets_become_arrays() -> None:
    found = decide(
        'result := {"decision": "allow", "evaluation_status": "complete",'
        ' "determining_policies": {"b", "a"}, "diagnostics": {{"a": {1, 2}}}}'
    )
    assert found.determining_policies == ["a", "b"]
    assert found.diagnostics == [{"a": [1, 2]}]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([{"step_up_required": "mfa"}], "mfa"),
        ([{"step_up_required": "human_approval"}], "human_approval"),
        ([{"step_up_required": "software_attestation"}], "software_attestation"),
        ([{"reason": "x"}, {"step_up_required": "mfa"}], "mfa"),
        ([{"step_up_required": "sms"}, {"step_up_required": "mfa"}], "mfa"),
        ([{"step_up_required": "sms"}], None),
        ([{"step_up_required": "MFA"}], None),
        ([{"step_up_required": ["mfa"]}], None),
        ([{"step_up_required": {}}], None),
        (["step_up_required"], None),
    ],
)
def test_step_up(wanted: list[object], expected: str | None) -> None:
    found = returning(ALLOW | {"decision": "deny", "diagnostics": wanted})
    assert (found.allowed, found.step_up) == (False, expected)


@pytest.mark.parametrize(
    "changed", [{}, {"decision": "hold"}, {"decision": "deny", "evaluation_status": "partial"}]
)
def test_step_up_counts_only_on_a_complete_deny(changed: dict[str, str]) -> None:
    assert (
        returning(ALLOW | {"diagnostics": [{"step_up_required": "mfa"}]} | changed).step_up is None
    )


@pytest.mark.parametrize(
    "content",
    [
        "result := to_number(input.x)",
        "result := 1 / input.zero",
        "result := 1 if input.huge\nresult := 2 if input.x",
        f'result := object.union({json.dumps(ALLOW)}, {{"n": input.huge * input.huge}})',
    ],
)
def test_a_failing_evaluation_denies_and_the_next_is_not_touched(content: str) -> None:
    made = bundle(f"{HEAD}{content}\nresult := {json.dumps(ALLOW)} if input.good")
    engines = PolicyEngines(1 << 20)
    for _ in range(3):
        assert engines.evaluate(made, {"x": "no number", "zero": 0, "huge": 1e308}) == FAILED
        assert engines.evaluate(made, {"good": True}).allowed


@pytest.mark.parametrize(
    "value",
    ["\ud800", 1 << 64, -(1 << 63) - 1, {1: 2}, {1}, b"x", object(), "x" * MAX_INPUT, "deep"],
)
def test_input_that_is_not_json_denies(value: object) -> None:
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    found = decide(f"result := {json.dumps(ALLOW)}", {"x": deep if value == "deep" else value})
    assert found == FAILED


ECHO = f'result := object.union({json.dumps(ALLOW)}, {{"diagnostics": [input]}})'


@pytest.mark.parametrize("value", [1 << 63, (1 << 64) - 1, -(1 << 63), 0.1, "\x00", "é", None])
def test_json_input_arrives_as_it_is(value: object) -> None:
    assert decide(ECHO, {"x": value}).diagnostics == [{"x": value}]


def test_not_a_number_becomes_null() -> None:
    assert decide(ECHO, {"x": float("nan")}).diagnostics == [{"x": None}]


def test_a_result_too_large_denies() -> None:
    assert decide(ECHO, {"x": "x" * (MAX_RESULT - 400)}).allowed
    assert decide(ECHO, {"x": "x" * MAX_RESULT}) == FAILED


@pytest.mark.parametrize(("level", "expected"), [(5, True), (21, True), (30, False)])
def test_a_result_too_deep_for_an_audit_entry_denies(level: int, expected: bool) -> None:
    steps = (f"v{i} := deeper(v{i - 1})" for i in range(1, level + 1))
    result = f'result := object.union({json.dumps(ALLOW)}, {{"diagnostics": [{{"a": v{level}}}]}})'
    found = decide("\n".join(["deeper(x) := [[[[[[[[x]]]]]]]]", "v0 := deeper(1)", *steps, result]))
    assert found.allowed is expected
    assert (found == FAILED) is not expected
    orjson.dumps(found.diagnostics)


def test_several_policies_decide_together() -> None:
    block = (
        f'{HEAD}result := {{"decision": "deny", "evaluation_status": "complete"}} if input.block'
    )
    both = bundle(f"{HEAD}default result := {json.dumps(ALLOW)}", block)
    engines = PolicyEngines(1 << 20)
    assert engines.evaluate(both, {}).allowed
    assert not engines.evaluate(both, {"block": True}).allowed


@pytest.mark.parametrize(
    "contents",
    [
        (),
        (f"{HEAD}allow := 1",),
        (f"{HEAD}result := !",),
        (f"{HEAD}result := unknown_variable",),
        (f"{HEAD}result := 1", f"{HEAD}result := 2"),
        (f"{HEAD}result := a\na := result",),
    ],
)
def test_a_bundle_that_does_not_compile(contents: tuple[str, ...]) -> None:
    engines = PolicyEngines(1 << 20)
    with pytest.raises(PolicyCompileError) as error:
        engines.load(bundle(*contents))
    assert error.value.code == "policy_compile_failed"
    assert "stack backtrace" not in error.value.description.lower()
    assert len(engines) == 0


def test_what_does_not_compile_is_dropped_on_its_own_thread() -> None:
    """Whoever keeps the error, and with it the frames of its traceback, keeps no engine."""
    with pytest.raises(PolicyCompileError) as error:
        PolicyEngines(1 << 20).load(bundle(f"{HEAD}result := !"))
    frames = [found.frame for found in error.traceback]
    kept = [value for frame in frames for value in frame.f_locals.values()]
    assert not any(type(value).__module__.startswith("regorus") for value in kept)
    assert "engine" not in frames[-1].f_locals


def test_two_modules_of_one_name_do_not_compile() -> None:
    twice = Bundle("x", (("a", f"{HEAD}result := 1"), ("a", f"{HEAD}other := 1")))
    with pytest.raises(PolicyCompileError):
        PolicyEngines(1 << 20).load(twice)


def test_a_failed_load_leaves_the_bundle_before() -> None:
    engines = PolicyEngines(1 << 20)
    good = bundle(f"{HEAD}result := {json.dumps(ALLOW)}")
    engines.load(good)
    with pytest.raises(PolicyCompileError):
        engines.load(bundle(f"{HEAD}result := !"))
    assert engines.evaluate(good, {}).allowed


def test_the_least_recently_used_engine_goes() -> None:
    made = [bundle(f"{HEAD}result := {number}") for number in range(3)]
    engines = PolicyEngines(2 * made[0].weight)
    kept = [engines._engine(each) for each in made[:2]]
    engines.load(made[0])
    engines.load(made[2])
    assert len(engines) == 2
    assert engines._engine(made[0]) is kept[0]
    assert engines._engine(made[1]) is not kept[1]


def test_one_bundle_larger_than_all_room_still_decides() -> None:
    engines = PolicyEngines(0)
    for number in range(3):
        assert not engines.evaluate(bundle(f"{HEAD}result := {number}"), {}).allowed
        assert len(engines) == 1


def test_another_thread_is_refused() -> None:
    gc.collect()  # engines that others left must not be dropped in that thread
    engines = PolicyEngines(1 << 20)
    made = bundle(f"{HEAD}result := {json.dumps(ALLOW)}")
    engines.load(made)
    seen: list[object] = []

    def use() -> None:
        for call in (lambda: engines.evaluate(made, {}), lambda: engines.load(made), engines.close):
            try:
                seen.append(call())
            except RuntimeError as error:
                seen.append(type(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [RuntimeError] * 3
    assert engines.evaluate(made, {}).allowed


def test_the_version_names_the_engine() -> None:
    assert ENGINE_VERSION == "regorus-0.13.0"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(JSON)
def test_no_input_raises_or_allows(value: object) -> None:
    engines, made = PolicyEngines(1 << 20), bundle(SCOPES)
    parts = ("principal", "resource", "action", "session", "context")
    assert not engines.evaluate(made, {"anything": value}).allowed
    assert not engines.evaluate(made, dict.fromkeys(parts, value)).allowed
