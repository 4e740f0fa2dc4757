"""The policy of docs/policies.md is one that may be stored, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from caracal.policy import advice
from caracal.policy.check import check_policy
from caracal.policy.engine import Bundle, PolicyEngines
from caracal.policy.templates import templates

PAGE = Path(__file__).parents[2] / "docs/policies.md"


async def test_the_example_may_be_stored() -> None:
    await check_policy(_example())


def test_the_example_decides_as_the_page_says() -> None:
    bundle = Bundle("0" * 64, (("example", _example()),))
    engines = PolicyEngines(1 << 20)
    allowed = {
        (identifier, *scopes): engines.evaluate(bundle, _input(identifier, *scopes)).allowed
        for identifier in ("resource://docs", "resource://other")
        for scopes in ((), ("read",), ("read", "write"))
    }
    assert [asked for asked, yes in allowed.items() if yes] == [
        ("resource://docs",),
        ("resource://docs", "read"),
    ]


def test_the_page_names_every_warning_and_every_template() -> None:
    words = re.findall(r'yield "([a-z_]+)"', Path(advice.__file__).read_text())
    assert len(words) == 9
    assert [word for word in (*words, *templates()) if f"`{word}`" not in PAGE.read_text()] == []


def _example() -> str:
    return PAGE.read_text().partition("```rego\n")[2].partition("```")[0]


def _input(identifier: str, *scopes: str) -> dict[str, object]:
    return {
        "resource": {"identifier": identifier},
        "context": {"requested_scopes": list(scopes)},
    }
