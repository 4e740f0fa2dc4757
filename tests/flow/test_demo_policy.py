"""The demo's policy: what counts is the tool that is called, not only the scope that is named."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from caracal.policy.check import check_policy
from caracal.policy.engine import Bundle, Decision, PolicyEngines

TEXT = files("caracal.demo").joinpath("policy.rego").read_text("utf-8")
BUNDLE = Bundle("0" * 64, (("policy", TEXT),))


async def test_it_may_be_stored() -> None:
    await check_policy(TEXT)


@pytest.mark.parametrize(
    ("scopes", "mcp", "allowed"),
    [
        (["incidents:read"], None, True),  # a token, a stream
        (["agent:lifecycle"], None, True),  # a token of the Coordinator
        (["agent:lifecycle", "incidents:write"], None, False),
        (["incidents:read"], {"method": "tools/list"}, True),
        (["incidents:read"], {"method": "tools/call", "name": "search"}, True),
        (["incidents:read"], {"method": "tools/call", "name": "annotate"}, False),
        (["incidents:read"], {"method": "tools/call", "name": "unheard of"}, False),
        (["incidents:read"], {"method": "tools/call"}, False),
        (["incidents:read"], {"method": ""}, False),  # a batch: who knows what is in it
        (["incidents:write"], {"method": "tools/call", "name": "search"}, False),
        (["incidents:write"], {"method": "tools/call", "name": "annotate"}, False),
        (["incidents:read", "incidents:write"], {"method": "tools/list"}, False),
        ([], {"method": "tools/call", "name": "search"}, False),
    ],
)
def test_what_it_allows(scopes: list[str], mcp: dict[str, Any] | None, allowed: bool) -> None:
    assert _decision(scopes, mcp).allowed is allowed


@pytest.mark.parametrize("scope", ["incidents:read", "incidents:write"])
def test_it_says_why_nothing_is_written(scope: str) -> None:
    found = _decision([scope], {"method": "tools/call", "name": "annotate"})
    assert found.determining_policies == ["incidents/writing-takes-a-person"]
    assert found.diagnostics[0]["reason"] == "an agent may not write to the register"


def _decision(scopes: list[str], mcp: dict[str, Any] | None) -> Decision:
    context = {"requested_scopes": scopes, "mcp": mcp}
    return PolicyEngines(1 << 20).evaluate(
        BUNDLE, {"action": {"id": "TokenExchange"}, "context": context}
    )
