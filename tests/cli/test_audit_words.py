"""``caracal audit show``, ``explain`` and ``replay`` in words, on an answer on record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.caracal import Caracal
from tests.cli.stand_in import Answer, Asked, StandIn

ZONE = "0198f3c4-0000-7000-8000-000000000001"
INPUT = {"context": {"requested_scopes": ["write"]}}
TRAIL = [
    {
        "id": "e1",
        "event_type": "token_exchange",
        "decision": "deny",
        "evaluation_status": "complete",
        "occurred_at": "2026-11-25T23:21:22.166438Z",
        "determining_policies_json": ["docs/no"],
        "diagnostics_json": [],
        "metadata_json": {"resource": "resource://docs", "policy_input": INPUT},
    },
    {
        "id": "fact-7",
        "event_type": "application.created",
        "decision": None,
        "evaluation_status": None,
        "occurred_at": "2026-11-25T23:21:23Z",
        "metadata_json": {"name": "A"},
    },
]
EXPLANATION = {
    "request_id": "q",
    "final_decision": "deny",
    "explanation": "denied by 1 of 1 decisions",
    "denied": [
        {"event_id": "e0", "check": "exchange", "explanation": "as a whole", "policy_input": None},
        {
            "event_id": "e1",
            "resource": "resource://docs",
            "check": "policy",
            "determining_policies": ["docs/no"],
            "policy_input": INPUT,
        },
    ],
    "events": TRAIL,
}
REPLAY = {
    "request_id": "q",
    "identical": False,
    "decisions": [
        {
            "event_id": "e1",
            "resource": "resource://docs",
            "identical": False,
            "recorded": {"decision": "deny"},
            "replayed": {"decision": "allow"},
            "differences": ["decision"],
        }
    ],
    "not_replayed": [{"event_id": "e0", "reason": "no_policy_asked"}],
}
ANSWERS = {"by-request/q": TRAIL, "explain": EXPLANATION, "replay": REPLAY, "sv": REPLAY}


@pytest.fixture
def caracal(stand_in: StandIn) -> Caracal:
    def answer(asked: Asked) -> Answer:
        (found,) = [value for end, value in ANSWERS.items() if asked.path.endswith(end)]
        return 200, found

    stand_in.answer = answer
    return Caracal(
        {"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t", "CARACAL_ZONE": ZONE}
    )


def test_show(caracal: Caracal) -> None:
    assert caracal.run("audit", "show", "q").stdout.splitlines() == [
        "2026-11-25 23:21:22Z  deny  token_exchange  complete",
        "    determining policies: docs/no",
        "    resource: resource://docs",
        "",
        "2026-11-25 23:21:23Z  fact  application.created",
        "    name: A",
        "",
        "final decision: deny",
        "denied by 1 of 1 decisions",
    ]
    document = caracal.json("audit", "show", "q")
    assert document == {"request_id": "q", "trail": TRAIL, "explanation": EXPLANATION}


def test_explain(caracal: Caracal) -> None:
    shown = caracal.run("audit", "explain", "q").stdout
    assert shown.startswith("final decision: deny\ndenied by 1 of 1 decisions\n\n")
    assert "determining policies  docs/no" in shown
    assert "requested_scopes" not in shown
    assert caracal.json("audit", "explain", "q") == EXPLANATION


def test_a_request_that_needed_no_decision(
    caracal: Caracal, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"final_decision": None, "explanation": "nothing was to be decided", "denied": []}
    monkeypatch.setitem(ANSWERS, "explain", {**EXPLANATION, **nothing})
    assert caracal.run("audit", "explain", "q").stdout == "nothing was to be decided\n"


def test_the_input_that_was_refused(caracal: Caracal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(caracal.run("audit", "explain", "q", "--input").stdout) == INPUT
    nothing: dict[str, Any] = {**EXPLANATION, "denied": []}
    monkeypatch.setitem(ANSWERS, "explain", nothing)
    assert caracal.refused("audit", "explain", "q", "--input").startswith("no_policy_input: ")


def test_replay(caracal: Caracal) -> None:
    shown = caracal.run("audit", "replay", "q", code=1).stdout
    assert "e1        resource://docs  deny      allow     no         decision" in shown
    assert "no_policy_asked" in shown
    assert caracal.json("audit", "replay", "q", code=1) == REPLAY
    caracal.run("audit", "replay", "q", "--policy-set-version", "sv")  # asked for: no failure


def test_a_refused_request_of_an_administrator(caracal: Caracal, stand_in: StandIn) -> None:
    more = {"method": "GET", "path": "/v1/zones", "error": "admin_token_zone_mismatch"}
    stand_in.answer = lambda asked: (200, [{**TRAIL[0], "metadata_json": more}])
    shown = caracal.run("audit", "list").stdout
    assert "GET /v1/zones" in shown
    assert "admin_token_zone_mismatch" in shown


def test_tail_outlasts_a_server_that_is_away(
    caracal: Caracal, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([200, 503, 503, 200, 401])

    def answer(asked: Asked) -> Answer:
        status = next(looks)
        return status, [TRAIL[0]] if status == 200 else {"error": "gone"}

    stand_in.answer = answer
    monkeypatch.setattr("caracal.client.client.Options.retries_of", lambda self, method: 0)
    result = caracal.run("audit", "tail", "--interval", "0.1", code=1)
    (line,) = result.stdout.splitlines()
    assert line.split()[1:] == ["deny", "token_exchange", "resource://docs"]
    first, last = result.stderr.splitlines()
    assert first == "caracal: gone: gone (request req-7); trying again"
    assert last == "caracal: gone: gone (request req-7)"
