"""What is warned of: policies that may be stored and are hardly meant."""

from __future__ import annotations

import pytest

from caracal.errors import Unprocessable
from caracal.policy.check import advice_on

HEAD = "package caracal.authz\nimport rego.v1\n"
DEFAULT = 'default result := {"decision": "deny", "evaluation_status": "complete"}\n'
ALLOW = '{"decision": "allow", "evaluation_status": "complete"}'
SCOPED = f'result := {ALLOW} if "read" in input.context.requested_scopes\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (DEFAULT + SCOPED, []),
        (SCOPED, ["no_default_result"]),
        (DEFAULT, ["decision_never_allow"]),
        (
            DEFAULT + f'result := {ALLOW} if input.principal.id == "a"',
            ["requested_scopes_not_checked"],
        ),
        (
            f"result := {ALLOW}",
            ["no_default_result", "requested_scopes_not_checked", "allows_empty_input"],
        ),
        (
            DEFAULT + f"result := {ALLOW} if count(input.context.requested_scopes) >= 0",
            ["allows_all_samples"],
        ),
        (
            DEFAULT + SCOPED + 'other := {"decision": "Allow"} if input.x',
            ["result_without_evaluation_status:5:12", "decision_neither_allow_nor_deny:5:12"],
        ),
        (
            DEFAULT + SCOPED + 'other := {"step_up_required": true} if input.x',
            ["step_up_without_type:5:12"],
        ),
        (
            DEFAULT + SCOPED + 'other := {"diagnostics": {"step_up_required": "mfa"}} if input.x',
            ["diagnostics_not_a_list:5:12"],
        ),
        (
            DEFAULT + SCOPED + 'other := {"diagnostics": "x"} if input.x',
            ["diagnostics_not_a_list:5:12"],
        ),
        (DEFAULT + SCOPED + 'other := {"diagnostics": [{"a": 1}]} if input.x', []),
        (DEFAULT + SCOPED + 'other := {"diagnostics": input.y} if input.x', []),
        (DEFAULT + SCOPED + 'other := {input.k: 1, {"a": 2}.a: 1}', []),
        (DEFAULT + SCOPED + 'other := {"step_up_required": "mfa"} if input.x', []),
        (DEFAULT + SCOPED + 'other := {"step_up_required": input.kind} if input.x', []),
        (  # however it comes to the scopes
            "import input.context.requested_scopes as wanted\n"
            + DEFAULT
            + f'result := {ALLOW} if "read" in wanted',
            [],
        ),
        (DEFAULT + f'result := {ALLOW} if "read" in input.context["requested_scopes"]', []),
        (
            DEFAULT + f"result := {ALLOW} if false\nresult := 1 if input.x",
            ["requested_scopes_not_checked"],
        ),
    ],
)
async def test_advice(content: str, expected: list[str]) -> None:
    assert await advice_on(HEAD + content) == expected


async def test_what_is_refused_gets_no_advice() -> None:
    with pytest.raises(Unprocessable) as refused:
        await advice_on(HEAD + "allow := true")
    assert refused.value.extras["detail"] == "must_define_result_rule"
