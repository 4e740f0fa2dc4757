"""What each command asks of the server: every method of the client has its command."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from caracal.cli import main
from caracal.cli.lazy import LazyGroup
from caracal.client import AdminClient
from caracal.client.method import Method, Namespace
from tests.cli.caracal import Caracal
from tests.cli.stand_in import Answer, Asked, StandIn

Z = "/v1/zones/z1"
W = "/zones/z1"
ZONE = {"id": "z1", "slug": "one", "name": "One"}

# command, what it asks, with which body, what it is answered
REQUESTS: list[tuple[str, str, Any, Any]] = [
    ("zone list", "GET /v1/zones", None, [ZONE]),
    ("zone get one", "GET /v1/zones/z1", None, ZONE),
    (
        "zone create --name One --slug one --dcr-enabled --no-pkce-required",
        "POST /v1/zones",
        {"name": "One", "slug": "one", "dcr_enabled": True, "pkce_required": False},
        ZONE,
    ),
    (
        "zone patch z1 --gateway-only",
        "PATCH /v1/zones/z1",
        {"gateway_only": True},
        ZONE,
    ),
    (
        "zone patch z1 --no-dcr-enabled --dcr-shutdown revoke_live",
        "PATCH /v1/zones/z1",
        {"dcr_enabled": False, "dcr_shutdown": "revoke_live"},
        ZONE,
    ),
    ("zone delete One", "DELETE /v1/zones/z1", None, None),
    ("zone dcr-status z1", "GET /v1/zones/z1/dcr-status", None, {"dcr_enabled": True}),
    ("zone rotate-signing-key z1", "POST /v1/zones/z1/signing-key/rotate", None, {"kid": "k"}),
    ("app list", f"GET {Z}/applications", None, []),
    ("app get a", f"GET {Z}/applications/a", None, {"id": "a"}),
    (
        "app create --name A --credential-type token --trait x --trait y --consent required",
        f"POST {Z}/applications",
        {"name": "A", "credential_type": "token", "traits": ["x", "y"], "consent": "required"},
        {"id": "a", "client_secret": "cs_1"},
    ),
    ("app patch a --name B --clear jwks", f"PATCH {Z}/applications/a",
     {"name": "B", "jwks": None}, {"id": "a"}),
    ("app delete a", f"DELETE {Z}/applications/a", None, None),
    (
        "app dcr --name D --expires-in 60",
        f"POST {Z}/applications/dcr",
        {"name": "D", "expires_in": 60},
        {"id": "d"},
    ),
    ("resource list", f"GET {Z}/resources", None, []),
    ("resource get r", f"GET {Z}/resources/r", None, {"id": "r"}),
    (
        "resource create --identifier resource://r --scope a --scope b"
        ' --rate-limit {"max_requests":1}',
        f"POST {Z}/resources",
        {"identifier": "resource://r", "scopes": ["a", "b"], "rate_limit": {"max_requests": 1}},
        {"id": "r"},
    ),
    (
        "resource patch r --provider p --gateway-app a",
        f"PATCH {Z}/resources/r",
        {"provider_id": "p", "gateway_application_id": "a"},
        {"id": "r"},
    ),
    (
        "resource patch r --clear upstream-url --clear provider_id --prefix-match",
        f"PATCH {Z}/resources/r",
        {"prefix_match": True, "upstream_url": None, "provider_id": None},
        {"id": "r"},
    ),
    ("resource delete r", f"DELETE {Z}/resources/r", None, None),
    ("provider list", f"GET {Z}/providers", None, []),
    ("provider get p", f"GET {Z}/providers/p", None, {"id": "p"}),
    (
        'provider create --identifier p --kind oidc --config {"a":1} --secret-config {"s":"t"}',
        f"POST {Z}/providers",
        {"identifier": "p", "kind": "oidc", "config_json": {"a": 1}, "secret_config": {"s": "t"}},
        {"id": "p"},
    ),
    ('provider patch p --secret-config {"s":null}', f"PATCH {Z}/providers/p",
     {"secret_config": {"s": None}}, {"id": "p"}),
    ("provider delete p", f"DELETE {Z}/providers/p", None, None),
    ("issuer list", f"GET {Z}/trusted-issuers", None, []),
    ("issuer get i", f"GET {Z}/trusted-issuers/i", None, {"id": "i"}),
    (
        "issuer create --issuer https://login.example --audience a --audience b --map-claim groups"
        ' --required-claims {"hd":"corp"} --app p --no-single-use --session-seconds 600',
        f"POST {Z}/trusted-issuers",
        {
            "issuer": "https://login.example",
            "audiences": ["a", "b"],
            "mapped_claims": ["groups"],
            "required_claims": {"hd": "corp"},
            "application_ids": ["p"],
            "single_use": False,
            "session_seconds": 600,
        },
        {"id": "i"},
    ),
    (
        "issuer patch i --algorithm ES256 --clear jwks_uri",
        f"PATCH {Z}/trusted-issuers/i",
        {"algorithms": ["ES256"], "jwks_uri": None},
        {"id": "i"},
    ),
    ("issuer delete i", f"DELETE {Z}/trusted-issuers/i", None, None),
    (
        "issuer user-id i ada",
        f"POST {Z}/trusted-issuers/i/user-id",
        {"subject": "ada"},
        {"user_id": "usr_1"},
    ),
    ("policy list", f"GET {Z}/policies", None, []),
    ("policy get p", f"GET {Z}/policies/p", None, {"id": "p", "versions": []}),
    (
        "policy create --name P --file policy.rego --description d",
        f"POST {Z}/policies",
        {"name": "P", "content": "package x\n", "description": "d"},
        {"id": "p", "version": {"id": "v", "version": 1}},
    ),
    (
        "policy add-version p policy.rego",
        f"POST {Z}/policies/p/versions",
        {"content": "package x\n", "schema_version": "2026-03-16"},
        {"id": "v"},
    ),
    ("policy delete p", f"DELETE {Z}/policies/p", None, None),
    ("policy validate policy.rego --remote", "POST /v1/policies/validate",
     {"content": "package x\n"}, {"valid": True, "warnings": ["w"]}),
    ("policy-set list", f"GET {Z}/policy-sets", None, []),
    ("policy-set get s", f"GET {Z}/policy-sets/s", None, {"id": "s"}),
    ("policy-set create --name S", f"POST {Z}/policy-sets", {"name": "S"}, {"id": "s"}),
    (
        "policy-set add-version s v1 v2",
        f"POST {Z}/policy-sets/s/versions",
        {"manifest": [{"policy_version_id": "v1"}, {"policy_version_id": "v2"}]},
        {"id": "sv"},
    ),
    ("policy-set get-version s sv", f"GET {Z}/policy-sets/s/versions/sv", None, {"id": "sv"}),
    (
        "policy-set activate s sv --shadow sw --no-wait",
        f"POST {Z}/policy-sets/s/activate",
        {"version_id": "sv", "shadow_version_id": "sw"},
        {"activated": True},
    ),
    (
        'policy-set simulate s sv -i {"a":1}',
        f"POST {Z}/policy-sets/s/simulate",
        {"version_id": "sv", "input": {"a": 1}},
        {"would_activate": True},
    ),
    (
        "policy-set activation-status s sv --position 7",
        f"GET {Z}/policy-sets/s/activation-status?version_id=sv&position=7",
        None,
        {"propagation_status": "loaded"},
    ),
    ("policy-set delete s", f"DELETE {Z}/policy-sets/s", None, None),
    (
        "grant list --app a --user u --resource r --provider p --status active --scopes x,y",
        f"GET {Z}/grants?application_id=a&user_id=u&resource_id=r&provider_id=p&status=active"
        "&scopes=x%2Cy",
        None,
        [],
    ),
    ("grant get g", f"GET {Z}/grants/g", None, {"id": "g"}),
    (
        "grant create --app a --resource r --scope x --user u",
        f"POST {Z}/grants",
        {"application_id": "a", "resource_id": "r", "scopes": ["x"], "user_id": "u"},
        {"id": "g"},
    ),
    ("grant revoke g", f"DELETE {Z}/grants/g", None, None),
    ("provider-grant get g", f"GET {Z}/provider-grants/g", None, {"id": "g"}),
    (
        "provider-grant create --app a --resource r --scope x --user u",
        f"POST {Z}/provider-grants",
        {"application_id": "a", "resource_id": "r", "scopes": ["x"], "user_id": "u"},
        {"id": "g"},
    ),
    (
        "provider-grant authorize g --return-to https://a.example",
        f"POST {Z}/provider-grants/oauth/authorize",
        {"grant_id": "g", "return_to": "https://a.example"},
        {"authorization_url": "https://p.example"},
    ),
    (
        "provider-grant revoke g",
        f"POST {Z}/provider-grants/revoke",
        {"grant_id": "g"},
        {"id": "g", "provider_revoked": True},
    ),
    (
        "session list --status revoked --subject u",
        f"GET {Z}/sessions?status=revoked&subject=u",
        None,
        [],
    ),
    (
        "audit list --since 2026-05-11T20:00:00Z --decision deny --request-id q",
        f"GET {Z}/audit?since=2026-05-11T20%3A00%3A00Z&decision=deny&request_id=q",
        None,
        [],
    ),
    ("audit show q", f"GET {Z}/audit/by-request/q", None, []),
    ("audit explain q", f"GET {Z}/audit/by-request/q/explain", None, {"final_decision": "deny"}),
    (
        "audit replay q --policy-set-version sv",
        f"GET {Z}/audit/by-request/q/replay?policy_set_version=sv",
        None,
        {"identical": False},
    ),
    ("audit retention", "GET /v1/audit-retention", None, {"retention_days": 365}),
    ("audit retention --days 30", "PUT /v1/audit-retention", {"retention_days": 30},
     {"retention_days": 30}),
    (
        "admin-audit list --entity-type grants --status-code 403",
        f"GET {Z}/admin-audit?entity_type=grants&status_code=403",
        None,
        [],
    ),
    ("token list", "GET /v1/admin-tokens", None, []),
    (
        "token create --name T --scope zone --zone one --capability read",
        "POST /v1/admin-tokens",
        {"name": "T", "scope": "zone", "zone_id": "z1", "capability": "read"},
        {"id": "t", "token": "cat_1"},
    ),
    ("token revoke t", "DELETE /v1/admin-tokens/t", None, None),
    ("challenge list", f"GET {Z}/step-up-challenges", None, []),
    ("challenge get c", f"GET {Z}/step-up-challenges/c", None, {"id": "c"}),
    (
        "challenge satisfy c --approver u",
        f"POST {Z}/step-up-challenges/c/satisfy",
        {"approver_subject_id": "u"},
        {"id": "c"},
    ),
    ("template list", "GET /v1/policy-templates", None, []),
    ("template get t", "GET /v1/policy-templates/t", None, {"id": "t", "content": "package x\n"}),
    ("bootstrap --force", "POST /v1/local/bootstrap", {"force": True}, {"zone_id": "z1"}),
    ("agent list", f"GET {W}/agents", None, []),
    ("agent list --status active --root a", f"GET {W}/agents?status=active&root=a", None, []),
    ("agent get a", f"GET {W}/agents/a", None, {"id": "a"}),
    ("agent children a", f"GET {W}/agents/a/children", None, []),
    ("agent effective-authority a", f"GET {W}/agents/a/effective-authority", None, {"id": "a"}),
    ("agent suspend a", f"PATCH {W}/agents/a/suspend", None, {"suspended": True}),
    ("agent resume a", f"PATCH {W}/agents/a/resume", None, {"resumed": True}),
    ("agent terminate a --reason done", f"DELETE {W}/agents/a?reason=done", None, None),
    ("delegation list", f"GET {W}/delegations", None, []),
    ("delegation active", f"GET {W}/delegations/active", None, []),
    ("delegation inbound a", f"GET {W}/delegations/inbound/a", None, []),
    ("delegation outbound a", f"GET {W}/delegations/outbound/a", None, []),
    ("delegation traverse d", f"GET {W}/delegations/d/traverse", None, []),
    ("delegation impact d", f"GET {W}/delegations/d/impact", None, {"id": "d"}),
    ("delegation revoke d", f"PATCH {W}/delegations/d/revoke", None, {"revoked_edges": 2}),
]  # fmt: skip


@pytest.fixture
def caracal(stand_in: StandIn, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Caracal:
    (tmp_path / "policy.rego").write_text("package x\n")
    monkeypatch.chdir(tmp_path)
    return Caracal(
        {
            "CARACAL_API_URL": stand_in.url,
            "CARACAL_COORDINATOR_URL": stand_in.url,
            "CARACAL_ADMIN_TOKEN": "admin-token",
            "CARACAL_COORDINATOR_TOKEN": "coordinator-token",
            "CARACAL_ZONE": "one",
        }
    )


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("command", "request_line", "body", "answer"), REQUESTS)
def test_a_command_asks(
    caracal: Caracal,
    stand_in: StandIn,
    command: str,
    request_line: str,
    body: Any,
    answer: Any,
    as_json: bool,
) -> None:
    def answered(asked: Asked) -> Answer:
        if (asked.method, asked.path) == ("GET", "/v1/zones"):
            return 200, [ZONE]  # which zone is meant
        if asked.path.endswith("/explain") and "explain" not in request_line:
            return 404, {"error": "not_found"}
        return (204 if answer is None else 200), answer

    stand_in.answer = answered
    if as_json:
        document = caracal.json(*command.split())
        assert document == answer or answer is None or command.startswith("audit show")
    else:
        caracal.run(*command.split())
    (asked,) = [each for each in stand_in.asked if f"{each.method} {each.path}" == request_line]
    assert asked.body == body
    at_coordinator = asked.path.startswith(W)
    assert asked.token == ("coordinator-token" if at_coordinator else "admin-token")


# --- completeness ------------------------------------------------------------------------------

_GROUPS = {
    "applications": "app",
    "admin_tokens": "token",
    "step_up_challenges": "challenge",
    "policy_templates": "template",
    "trusted_issuers": "issuer",
}
_COMMANDS = {"audit by-request": "audit show", "audit set-retention": "audit retention"}
_ALSO = {"list-page", "iter"}  # ways to list


def methods() -> set[str]:
    """Every method of the client, as the command that it should have."""
    with AdminClient(api_url="http://api", admin_token="t") as client:
        spaces = {n: s for n, s in vars(client).items() if isinstance(s, Namespace)}
    found = set()
    for name, space in spaces.items():
        group = _GROUPS.get(name) or name.replace("_", "-").replace("policies", "policy")
        for method in dir(type(space)):
            if isinstance(getattr(type(space), method), Method):
                found.add(f"{group.removesuffix('s')} {method.replace('_', '-')}")
    return {_COMMANDS.get(name, name) for name in found if name.split()[1] not in _ALSO}


def commands() -> set[str]:
    """Every command in a group."""
    root: Any = get_command(main)
    assert isinstance(root, LazyGroup)
    groups = {name: place.load(name) for name, place in root.places.items()}
    return {
        f"{name} {command}"
        for name, group in groups.items()
        for command in getattr(group, "commands", ())
    }


def test_every_method_has_a_command() -> None:
    assert "policy-set activate" in methods()
    assert methods() - commands() == set()


def test_every_command_is_tried() -> None:
    tried = {" ".join(command.split()[:2]) for command, *_ in REQUESTS}
    elsewhere = {
        *("dead list", "dead show", "dead replay"),
        *("policy test", "policy activate", "audit tail", "provider-grant connect"),
        *("agent tree", "delegation graph", "audit verify"),
    }
    assert commands() - tried == elsewhere


def test_input_comes_from_files_and_standard_input(
    caracal: Caracal, stand_in: StandIn, tmp_path: Any
) -> None:
    stand_in.answer = lambda asked: (200, [ZONE] if asked.method == "GET" else {"id": "a"})
    (tmp_path / "keys.json").write_text('{"keys": []}')
    made = ("app", "create", "--name", "A", "--jwks", "@keys.json", "--client-secret", "-")
    caracal.run(*made, given="s3cret")
    assert stand_in.asked[-1].body == {
        "name": "A",
        "jwks": {"keys": []},
        "client_secret": "s3cret",
    }
    caracal.run("policy", "create", "--name", "P", "--file", "-", given="package y\n")
    assert stand_in.asked[-1].body["content"] == "package y\n"


def test_a_list_stops_at_its_limit(caracal: Caracal, stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [{**ZONE, "id": str(n)} for n in range(5)])
    assert [zone["id"] for zone in caracal.json("zone", "list", "--limit", "3")] == ["0", "1", "2"]


def test_secrets_are_shown_as_such(caracal: Caracal, stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, {"id": "t", "token": "cat_1"})
    shown = caracal.run("token", "create", "--name", "T", "--scope", "global").stdout
    assert "cat_1  (shown this once: keep it now)" in shown


def test_without_a_zone_the_admin_audit_is_of_all(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [])
    Caracal({"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t"}).run(
        "admin-audit", "list"
    )
    assert [asked.path for asked in stand_in.asked] == ["/v1/admin-audit"]


def test_what_changes_something_is_asked_once(caracal: Caracal, stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (503, {"error": "unavailable"})
    caracal.refused("zone", "create", "--name", "A", code=3)
    assert len(stand_in.asked) == 1
