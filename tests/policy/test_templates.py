"""The policy templates, as they stand, in the real engine: what each allows, and refuses."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.policy.check import advice_on, check_manifest
from caracal.policy.engine import Bundle, Decision, PolicyEngines
from caracal.policy.input_schema import input_warnings
from caracal.policy.samples import SAMPLES
from caracal.policy.templates import templates

APP = "018f3f54-7c1e-7000-8000-00000000000a"
LISTED = "00000000-0000-0000-0000-000000000000"
ZONE, RESOURCE, SESSION, AGENT, EDGE = "zone-1", "resource-1", "session-1", "agent-1", "edge-1"
GONE = object()

SCOPES = ["read", "list", "write", "delete", "admin", "export", "agent:lifecycle", "notes:read"]

FIRST: dict[str, Any] = {
    "principal": {
        "type": "Application",
        "id": APP,
        "zone_id": ZONE,
        "credential_type": "token",
        "agent_session_id": None,
    },
    "resource": {
        "type": "Resource",
        "id": RESOURCE,
        "identifier": "resource://example",
        "scopes": SCOPES,
    },
    "action": {"id": "TokenExchange"},
    "session": None,
    "delegation_edge": None,
    "context": {
        "actor_claims": {"caracal_client_id": APP},
        "subject_claims": {},
        "trace_id": "trace-1",
        "session_id": None,
        "agent_session_id": None,
        "delegation_edge_id": None,
        "challenge_resolved": False,
        "requested_scopes": ["read"],
        "http": None,
        "mcp": None,
    },
}
"""An application asks for its first token."""


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with values at dotted paths; GONE takes one away."""
    made = deepcopy(base)
    for path, value in changes.items():
        *steps, name = path.split(".")
        holder = made
        for step in steps:
            holder = holder[step]
        if value is GONE:
            del holder[name]
        else:
            holder[name] = value
    return made


CLAIMS = {
    "iss": "https://sts.example",
    "sub": APP,
    "sub_type": "application",
    "client_id": APP,
    "zone_id": ZONE,
    "sid": SESSION,
    "root_sid": SESSION,
    "use": "ambient",
    "iat": 1_764_100_800,
    "exp": 1_764_104_400,
}
CALL = changed(
    FIRST,
    {
        "session": {"id": SESSION},
        "context.session_id": SESSION,
        "context.subject_claims": CLAIMS,
        "context.http": {"method": "GET", "path": "/a"},
    },
)
"""The same application calls something through the Gateway."""

TOOL = changed(
    CALL,
    {
        "context.http": {"method": "POST", "path": "/mcp"},
        "context.mcp": {
            "method": "tools/call",
            "name": "search",
            "arguments_sha256": "0" * 64,
            "argument_keys": ["query"],
        },
    },
)
"""It calls a tool."""

DELEGATED = changed(
    CALL,
    {
        "principal.agent_session_id": AGENT,
        "context.agent_session_id": AGENT,
        "context.delegation_edge_id": EDGE,
        "delegation_edge": {
            "id": EDGE,
            "source_session_id": "agent-0",
            "target_session_id": AGENT,
            "issuer_application_id": "other",
            "receiver_application_id": APP,
            "resource_id": RESOURCE,
            "scopes": ["read", "write"],
            "edge_version": 0,
            "path": [EDGE],
            "graph_epoch": 7,
            "constraints_json": {"max_hops": 1},
        },
    },
)
"""An agent calls, with what was delegated to it."""

USER = "context.subject_claims"
PERSON = CLAIMS | {"sub_type": "user", "sub": "anybody@example.com"}
EDGE_AT = "delegation_edge"
ASKED = "context.requested_scopes"
METHOD, PATH, MCP = "context.http.method", "context.http.path", "context.mcp"

ALLOWED: dict[str, list[tuple[dict[str, Any], dict[str, Any], str]]] = {
    "role-based": [
        (FIRST, {}, "allow"),
        (FIRST, {ASKED: []}, "allow"),
        (FIRST, {ASKED: ["read", "agent:lifecycle"]}, "allow"),
        (CALL, {}, "allow"),
        (CALL, {USER: PERSON}, "allow"),
        (CALL, {"principal.id": LISTED, ASKED: ["write"]}, "allow"),
        (CALL, {USER: PERSON | {"sub": "someone@example.com"}, ASKED: ["admin"]}, "allow"),
        *((CALL, {"principal.credential_type": one}, "allow") for one in ("password", "url")),
    ],
    "attribute-based": [
        (FIRST, {}, "internal"),
        (FIRST, {ASKED: []}, "internal"),
        (CALL, {"principal.credential_type": "password"}, "internal"),
        (CALL, {METHOD: "POST", ASKED: ["write"]}, "internal"),
        (
            CALL,
            {METHOD: "POST", ASKED: ["write"], "resource.identifier": "resource://status-page"},
            "public",
        ),
        (
            CALL,
            {
                "resource.identifier": "resource://payroll",
                "principal.credential_type": "public-key",
            },
            "restricted",
        ),
        (TOOL, {}, "internal"),
        (TOOL, {f"{MCP}.name": "erase", ASKED: ["write"]}, "internal"),
        (TOOL, {MCP: {"method": "tools/list"}}, "internal"),
    ],
    "delegation": [
        (FIRST, {}, "own-authority"),
        (CALL, {ASKED: ["admin", "write"]}, "own-authority"),
        (FIRST, {"principal.agent_session_id": AGENT, ASKED: []}, "starting"),
        (FIRST, {"principal.agent_session_id": AGENT, ASKED: ["agent:lifecycle"]}, "starting"),
        (DELEGATED, {}, "delegated"),
        (DELEGATED, {ASKED: ["read", "write"]}, "delegated"),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.resource_id": None,
                f"{EDGE_AT}.constraints_json": {"resources": ["resource://example"]},
            },
            "delegated",
        ),
        (DELEGATED, {f"{EDGE_AT}.resource_id": None}, "delegated"),
    ],
    "baseline-scopes": [
        (FIRST, {}, "open"),
        (FIRST, {ASKED: []}, "open"),
        (CALL, {ASKED: ["read", "list"]}, "open"),
        (CALL, {"resource.identifier": "resource://notes", ASKED: ["write"]}, "open"),
    ],
    "baseline-resource-constraints": [
        (FIRST, {}, "open"),
        (CALL, {}, "open"),
        (CALL, {PATH: "/"}, "open"),
        (CALL, {PATH: "/administrators/"}, "open"),
        (CALL, {PATH: "/a.b/..c/v1.2"}, "open"),
        (
            CALL,
            {"resource.identifier": "resource://orders", METHOD: "POST", PATH: "/orders/7"},
            "open",
        ),
        (CALL, {"resource.identifier": "resource://orders", PATH: "/quotes"}, "open"),
        (TOOL, {MCP: {"method": "tools/list"}}, "open"),
        (TOOL, {MCP: {"method": "response"}}, "open"),
        (TOOL, {"resource.identifier": "resource://incidents"}, "open"),
    ],
    "baseline-delegation-constraints": [
        (FIRST, {}, "not-delegated"),
        (CALL, {ASKED: ["admin"]}, "not-delegated"),
        (DELEGATED, {}, "within"),
        (DELEGATED, {f"{EDGE_AT}.path": ["a", "b", EDGE]}, "within"),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.resource_id": None,
                f"{EDGE_AT}.constraints_json": {"resources": ["resource://example"]},
            },
            "within",
        ),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.constraints_json": {"budget": 2, "actions": ["GET", "search"]},
                ASKED: ["read", "write"],
            },
            "within",
        ),
        (
            DELEGATED,
            {
                "context.http": TOOL["context"]["http"],
                MCP: TOOL["context"]["mcp"],
                f"{EDGE_AT}.constraints_json": {"actions": ["search"]},
            },
            "within",
        ),
        (
            DELEGATED,
            {"context.http": None, f"{EDGE_AT}.constraints_json": {"actions": []}},
            "within",
        ),
    ],
    "baseline-session-state": [
        (FIRST, {}, "first-token"),
        (FIRST, {ASKED: ["read", "agent:lifecycle"]}, "first-token"),
        (CALL, {}, "in-session"),
        (CALL, {ASKED: ["delete"]}, "in-session"),
        (CALL, {USER: PERSON}, "in-session"),
        (DELEGATED, {}, "in-session"),
    ],
    "baseline-step-up-triggers": [
        (DELEGATED, {}, "open"),
        (FIRST, {"context.challenge_resolved": True}, "open"),
        (FIRST, {}, "open"),
        (FIRST, {ASKED: ["notes:read", "agent:lifecycle"]}, "open"),
        (CALL, {}, "open"),
        (TOOL, {}, "open"),
        (TOOL, {MCP: {"method": "tools/list"}}, "open"),
        (FIRST, {ASKED: ["write"], "context.challenge_resolved": True}, "resolved"),
        (CALL, {METHOD: "DELETE", "context.challenge_resolved": True}, "resolved"),
        (TOOL, {f"{MCP}.name": "erase", "context.challenge_resolved": True}, "resolved"),
    ],
    "baseline-rate-limits": [
        (FIRST, {}, "small"),
        (FIRST, {ASKED: SCOPES, "principal.id": LISTED}, "small"),
        (CALL, {}, "small"),
        (TOOL, {}, "small"),
        (TOOL, {f"{MCP}.name": "export", "principal.id": LISTED}, "small"),
    ],
}

REFUSED: dict[str, list[tuple[dict[str, Any], dict[str, Any], Any]]] = {
    "role-based": [
        (FIRST, {ASKED: ["write"]}, ["write"]),
        (CALL, {ASKED: ["read", "write", "admin"]}, ["admin", "write"]),
        (CALL, {"principal.id": LISTED, ASKED: ["admin"]}, ["admin"]),
        # who acts for a user has the user's roles, and a user is no application
        (CALL, {"principal.id": LISTED, USER: PERSON, ASKED: ["write"]}, ["write"]),
        (CALL, {USER: PERSON | {"sub": LISTED}, ASKED: ["write"]}, ["write"]),
        (CALL, {ASKED: []}, "no_rule_applies"),
        (CALL, {USER: PERSON | {"sub_type": "robot"}}, "no_rule_applies"),
        (CALL, {"principal.credential_type": "public"}, "no_rule_applies"),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
        (CALL, {"resource.scopes": []}, "no_rule_applies"),
    ],
    "attribute-based": [
        (TOOL, {METHOD: "GET", f"{MCP}.name": "erase"}, "no_rule_applies"),
        (
            FIRST,
            {"principal.credential_type": "password", ASKED: ["undeclared"]},
            "no_rule_applies",
        ),
        (
            FIRST,
            {ASKED: ["write"], "principal.credential_type": "password"},
            {"sensitivity": "internal", "use": "change"},
        ),
        (
            CALL,
            {"resource.identifier": "resource://payroll"},
            {"sensitivity": "restricted", "use": "read"},
        ),
        # what it does, whatever it says
        (CALL, {METHOD: "POST"}, "no_rule_applies"),
        (CALL, {METHOD: "DELETE"}, "no_rule_applies"),
        (TOOL, {f"{MCP}.name": "erase"}, "no_rule_applies"),
        (TOOL, {f"{MCP}.name": GONE}, "no_rule_applies"),
        (TOOL, {MCP: {"method": "tools/callMany", "name": "search"}}, "no_rule_applies"),
        (TOOL, {MCP: {"method": ""}}, "no_rule_applies"),
        (TOOL, {MCP: {"method": ""}, ASKED: ["write"]}, "no_rule_applies"),
        (CALL, {"principal.credential_type": "public"}, "no_rule_applies"),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "delegation": [
        (CALL, {"context.delegation_edge_id": EDGE}, "no_rule_applies"),
        (CALL, {EDGE_AT: DELEGATED[EDGE_AT]}, "no_rule_applies"),
        (
            FIRST,
            {"principal.agent_session_id": AGENT, EDGE_AT: DELEGATED[EDGE_AT]},
            "no_rule_applies",
        ),
        # an edge to nobody is not one to an application
        (
            DELEGATED,
            {"principal.agent_session_id": None, f"{EDGE_AT}.target_session_id": None},
            "no_rule_applies",
        ),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.resource_id": "resource-2",
                f"{EDGE_AT}.constraints_json": {"resources": ["resource://example"]},
            },
            "no_rule_applies",
        ),
        (DELEGATED, {ASKED: ["read", "admin"]}, ["admin"]),
        (FIRST, {"principal.agent_session_id": AGENT, ASKED: ["read"]}, ["read"]),
        # an agent without, or with another's delegation
        (CALL, {"principal.agent_session_id": AGENT}, "no_rule_applies"),
        (DELEGATED, {EDGE_AT: None}, "no_rule_applies"),
        (DELEGATED, {"principal.agent_session_id": None}, "no_rule_applies"),
        (DELEGATED, {"principal.agent_session_id": "agent-2"}, "no_rule_applies"),
        (DELEGATED, {"principal.id": "other"}, "no_rule_applies"),
        (DELEGATED, {"context.delegation_edge_id": "edge-2"}, "no_rule_applies"),
        (DELEGATED, {f"{EDGE_AT}.resource_id": "resource-2"}, "no_rule_applies"),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.resource_id": None,
                f"{EDGE_AT}.constraints_json": {"resources": ["resource://other"]},
            },
            "no_rule_applies",
        ),
        (
            DELEGATED,
            {f"{EDGE_AT}.resource_id": None, f"{EDGE_AT}.constraints_json": None},
            "no_rule_applies",
        ),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "baseline-scopes": [
        (FIRST, {ASKED: ["write"]}, ["write"]),
        (CALL, {ASKED: ["read", "admin", "delete"]}, ["admin", "delete"]),
        (CALL, {"resource.identifier": "resource://notes", ASKED: ["list"]}, ["list"]),
        (CALL, {ASKED: []}, "no_rule_applies"),
        (FIRST, {"resource.identifier": "resource://vault", ASKED: []}, "no_rule_applies"),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "baseline-resource-constraints": [
        (
            TOOL,
            {
                "resource.identifier": "resource://incidents",
                MCP: {"method": "tools/callMany", "name": "search"},
            },
            ["message_not_open"],
        ),
        (
            TOOL,
            {"resource.identifier": "resource://orders", MCP: {"method": "tools/list"}},
            "no_rule_applies",
        ),
        (CALL, {METHOD: "POST", ASKED: ["undeclared"]}, "no_rule_applies"),
        (CALL, {METHOD: "POST"}, ["method_not_open"]),
        (CALL, {METHOD: "get"}, ["method_not_open"]),
        (CALL, {PATH: "/admin"}, ["path_closed"]),
        (CALL, {PATH: "/Admin/users"}, ["path_closed"]),
        (CALL, {PATH: "/a/../b"}, ["path_not_plain"]),
        (CALL, {PATH: "/a/.."}, ["path_not_plain"]),
        (CALL, {PATH: "/./a"}, ["path_not_plain"]),
        (CALL, {PATH: "/a//b"}, ["path_not_plain"]),
        (CALL, {PATH: "/a%2fadmin"}, ["path_not_plain"]),
        (CALL, {PATH: "/a\\b"}, ["path_not_plain"]),
        (CALL, {PATH: "/a;b"}, ["path_not_plain"]),
        (CALL, {"resource.identifier": "resource://orders", PATH: "/ordersx"}, "no_rule_applies"),
        (CALL, {PATH: "a"}, "no_rule_applies"),
        (TOOL, {}, ["message_not_open"]),
        (
            TOOL,
            {"resource.identifier": "resource://incidents", f"{MCP}.name": "annotate"},
            ["message_not_open"],
        ),
        (
            TOOL,
            {"resource.identifier": "resource://incidents", f"{MCP}.name": GONE},
            ["message_not_open"],
        ),
        (TOOL, {MCP: {"method": ""}}, ["message_not_open"]),
        (TOOL, {MCP: {"method": "tools/callMany"}}, ["message_not_open"]),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "baseline-delegation-constraints": [
        (CALL, {EDGE_AT: DELEGATED[EDGE_AT]}, "no_rule_applies"),
        (DELEGATED, {f"{EDGE_AT}.resource_id": None, ASKED: ["undeclared"]}, "no_rule_applies"),
        (DELEGATED, {f"{EDGE_AT}.path": ["a", "b", "c", EDGE]}, ["chain_too_long"]),
        (DELEGATED, {f"{EDGE_AT}.resource_id": None}, ["edge_names_no_resource"]),
        (
            DELEGATED,
            {
                f"{EDGE_AT}.resource_id": None,
                f"{EDGE_AT}.constraints_json": {"policy_approved": True},
            },
            ["edge_names_no_resource"],
        ),
        (DELEGATED, {f"{EDGE_AT}.resource_id": "resource-2"}, ["other_resource"]),
        (
            DELEGATED,
            {f"{EDGE_AT}.constraints_json": {"resources": ["resource://other"]}},
            ["other_resource"],
        ),
        (
            DELEGATED,
            {f"{EDGE_AT}.constraints_json": {"budget": 1}, ASKED: ["read", "write"]},
            ["over_budget"],
        ),
        (DELEGATED, {ASKED: ["list"]}, ["scope_not_delegated"]),
        (DELEGATED, {ASKED: ["admin"], f"{EDGE_AT}.scopes": ["admin"]}, ["scope_never_delegated"]),
        (
            DELEGATED,
            {
                ASKED: [f"s{n}" for n in range(9)],
                "resource.scopes": [f"s{n}" for n in range(9)],
                f"{EDGE_AT}.scopes": [f"s{n}" for n in range(9)],
            },
            ["too_many_scopes"],
        ),
        (DELEGATED, {f"{EDGE_AT}.constraints_json": {"actions": ["POST"]}}, ["action_not_allowed"]),
        (DELEGATED, {f"{EDGE_AT}.constraints_json": {"actions": []}}, ["action_not_allowed"]),
        (
            DELEGATED,
            {
                "context.http": TOOL["context"]["http"],
                MCP: TOOL["context"]["mcp"],
                f"{EDGE_AT}.constraints_json": {"actions": ["POST"]},
            },
            ["action_not_allowed"],
        ),
        (DELEGATED, {"context.delegation_edge_id": "edge-2"}, "no_rule_applies"),
        (DELEGATED, {"principal.id": "other"}, "no_rule_applies"),
        (DELEGATED, {"principal.agent_session_id": "agent-2"}, "no_rule_applies"),
        (DELEGATED, {EDGE_AT: None}, "no_rule_applies"),
        (CALL, {"context.delegation_edge_id": EDGE}, "no_rule_applies"),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "baseline-session-state": [
        (FIRST, {"session": {}}, "no_rule_applies"),
        (FIRST, {"context.session_id": SESSION}, "no_rule_applies"),
        (CALL, {USER: CLAIMS | {"use": "per_call"}, ASKED: ["undeclared"]}, "no_rule_applies"),
        (FIRST, {ASKED: ["read", "write"]}, ["session_needed"]),
        (CALL, {"session": {"id": "session-2"}}, ["session_of_another_token"]),
        (CALL, {"context.session_id": "session-2"}, ["session_of_another_token"]),
        (CALL, {USER: CLAIMS | {"sid": "session-2"}}, ["session_of_another_token"]),
        (CALL, {USER: CLAIMS | {"zone_id": "zone-2"}}, ["session_of_another_zone"]),
        (CALL, {USER: CLAIMS | {"use": "per_call"}}, ["token_not_of_a_session"]),
        (CALL, {USER: CLAIMS | {"exp": CLAIMS["exp"] + 1}}, ["token_lives_too_long"]),
        (CALL, {USER: CLAIMS | {"exp": CLAIMS["iat"]}}, ["token_lives_too_long"]),
        (
            CALL,
            {USER: {}},
            [
                "session_of_another_token",
                "session_of_another_zone",
                "token_lives_too_long",
                "token_not_of_a_session",
            ],
        ),
        (CALL, {"session": None}, "no_rule_applies"),
        (FIRST, {"context.http": CALL["context"]["http"]}, "no_rule_applies"),
        (FIRST, {USER: CLAIMS}, "no_rule_applies"),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
    "baseline-step-up-triggers": [
        (FIRST, {ASKED: ["x:create"], "resource.scopes": ["x:create"]}, "step:human_approval"),
        (FIRST, {ASKED: ["x:update"], "resource.scopes": ["x:update"]}, "step:human_approval"),
        (TOOL, {MCP: {"method": "tools/callMany", "name": "search"}}, "step:human_approval"),
        (FIRST, {ASKED: ["write"]}, "step:human_approval"),
        (CALL, {METHOD: "POST"}, "step:human_approval"),
        (CALL, {METHOD: "DELETE"}, "step:mfa"),
        (CALL, {ASKED: ["write", "delete"]}, "step:mfa"),
        (TOOL, {f"{MCP}.name": "erase"}, "step:human_approval"),
        (TOOL, {f"{MCP}.name": GONE}, "step:human_approval"),
        (TOOL, {MCP: {"method": "tools/callMany"}}, "step:human_approval"),
        (DELEGATED, {ASKED: ["write"]}, "step:software_attestation"),
        (DELEGATED, {ASKED: ["write", "admin"]}, "step:mfa"),
        (CALL, {METHOD: "BREW"}, "no_rule_applies"),
        (TOOL, {MCP: {"method": ""}}, "no_rule_applies"),
        (TOOL, {MCP: {"method": ""}, "context.challenge_resolved": True}, "no_rule_applies"),
        (FIRST, {ASKED: ["export"], "context.challenge_resolved": True}, "scope_not_known"),
        (CALL, {ASKED: ["undeclared"]}, "scope_not_known"),
        (FIRST, {ASKED: ["write"], "context.challenge_resolved": "true"}, "no_rule_applies"),
    ],
    "baseline-rate-limits": [
        (FIRST, {MCP: {"method": "tools/list"}}, "no_rule_applies"),
        (CALL, {"context.http": {}}, "no_rule_applies"),
        (TOOL, {"context.http": {}}, "no_rule_applies"),
        (FIRST, {ASKED: ["export", "undeclared"]}, "no_rule_applies"),
        (
            FIRST,
            {ASKED: [f"s{n}" for n in range(9)], "resource.scopes": [f"s{n}" for n in range(9)]},
            ["too_many_scopes"],
        ),
        (FIRST, {ASKED: ["export"]}, ["expensive"]),
        (TOOL, {f"{MCP}.name": "reindex"}, ["expensive"]),
        (TOOL, {MCP: {"method": ""}}, ["batch_or_unreadable"]),
        (TOOL, {f"{MCP}.argument_keys": [str(n) for n in range(17)]}, ["too_many_arguments"]),
        (TOOL, {f"{MCP}.argument_keys": GONE}, ["too_many_arguments"]),
        (CALL, {PATH: "/" + "a" * 1024}, ["path_too_long"]),
        (CALL, {ASKED: ["undeclared"]}, "no_rule_applies"),
    ],
}

COMMON = ["action", "action.id", "principal", "principal.type", ASKED, "resource.scopes", "context"]
NEEDED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "role-based": (
        CALL,
        ["principal.credential_type", "principal.id", USER, f"{USER}.sub_type", "context.http"],
    ),
    "attribute-based": (
        TOOL,
        [
            "principal.credential_type",
            "resource.identifier",
            "context.http",
            MCP,
            f"{MCP}.method",
            f"{MCP}.name",
        ],
    ),
    "delegation": (
        DELEGATED,
        [
            EDGE_AT,
            *(
                f"{EDGE_AT}.{name}"
                for name in (
                    "id",
                    "receiver_application_id",
                    "scopes",
                    "target_session_id",
                    "resource_id",
                )
            ),
            "principal.id",
            "principal.agent_session_id",
            "context.delegation_edge_id",
        ],
    ),
    "baseline-scopes": (CALL, ["resource.identifier", "context.http"]),
    "baseline-resource-constraints": (
        CALL,
        ["resource.identifier", "context.http", METHOD, PATH, MCP],
    ),
    "baseline-delegation-constraints": (
        DELEGATED,
        [
            EDGE_AT,
            *(
                f"{EDGE_AT}.{name}"
                for name in (
                    "id",
                    "receiver_application_id",
                    "scopes",
                    "target_session_id",
                    "resource_id",
                    "path",
                    "constraints_json",
                )
            ),
            "principal.id",
            "principal.agent_session_id",
            "context.delegation_edge_id",
            "context.http",
            METHOD,
            MCP,
        ],
    ),
    "baseline-session-state": (
        CALL,
        [
            "session",
            "session.id",
            USER,
            "context.session_id",
            "principal.zone_id",
            *(f"{USER}.{name}" for name in ("sid", "zone_id", "use", "iat", "exp")),
        ],
    ),
    "baseline-step-up-triggers": (
        CALL,
        ["context.challenge_resolved", "context.http", METHOD, MCP],
    ),
    "baseline-rate-limits": (
        TOOL,
        ["principal.id", "context.http", PATH, MCP, f"{MCP}.method", f"{MCP}.argument_keys"],
    ),
}
"""An input that each allows, and what it must not allow without."""

ANY_OF_ITS_KIND: list[tuple[str, Any]] = [
    (f"{EDGE_AT}.constraints_json", {"a": 1}),
    (f"{EDGE_AT}.path", [1]),
    (f"{MCP}.argument_keys", [1]),
]

engines = PolicyEngines(1 << 26)


def decide(template_id: str, policy_input: dict[str, Any]) -> Decision:
    content = templates()[template_id].content
    return engines.evaluate(Bundle(template_id, ((template_id, content),)), policy_input)


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(template_id, *case, id=f"{template_id}-{number}")
        for template_id, rows in table.items()
        for number, case in enumerate(rows)
    ]


def test_the_tables_are_whole() -> None:
    assert set(ALLOWED) == set(REFUSED) == set(NEEDED) == set(templates())


@pytest.mark.parametrize("base", [FIRST, CALL, TOOL, DELEGATED])
def test_the_inputs_are_what_an_exchange_gives(base: dict[str, Any]) -> None:
    assert input_warnings(base, ZONE) == []


@pytest.mark.parametrize(("template_id", "base", "changes", "policy"), cases(ALLOWED))
def test_allowed(
    template_id: str, base: dict[str, Any], changes: dict[str, Any], policy: str
) -> None:
    found = decide(template_id, changed(base, changes))
    assert found == Decision(True, "allow", "complete", [f"{template_id}/{policy}"])


@pytest.mark.parametrize(("template_id", "base", "changes", "why"), cases(REFUSED))
def test_refused(template_id: str, base: dict[str, Any], changes: dict[str, Any], why: Any) -> None:
    found = decide(template_id, changed(base, changes))
    assert (found.allowed, found.decision, found.evaluation_status) == (False, "deny", "complete")
    assert found.determining_policies[0].startswith(f"{template_id}/")  # type: ignore[union-attr]
    assert told(found) == why


def told(decision: Decision) -> Any:
    (diagnostic,) = decision.diagnostics
    if decision.step_up is not None:
        return f"step:{decision.step_up}"
    reason = diagnostic.pop("reason")
    if reason == "credential_too_weak":
        return diagnostic
    return diagnostic.get("obstacles") or diagnostic.get("scopes") or reason


def needed() -> list[Any]:
    cases = [
        (template_id, base, path)
        for template_id, (call, paths) in NEEDED.items()
        for base, few in ((call, paths), (FIRST, []))
        for path in (*COMMON, *few)
    ]
    return [pytest.param(*case, id=f"{case[0]}-{case[2]}") for case in cases]


@pytest.mark.parametrize(("template_id", "base", "path"), needed())
def test_nothing_is_allowed_without(template_id: str, base: dict[str, Any], path: str) -> None:
    assert decide(template_id, base).allowed
    for value in (GONE, 1, [1], {"a": 1}, False if path != "context.challenge_resolved" else 0):
        changes = {path: value}
        if (path, value) in ANY_OF_ITS_KIND:
            continue
        assert not decide(template_id, changed(base, changes)).allowed, value


@given(st.data())
def test_nothing_is_allowed_without_several(data: st.DataObject) -> None:
    template_id = data.draw(st.sampled_from(list(NEEDED)))
    base, paths = NEEDED[template_id]
    chosen = data.draw(st.sets(st.sampled_from([*COMMON, *paths]), min_size=1))
    made = deepcopy(base)
    for path in chosen:
        *steps, name = path.split(".")
        holder: Any = made
        for step in steps:
            holder = holder.get(step, {}) if isinstance(holder, dict) else {}
        if isinstance(holder, dict):
            holder.pop(name, None)
    assert not decide(template_id, made).allowed


ASKING = ("attribute-based", "baseline-resource-constraints", "baseline-step-up-triggers")
MESSAGES = (
    *("initialize", "ping", "response", "tools/list", "prompts/list", "prompts/get"),
    *("resources/list", "resources/read", "resources/templates/list", "resources/subscribe"),
    *("resources/unsubscribe", "completion/complete", "logging/setLevel"),
    *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    "notifications/roots/list_changed",
)


@pytest.mark.parametrize("template_id", ASKING)
def test_what_a_client_of_mcp_says_besides_tool_calls_is_open(template_id: str) -> None:
    for method in MESSAGES:
        assert decide(template_id, changed(TOOL, {MCP: {"method": method}})).allowed, method
        assert not decide(template_id, changed(TOOL, {MCP: {"method": f"{method}x"}})).allowed


@pytest.mark.parametrize("template_id", templates())
def test_nothing_at_all_is_denied_by_default(template_id: str) -> None:
    why = [{"reason": "no_rule_applies"}]
    expected = Decision(False, "deny", "complete", [f"{template_id}/default"], why)
    assert decide(template_id, {}) == expected


@pytest.mark.parametrize("template_id", templates())
def test_the_largest_request_has_a_decision(template_id: str) -> None:
    assert decide(template_id, SAMPLES[-1]).evaluation_status == "complete"


@pytest.mark.parametrize("template_id", templates())
async def test_each_passes_the_upload_check_without_a_warning(template_id: str) -> None:
    content = templates()[template_id].content
    await check_manifest([content])
    assert await advice_on(content) == []


@pytest.mark.parametrize("template_id", templates())
def test_each_says_what_it_is_and_what_to_adapt(template_id: str) -> None:
    template = templates()[template_id]
    assert 20 < len(template.description) < 400
    assert template.name[0].isupper()
    assert re.search(r"^# As it stands", template.content, re.MULTILINE)
    assert re.search(r"^# Adapt: ", template.content, re.MULTILINE)
    assert template.content.isascii()
    # OPA reads all comment lines that follow as YAML: what else is said stands apart.
    head = template.content.partition("\n\n")[0].splitlines()
    assert head[:2] == ["# METADATA", f"# title: {template.name}"]
    assert all(line.startswith(("# description: >-", "#   ")) for line in head[2:])


def test_the_rate_template_says_what_it_cannot_do() -> None:
    content = templates()["baseline-rate-limits"].content
    assert "does not count" in content
    assert "rate_limit" in content
