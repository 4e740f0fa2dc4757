"""Every method: what it sends, with whose token, and what it makes of the answer."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from caracal.client import NULL, AdminClient, AsyncAdminClient, Page
from caracal.client.method import Each, Method, Namespace
from caracal.services.api.app import routes
from caracal.services.api.door import is_callback
from tests.client.both import API, CONFIGURED, COORDINATOR, Client, Kind, Script, ok

Z, W = "/v1/zones/z1", "/zones/z1"
ONE: dict[str, Any] = {"id": "i", "new": True}
GIVEN = {"name": "n"}
NO_BODY = object()


def crud(plural: str) -> Iterator[tuple[str, tuple[Any, ...], str, Any, Any]]:
    """The five methods of a thing that can be edited."""
    name, path = plural, f"{Z}/{plural}"
    yield f"{name}.list", ("z1",), f"GET {path}", NO_BODY, [ONE]
    yield f"{name}.get", ("z1", "i"), f"GET {path}/i", NO_BODY, ONE
    yield f"{name}.create", ("z1", GIVEN), f"POST {path}", GIVEN, ONE
    yield f"{name}.patch", ("z1", "i", GIVEN), f"PATCH {path}/i", GIVEN, ONE
    yield f"{name}.delete", ("z1", "i"), f"DELETE {path}/i", NO_BODY, None


TABLE: list[tuple[str, tuple[Any, ...], str, Any, Any]] = [
    ("zones.list", (), "GET /v1/zones", NO_BODY, [ONE]),
    ("zones.get", ("z1",), f"GET {Z}", NO_BODY, ONE),
    ("zones.create", (GIVEN,), "POST /v1/zones", GIVEN, ONE),
    ("zones.patch", ("z1", GIVEN), f"PATCH {Z}", GIVEN, ONE),
    ("zones.delete", ("z1",), f"DELETE {Z}", NO_BODY, None),
    ("zones.dcr_status", ("z1",), f"GET {Z}/dcr-status", NO_BODY, ONE),
    ("zones.rotate_signing_key", ("z1",), f"POST {Z}/signing-key/rotate", NO_BODY, ONE),
    *crud("applications"),
    ("applications.dcr", ("z1", GIVEN), f"POST {Z}/applications/dcr", GIVEN, ONE),
    *crud("resources"),
    *crud("providers"),
    *(
        (name.replace("-", "_"), arguments, wire, body, answer)
        for name, arguments, wire, body, answer in crud("trusted-issuers")
    ),
    (
        "trusted_issuers.user_id",
        ("z1", "i", "ada"),
        f"POST {Z}/trusted-issuers/i/user-id",
        {"subject": "ada"},
        {"user_id": "usr_1"},
    ),
    ("policies.list", ("z1",), f"GET {Z}/policies", NO_BODY, [ONE]),
    ("policies.get", ("z1", "i"), f"GET {Z}/policies/i", NO_BODY, ONE),
    ("policies.create", ("z1", GIVEN), f"POST {Z}/policies", GIVEN, ONE),
    (
        "policies.add_version",
        ("z1", "i", "package p"),
        f"POST {Z}/policies/i/versions",
        {"content": "package p", "schema_version": "2026-03-16"},
        ONE,
    ),
    ("policies.delete", ("z1", "i"), f"DELETE {Z}/policies/i", NO_BODY, None),
    (
        "policies.validate",
        ("package p",),
        "POST /v1/policies/validate",
        {"content": "package p"},
        ONE,
    ),
    ("policy_templates.list", (), "GET /v1/policy-templates", NO_BODY, [ONE]),
    ("policy_templates.get", ("i",), "GET /v1/policy-templates/i", NO_BODY, ONE),
    ("policy_sets.list", ("z1",), f"GET {Z}/policy-sets", NO_BODY, [ONE]),
    ("policy_sets.get", ("z1", "i"), f"GET {Z}/policy-sets/i", NO_BODY, ONE),
    ("policy_sets.create", ("z1", "n"), f"POST {Z}/policy-sets", {"name": "n"}, ONE),
    (
        "policy_sets.create",
        ("z1", "n", "d"),
        f"POST {Z}/policy-sets",
        {"name": "n", "description": "d"},
        ONE,
    ),
    (
        "policy_sets.add_version",
        ("z1", "i", [{"policy_version_id": "pv"}]),
        f"POST {Z}/policy-sets/i/versions",
        {"manifest": [{"policy_version_id": "pv"}]},
        ONE,
    ),
    (
        "policy_sets.get_version",
        ("z1", "i", "v"),
        f"GET {Z}/policy-sets/i/versions/v",
        NO_BODY,
        ONE,
    ),
    (
        "policy_sets.activate",
        ("z1", "i", "v"),
        f"POST {Z}/policy-sets/i/activate",
        {"version_id": "v"},
        ONE,
    ),
    (
        "policy_sets.activate",
        ("z1", "i", "v", "s"),
        f"POST {Z}/policy-sets/i/activate",
        {"version_id": "v", "shadow_version_id": "s"},
        ONE,
    ),
    (
        "policy_sets.simulate",
        ("z1", "i", "v", {"principal": {"x": None}}),
        f"POST {Z}/policy-sets/i/simulate",
        {"version_id": "v", "input": {"principal": {"x": None}}},
        ONE,
    ),
    (
        "policy_sets.activation_status",
        ("z1", "i", "v", 7),
        f"GET {Z}/policy-sets/i/activation-status?version_id=v&position=7",
        NO_BODY,
        ONE,
    ),
    ("policy_sets.delete", ("z1", "i"), f"DELETE {Z}/policy-sets/i", NO_BODY, None),
    ("grants.list", ("z1",), f"GET {Z}/grants", NO_BODY, [ONE]),
    (
        "grants.list",
        ("z1", {"status": "active", "scopes": ["a:b", "c"]}),
        f"GET {Z}/grants?status=active&scopes=a%3Ab%2Cc",
        NO_BODY,
        [ONE],
    ),
    ("grants.get", ("z1", "i"), f"GET {Z}/grants/i", NO_BODY, ONE),
    ("grants.create", ("z1", GIVEN), f"POST {Z}/grants", GIVEN, ONE),
    ("grants.revoke", ("z1", "i"), f"DELETE {Z}/grants/i", NO_BODY, None),
    ("provider_grants.get", ("z1", "i"), f"GET {Z}/provider-grants/i", NO_BODY, ONE),
    ("provider_grants.create", ("z1", GIVEN), f"POST {Z}/provider-grants", GIVEN, ONE),
    (
        "provider_grants.authorize",
        ("z1", "i"),
        f"POST {Z}/provider-grants/oauth/authorize",
        {"grant_id": "i"},
        ONE,
    ),
    (
        "provider_grants.authorize",
        ("z1", "i", "https://a.example"),
        f"POST {Z}/provider-grants/oauth/authorize",
        {"grant_id": "i", "return_to": "https://a.example"},
        ONE,
    ),
    (
        "provider_grants.revoke",
        ("z1", "i"),
        f"POST {Z}/provider-grants/revoke",
        {"grant_id": "i"},
        ONE,
    ),
    ("sessions.list", ("z1",), f"GET {Z}/sessions", NO_BODY, [ONE]),
    (
        "sessions.list",
        ("z1", {"subject": "a b", "status": None, "limit": 3}),
        f"GET {Z}/sessions?subject=a%20b&limit=3",
        NO_BODY,
        [ONE],
    ),
    ("audit.list", ("z1",), f"GET {Z}/audit", NO_BODY, [ONE]),
    (
        "audit.list",
        ("z1", {"decision": "deny", "event_type": "", "limit": 50}),
        f"GET {Z}/audit?decision=deny&limit=50",
        NO_BODY,
        [ONE],
    ),
    ("audit.by_request", ("z1", "r"), f"GET {Z}/audit/by-request/r", NO_BODY, [ONE]),
    ("audit.explain", ("z1", "r"), f"GET {Z}/audit/by-request/r/explain", NO_BODY, ONE),
    ("audit.replay", ("z1", "r"), f"GET {Z}/audit/by-request/r/replay", NO_BODY, ONE),
    (
        "audit.replay",
        ("z1", "r", "v"),
        f"GET {Z}/audit/by-request/r/replay?policy_set_version=v",
        NO_BODY,
        ONE,
    ),
    ("audit.retention", (), "GET /v1/audit-retention", NO_BODY, ONE),
    ("audit.set_retention", (30,), "PUT /v1/audit-retention", {"retention_days": 30}, ONE),
    ("step_up_challenges.list", ("z1",), f"GET {Z}/step-up-challenges", NO_BODY, [ONE]),
    ("step_up_challenges.get", ("z1", "i"), f"GET {Z}/step-up-challenges/i", NO_BODY, ONE),
    (
        "step_up_challenges.satisfy",
        ("z1", "i"),
        f"POST {Z}/step-up-challenges/i/satisfy",
        NO_BODY,
        ONE,
    ),
    (
        "step_up_challenges.satisfy",
        ("z1", "i", "ada"),
        f"POST {Z}/step-up-challenges/i/satisfy",
        {"approver_subject_id": "ada"},
        ONE,
    ),
    ("admin_tokens.list", (), "GET /v1/admin-tokens", NO_BODY, [ONE]),
    ("admin_tokens.create", (GIVEN,), "POST /v1/admin-tokens", GIVEN, ONE),
    ("admin_tokens.revoke", ("i",), "DELETE /v1/admin-tokens/i", NO_BODY, None),
    ("admin_audit.list", (), "GET /v1/admin-audit", NO_BODY, [ONE]),
    (
        "admin_audit.list",
        ("z1", {"actor": "t", "status_code": 403}),
        f"GET {Z}/admin-audit?actor=t&status_code=403",
        NO_BODY,
        [ONE],
    ),
    ("agents.list", ("z1",), f"GET {W}/agents", NO_BODY, [ONE]),
    ("agents.get", ("z1", "i"), f"GET {W}/agents/i", NO_BODY, ONE),
    ("agents.children", ("z1", "i"), f"GET {W}/agents/i/children", NO_BODY, [ONE]),
    ("agents.suspend", ("z1", "i"), f"PATCH {W}/agents/i/suspend", NO_BODY, ONE),
    ("agents.resume", ("z1", "i"), f"PATCH {W}/agents/i/resume", NO_BODY, ONE),
    ("agents.terminate", ("z1", "i"), f"DELETE {W}/agents/i", NO_BODY, None),
    ("agents.terminate", ("z1", "i", "done"), f"DELETE {W}/agents/i?reason=done", NO_BODY, None),
    (
        "agents.effective_authority",
        ("z1", "i"),
        f"GET {W}/agents/i/effective-authority",
        NO_BODY,
        ONE,
    ),
    ("delegations.list", ("z1",), f"GET {W}/delegations", NO_BODY, [ONE]),
    ("delegations.active", ("z1",), f"GET {W}/delegations/active", NO_BODY, [ONE]),
    ("delegations.inbound", ("z1", "s"), f"GET {W}/delegations/inbound/s", NO_BODY, [ONE]),
    ("delegations.outbound", ("z1", "s"), f"GET {W}/delegations/outbound/s", NO_BODY, [ONE]),
    ("delegations.traverse", ("z1", "i"), f"GET {W}/delegations/i/traverse", NO_BODY, [ONE]),
    ("delegations.impact", ("z1", "i"), f"GET {W}/delegations/i/impact", NO_BODY, ONE),
    ("delegations.revoke", ("z1", "i"), f"PATCH {W}/delegations/i/revoke", NO_BODY, ONE),
    ("bootstrap", (), "POST /v1/local/bootstrap", {"force": False}, ONE),
    ("bootstrap", (True,), "POST /v1/local/bootstrap", {"force": True}, ONE),
]


@pytest.mark.parametrize(("name", "given", "asked", "body", "result"), TABLE)
async def test_what_is_sent(
    kind: Kind, name: str, given: tuple[Any, ...], asked: str, body: Any, result: Any
) -> None:
    script = Script(httpx.Response(204) if result is None else ok(result))
    assert await Client(kind, script).call(name, *given) == result
    (request,) = script.requests
    base, token = (COORDINATOR, "c") if f" {W}" in asked else (API, "t")
    method, _, target = asked.partition(" ")
    assert (request.method, str(request.url)) == (method, base + target)
    assert request.headers["Authorization"] == f"Bearer {token}"
    if body is NO_BODY:
        assert (request.content, request.headers.get("Content-Type")) == (b"", None)
    else:
        assert request.headers["Content-Type"] == "application/json"
        assert json.loads(request.content) == body


def methods() -> Iterator[str]:
    """Every method that the clients have, by the name that callers use."""
    client = AdminClient(**CONFIGURED)
    spaces = {"": client} | {
        f"{name}.": space for name, space in vars(client).items() if isinstance(space, Namespace)
    }
    client.close()
    for prefix, space in spaces.items():
        for name, thing in inspect.getmembers_static(type(space)):
            if isinstance(thing, Method | Each):
                assert inspect.getdoc(getattr(space, name)), f"{prefix}{name} says nothing"
                yield f"{prefix}{name}"


def test_the_table_has_every_method() -> None:
    listed = {name for name, *_ in TABLE}
    derived = {
        name.removesuffix("list") + more
        for name in listed
        if name.endswith(".list")
        for more in ("list_page", "iter")
    }
    assert set(methods()) == listed | derived | {"delegations.iter_active"}


def test_every_route_has_a_method() -> None:
    asked = [asked.partition("?")[0] for _, _, asked, _, _ in TABLE]
    missing = [
        f"{method.upper()} {path}: add it to caracal/client, and to TABLE here"
        for path, operations in routes().openapi()["paths"].items()
        for method in operations
        if path.startswith("/v1/")
        and not is_callback(path)  # for browsers
        and not any(re.fullmatch(_pattern(f"{method.upper()} {path}"), one) for one in asked)
    ]
    assert missing == []


def _pattern(route: str) -> str:
    return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route))


@pytest.mark.parametrize("name", sorted({name for name, *_ in TABLE if name.endswith(".list")}))
async def test_every_list_has_pages_and_an_iterator(kind: Kind, name: str) -> None:
    space = name.removesuffix("list")
    zone = [] if space in ("zones.", "policy_templates.", "admin_tokens.") else ["z1"]
    link = '</v1/zones/z1/x?limit=1&cursor=C>; rel="next"'
    script = Script(ok([ONE], Link=link), ok([ONE], Link=link), ok([ONE]))
    client = Client(kind, script)
    page = await client.call(f"{space}list_page", *zone, limit=1, cursor="B")
    assert page == Page([ONE], "C")
    assert script.urls[0].endswith("?limit=1&cursor=B")
    assert await client.call(f"{space}iter", *zone) == [ONE, ONE]


def test_both_clients_have_the_same_methods() -> None:
    for name, space in vars(AdminClient(**CONFIGURED)).items():
        if isinstance(space, Namespace):
            assert type(space) is type(vars(AsyncAdminClient(**CONFIGURED))[name])


@pytest.mark.parametrize(
    ("zone_id", "path"),
    [
        ("a/b?c#d", b"/v1/zones/a%2Fb%3Fc%23d"),
        ("a%2Fb", b"/v1/zones/a%252Fb"),
        ("ü x", b"/v1/zones/%C3%BC%20x"),
        ("a.b-c_d~e", b"/v1/zones/a.b-c_d~e"),
        ("...", b"/v1/zones/..."),
    ],
)
async def test_an_id_is_one_segment(kind: Kind, zone_id: str, path: bytes) -> None:
    script = Script(ok(ONE))
    await Client(kind, script).call("zones.get", zone_id)
    assert script.requests[0].url.raw_path == path


@pytest.mark.parametrize("zone_id", ["", ".", ".."])
async def test_an_id_that_would_change_the_path(kind: Kind, zone_id: str) -> None:
    for method in ("zones.delete", "agents.list"):
        with pytest.raises(ValueError, match="an id must not be"):
            await Client(kind, Script()).call(method, zone_id)


async def test_none_is_left_out_and_null_is_sent(kind: Kind) -> None:
    script = Script(ok(ONE), ok(ONE))
    client = Client(kind, script)
    patch = {"name": None, "upstream_url": NULL, "scopes": ["a"], "rate_limit": {"x": None}}
    await client.call("resources.patch", "z1", "r", patch)
    body = '{"upstream_url":null,"scopes":["a"],"rate_limit":{"x":null}}'
    assert script.requests[0].content == body.encode()
    await client.call("providers.patch", "z1", "p", {"secret_config": {"old": NULL, "new": "s"}})
    assert script.requests[1].content == b'{"secret_config":{"old":null,"new":"s"}}'


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
async def test_what_json_cannot_say_is_not_sent(kind: Kind, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        await Client(kind, Script()).call("zones.create", {"name": value})


async def test_queries_as_keywords(kind: Kind) -> None:
    script = Script(ok([]), ok([]), ok([]))
    client = Client(kind, script)
    await client.call("audit.list", "z1", decision="deny", since="2026-01-01T00:00:00+01:00")
    await client.call("audit.list", "z1", {"limit": 1}, until=None, limit=2)
    await client.call("grants.list", "z1", scopes="a,b")
    assert [url.partition("?")[2] for url in script.urls] == [
        "decision=deny&since=2026-01-01T00%3A00%3A00%2B01%3A00",
        "limit=2",
        "scopes=a%2Cb",
    ]
    for name in ("audit.list", "audit.iter", "grants.list_page", "sessions.list"):
        with pytest.raises(TypeError, match="decided"):
            await client.call(name, "z1", decided="deny")


@pytest.mark.parametrize("url", ["http://api", "http://api/", "http://api:80"])
async def test_the_base_may_end_with_a_slash(kind: Kind, url: str) -> None:
    script = Script(ok([]), ok([]))
    client = Client(kind, script, api_url=url, coordinator_url="http://coord/base/")
    await client.call("zones.list")
    await client.call("agents.list", "z1")
    assert script.urls == ["http://api/v1/zones", "http://coord/base/zones/z1/agents"]


async def test_a_given_http_client_cannot_change_whose_call_it_is() -> None:
    script = Script(httpx.Response(302, headers={"Location": "http://evil/"}))
    http = httpx.Client(
        transport=httpx.MockTransport(script),
        auth=("someone", "else"),
        headers={"X-Trace": "1", "Authorization": "Basic none"},
        follow_redirects=True,
    )
    client = AdminClient(api_url=API, admin_token="t", http_client=http)
    with pytest.raises(Exception, match=r"Found \(HTTP 302\)"):
        client.zones.list()
    (request,) = script.requests
    assert (request.headers["Authorization"], request.headers["X-Trace"]) == ("Bearer t", "1")
