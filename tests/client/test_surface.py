"""What users and their tools see: names, types, texts, and what an import costs."""

from __future__ import annotations

import ast
import copy
import doctest
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

import httpx
import pytest
from mypy import api as mypy

import caracal
import caracal.client
from caracal.client import (
    NULL,
    AdminApiError,
    AdminCancelledError,
    AdminClient,
    AdminTransportError,
    AsyncAdminClient,
    CaracalError,
    errors,
    types,
)
from caracal.client.call import api
from caracal.client.sync import Sync
from tests.client.both import CONFIGURED, Client, Kind, Script, ok, refused

ROOT = Path(__file__).parents[2]
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.iter_modules(caracal.client.__path__, "caracal.client.")
]


# --- what §9 of the contract says ---------------------------------------------------------


async def test_an_input_that_is_refused(kind: Kind) -> None:
    body = {"error": "invalid_input", "detail": "bad slug"}
    script = Script(refused(400, body, X_Request_Id="r1"))
    with pytest.raises(AdminApiError) as raised:
        await Client(kind, script).call("zones.create", {"name": "n", "slug": "!"})
    error = raised.value
    assert (error.status, error.code, error.body) == (400, "invalid_input", body)
    assert (error.request_id, str(error)) == ("r1", "invalid_input (HTTP 400)")
    assert len(script.requests) == 1


async def test_a_failure_in_plain_text(kind: Kind) -> None:
    with pytest.raises(AdminApiError) as raised:
        await Client(kind, Script(httpx.Response(500, text="oops")), retries=0).call("zones.list")
    assert (raised.value.code, raised.value.body) == ("Internal Server Error", "oops")


async def test_a_retry_after_is_waited_for(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    script = Script(refused(429, Retry_After="2"), ok([]))
    client = Client(kind, script)
    driver = client.client._driver
    outcome = driver._outcome

    def noting(attempt: Any) -> Any:
        waited.append(attempt.after)
        return outcome(attempt)

    monkeypatch.setattr(driver, "_outcome", noting)
    began = time.monotonic()
    assert await client.call("zones.list") == []
    assert (waited, time.monotonic() - began >= 2) == ([0, 2], True)


async def test_revoke_passes_the_body_on(kind: Kind) -> None:
    body = {"revoked_edges": 2, "affected_sessions": 1, "terminated_agents": 4, "more": [1]}
    script = Script(ok(body))
    assert await Client(kind, script).call("delegations.revoke", "z1", "e1") == body
    assert script.requests[0].method == "PATCH"


@pytest.mark.parametrize("method", ["agents.list", "agents.iter", "delegations.active"])
async def test_without_a_coordinator(kind: Kind, method: str) -> None:
    script = Script()
    for missing, code in (
        ({"coordinator_url": None, "coordinator_token": None}, "coordinator_url_not_configured"),
        ({"coordinator_url": None}, "coordinator_url_not_configured"),
        ({"coordinator_url": ""}, "coordinator_url_not_configured"),
        ({"coordinator_token": None}, "coordinator_token_not_configured"),
        ({"coordinator_token": ""}, "coordinator_token_not_configured"),
    ):
        with pytest.raises(CaracalError, match=code) as raised:
            await Client(kind, script, **missing).call(method, "z1")
        assert (type(raised.value), raised.value.code) == (CaracalError, code)
    assert script.requests == []


async def test_positions_are_learnt(kind: Kind) -> None:
    pending = {"Caracal_Position": "41", "Caracal_Consistency": "pending", "X_Request_Id": "r"}
    script = Script(ok({"id": "z"}, **pending), ok([]), ok([]), ok({"suspended": True}))
    client = Client(kind, script)
    await client.call("zones.create", {"name": "n"})
    assert (client.client.last_position, client.client.last_request_id) == (41, "r")
    await client.call("zones.list")
    await client.call("agents.list", "z")
    await client.call("agents.suspend", "z", "a")
    asked = [request.headers.get("Caracal-Min-Position") for request in script.requests]
    assert asked == [None, "41", "41", None]


# --- names and texts ------------------------------------------------------------------------


def test_the_public_names() -> None:
    public = {name for name, thing in vars(caracal.client).items() if name[0].isupper()}
    assert public | {"discover_admin_token"} == set(caracal.client.__all__)
    assert (Path(caracal.__file__).parent / "py.typed").exists()


def test_every_type_is_exported() -> None:
    declared = {
        name
        for module in MODULES
        for name, thing in vars(module).items()
        if is_typeddict(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    }
    assert declared - set(types.__all__) == set()
    for name in declared:
        get_type_hints(getattr(types, name))
        assert getattr(types, name).__doc__


def test_every_namespace_shows_an_example() -> None:
    spaces = [type(thing) for thing in vars(AdminClient(**CONFIGURED)).values()]
    for which in (AdminClient, AsyncAdminClient, *spaces):
        if which is not Sync:
            examples = doctest.DocTestParser().get_examples(which.__doc__ or "")
            assert examples, f"{which.__name__} shows no example"
            for example in examples:
                compile(example.source, which.__name__, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("which", [AdminClient, AsyncAdminClient])
def test_no_text_of_a_client_has_its_tokens(which: type[Any]) -> None:
    secrets = {"admin_token": "SECRET-1", "coordinator_token": "SECRET-2"}
    client = which(**{**CONFIGURED, **secrets})
    things = [client, client.zones, client._driver, client._driver.core.options]
    things.append(next(client._driver.core.answer(api("GET", "zones"))))
    texts = [f"{thing!r} {thing} {vars(type(thing)).get('__doc__')}" for thing in things]
    assert "SECRET" not in " ".join(texts)
    assert repr(client) == f"{which.__name__}(api_url='http://api', coordinator_url='http://coord')"


@pytest.mark.parametrize(
    "error",
    [
        AdminApiError(409, "c", {"error": "c"}, description="d", request_id="r", position=3),
        AdminTransportError("admin_request_failed", "why"),
        AdminCancelledError(),
    ],
)
def test_errors_survive_a_pickle(error: CaracalError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))


def test_the_codes_of_the_contract() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper()}
    assert codes == {
        "coordinator_url_not_configured",
        "coordinator_token_not_configured",
        "admin_request_timeout",
        "admin_request_failed",
        "admin_request_cancelled",
        "invalid_response",
        "request_failed",
    }


def test_null_says_what_it_is() -> None:
    assert (repr(NULL), copy.copy(NULL) is NULL) == ("NULL", True)


# --- what tools see -----------------------------------------------------------------------

SNIPPET = """
from collections.abc import AsyncIterator, Iterator
from typing import assert_type
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from caracal.client import (
    NULL, AdminClient, AsyncAdminClient, Caracal, Page, SyncCaracal, discover_admin_token,
)
from caracal.client.acting import CreatedDelegationEdge
from caracal.client.gateway import GatewayTransport, SyncGatewayTransport
from caracal.client.runtime import Delegated
import httpx
from caracal.client.types import (
    ActiveDelegationEdge, AgentSession, Application, AuditDetail, AuditEvent, Grant,
    IssuedToken,
    PolicyWithVersion, PolicyWithVersions, Policy, Resource, RevokedDelegation, Session, Zone,
)

def sync(client: AdminClient) -> None:
    assert_type(client.zones.list(), list[Zone])
    assert_type(client.zones.list_page(limit=3), Page[Zone])
    assert_type(client.zones.iter(), Iterator[Zone])
    assert_type(client.zones.get("z")["dcr_enabled"], bool)
    assert_type(client.zones.delete("z"), None)
    assert_type(client.applications.list("z"), list[Application])
    assert_type(client.resources.patch("z", "r", {"upstream_url": NULL}), Resource)
    assert_type(client.policies.list("z"), list[Policy])
    assert_type(client.policies.get("z", "p"), PolicyWithVersions)
    assert_type(client.policies.create("z", {"name": "n", "content": "c"}), PolicyWithVersion)
    assert_type(client.grants.list("z", status="active", scopes=["a"]), list[Grant])
    assert_type(client.audit.list("z", {"decision": "deny"}), list[AuditEvent])
    assert_type(client.audit.by_request("z", "r"), list[AuditDetail])
    assert_type(client.agents.list("z"), list[AgentSession])
    assert_type(client.delegations.active("z"), list[ActiveDelegationEdge])
    assert_type(client.delegations.revoke("z", "e"), RevokedDelegation)
    assert_type(client.bootstrap(force=True)["rotated"], bool)
    assert_type(client.last_position, int | None)

async def asynchronous(client: AsyncAdminClient) -> None:
    assert_type(await client.zones.list(), list[Zone])
    assert_type(await client.zones.list_page(), Page[Zone])
    assert_type(client.zones.iter(), AsyncIterator[Zone])
    assert_type(await client.zones.delete("z"), None)
    assert_type(await client.applications.get(zone_id="z", id="a"), Application)
    assert_type(await client.sessions.list("z", limit=3), list[Session])
    assert_type(await client.policies.get("z", "p"), PolicyWithVersions)
    assert_type(await client.bootstrap(), LocalBootstrapResult)

def wrong(client: AdminClient, later: AsyncAdminClient) -> None:
    client.zones.get(5)  # E: arg-type
    client.zones.create({"slug": "no-name"})  # E: typeddict-item
    client.zones.create({"name": "n", "extra": 1})  # E: typeddict-unknown-key
    client.applications.list("z", most=1)  # E: call-arg
    client.audit.list("z", decision="maybe")  # E: arg-type
    client.zones.get("z")["title"]  # E: misc
    later.zones.get("z")["name"]  # E: index
    AdminClient("http://api", "t")  # E: call-arg

def agents(caracal: SyncCaracal) -> None:
    assert_type(SyncCaracal.from_env(dpop=True), SyncCaracal)
    assert_type(caracal.spawn(kind="service"), AbstractContextManager[AgentSession])
    with caracal.spawn() as agent, caracal.delegate(agent, scopes=["read"]) as edge:
        assert_type(agent, AgentSession)
        assert_type(edge, CreatedDelegationEdge)
    with caracal.delegate_to_spawn(scopes=["read"]) as (child, edge):
        assert_type(child, AgentSession)
    assert_type(caracal.mandate("r", scopes=["read"], challenge_id="c"), IssuedToken)
    assert_type(caracal.headers("GET", "http://u"), dict[str, str])
    assert_type(caracal.tokens.token(), str)
    assert_type(caracal.http(), httpx.Client)
    assert_type(caracal.transport(), SyncGatewayTransport)

async def later_agents(caracal: Caracal) -> None:
    assert_type(Caracal.from_env(), Caracal)
    assert_type(caracal.spawn(), AbstractAsyncContextManager[AgentSession])
    async with caracal.delegate_to_spawn(scopes=["read"]) as made:
        assert_type(made, Delegated)
    async with caracal.delegate("a", scopes=["read"], revoke=True) as edge:
        assert_type(edge, CreatedDelegationEdge)
    assert_type(await caracal.mandate("r", ttl_seconds=5), IssuedToken)
    assert_type(await caracal.headers(), dict[str, str])
    assert_type(await caracal.tokens.token(), str)
    assert_type(caracal.http(), httpx.AsyncClient)
    assert_type(caracal.transport(), GatewayTransport)

def wrong_agents(caracal: SyncCaracal, later: Caracal) -> None:
    caracal.spawn(kind="daemon")  # E: arg-type
    caracal.spawn(ttl="5")  # E: call-arg
    caracal.delegate_to_spawn()  # E: call-arg
    caracal.mandate("r", scopes=5)  # E: arg-type
    later.mandate("r")["access_token"]  # E: index
    caracal.tokens.token().decode()  # E: attr-defined
    SyncCaracal.from_env(5)  # E: arg-type
    SyncCaracal(zone_id="z")  # E: call-arg
""".replace("RevokedDelegation,", "LocalBootstrapResult, RevokedDelegation,")


def test_type_checkers_see_exact_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    out, _, _ = mypy.run(["--strict", "--hide-error-context", "--no-error-summary", str(snippet)])
    wanted = {
        (number, line.partition("# E: ")[2])
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        if "# E: " in line
    }
    found = set(re.findall(r"snippet\.py:(\d+): error: .*\[([\w-]+)\]", out))
    assert {(int(number), code) for number, code in found} == wanted, out


def test_an_import_brings_no_server() -> None:
    script = """
import sys, caracal.client
heavy = {"fastapi", "starlette", "psycopg", "redis", "pydantic", "aiohttp", "eventsourcing"}
ours = [m for m in sys.modules if m.startswith("caracal.") and not m.startswith("caracal.client")]
print(sorted(heavy & set(sys.modules)), sorted(ours))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = ["caracal.clock", "caracal.errors", "caracal.ids", "caracal.tasks", "caracal.trace"]
    assert done.stdout.strip() == f"[] {ours}"
