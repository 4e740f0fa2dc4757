"""What people are told about a refused policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caracal.errors import Unprocessable
from caracal.policy.check import check_policy
from caracal.policy.reasons import sentence

HEAD = "package caracal.authz\n"
SOURCES = Path(__file__).parents[2] / "caracal/policy"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("result := 1", "the policy must begin with: package caracal.authz"),
        (HEAD + "allow := 1", "the policy must define a rule that is called result"),
        (
            HEAD + "result := 1 if { inptu.x == 1 }",
            "line 2, column 18: this cannot be compiled or evaluated:"
            " use of undefined variable `inptu` is unsafe",
        ),
        (
            HEAD + "result := 1\nresult := 2",
            "line 3, column 1: this cannot be compiled or evaluated:"
            " rule conflicts with rule at 2:1",
        ),
        (HEAD + "result := contians(1, 2)", "there is no function contians"),
        (HEAD + "result := http.send({})", "policies may not call or replace http.send"),
        (
            HEAD + "result := 1 if { input.x with data as 2 }",
            "with may replace parts of input only, not data",
        ),
        (
            HEAD + 'result := 1 if { not startswith(input.x, "a") }',
            "line 2, column 18: not would allow here when input is missing;"
            " compare the call with false instead",
        ),
    ],
)
async def test_a_refusal_says_what_to_do(content: str, told: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        await check_policy(content)
    assert refused.value.description == told


async def test_the_advice_on_negation_works() -> None:
    await check_policy(HEAD + 'result := 1 if { startswith(input.x, "a") == false }')


def test_the_engines_words_are_cut() -> None:
    assert len(sentence("syntax_error:1:1", "x" * 10_000)) < 300


def test_every_reason_has_its_sentence() -> None:
    given = {
        name
        for path in SOURCES.glob("*.py")
        for name in re.findall(r'invalid\(\s*f?"([a-z_]+)', path.read_text())
    }
    assert len(given) > 10
    for name in given:
        assert sentence(f"{name}:1:1")
