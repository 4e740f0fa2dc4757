"""``caracal provider-grant``, beside a user who consents at a real provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from caracal.cli import provider_grant
from caracal.cli.show import Output
from tests.api.consenting import Case, Desk, desk
from tests.api.running import OPERATOR, Plane
from tests.backbone import eventually
from tests.cli.caracal import Caracal

Commands = Callable[[Case], Caracal]


@pytest.fixture(scope="module")
async def users(api: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk(api, tmp_path_factory.mktemp("oauth")) as made:
        yield made


@pytest.fixture
def commands(users: Desk, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in the zone of a case; they do not wait long between two looks."""
    users.server.forget()
    monkeypatch.setattr(provider_grant, "POLL_SECONDS", 0.02)
    where = {"CARACAL_API_URL": users.api.url, "CARACAL_ADMIN_TOKEN": OPERATOR}
    return lambda case: Caracal(where | {"CARACAL_ZONE": case.zone})


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a command says beside its output, as it says it."""
    lines: list[str] = []
    monkeypatch.setattr(Output, "note", lambda self, line: lines.append(line))
    return lines


async def consent(users: Desk, case: Case, noted: list[str]) -> None:
    """Do what the command asks the user to do."""

    async def url() -> str | None:
        return next((line for line in noted if line.startswith("https://")), None)

    found = await eventually(url, what="the address")
    assert found is not None
    await users.back(await users.consent(Case(case.zone, {}, {}, case.grant, found)))


async def test_connecting_waits_for_the_user(
    users: Desk, commands: Commands, noted: list[str]
) -> None:
    case = await users.granted()
    new = (
        *("--app", case.grant["application_id"], "--resource", case.resource["id"]),
        *("--scope", "read", "--user", "ada"),
    )
    waiting = asyncio.create_task(commands(case).ajson("provider-grant", "connect", *new))
    await consent(users, case, noted)
    connected = await waiting
    assert connected["id"] != case.id
    assert connected["credential_status"] == "stored"
    assert "for nobody else" in noted[0]
    caracal = commands(case)
    assert await caracal.ajson("provider-grant", "get", connected["id"]) == connected
    revoked = await caracal.ajson("provider-grant", "revoke", connected["id"])
    assert (revoked["status"], revoked["provider_revoked"]) == ("revoked", True)
    line = await caracal.arefused("provider-grant", "connect", connected["id"])
    assert line.startswith("grant_not_found: ")


async def test_connecting_again_what_is_there(
    users: Desk, commands: Commands, noted: list[str]
) -> None:
    case = await users.granted()
    waiting = asyncio.create_task(commands(case).arun("provider-grant", "connect", case.id))
    await consent(users, case, noted)
    assert "connected" in (await waiting).stdout


async def test_a_user_who_says_no(users: Desk, commands: Commands, noted: list[str]) -> None:
    users.server.consent = {"error": "access_denied", "code": None}
    case = await users.granted()
    waiting = asyncio.create_task(commands(case).arefused("provider-grant", "connect", case.id))
    await consent(users, case, noted)
    assert (await waiting).startswith("authorization_denied: ")


async def test_what_connecting_needs(users: Desk, commands: Commands) -> None:
    case = await users.granted()
    caracal = commands(case)
    line = await caracal.arefused("provider-grant", "connect", "--user", "ada", code=2)
    assert line.startswith("missing_option: name a grant, or --app")
    asked = await caracal.ajson("provider-grant", "authorize", case.id)
    assert asked["authorization_url"].startswith(users.server.issuer)
    line = await caracal.arefused(
        "provider-grant", "authorize", case.id, "--return-to", "https://a.example"
    )
    assert line.startswith("return_to_not_allowed: ")
    assert line.endswith("; `caracal provider patch` sets allowed_return_urls")
    made = await caracal.ajson(
        *("provider-grant", "create", "--app", case.grant["application_id"]),
        *("--resource", case.resource["id"], "--scope", "read", "--user", "ada"),
    )
    assert made["credential_status"] == "none"
