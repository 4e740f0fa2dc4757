"""Commands against the running control plane, on real servers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.api.policies import REGO
from tests.api.running import Plane
from tests.api.test_audit import decided, recorded
from tests.backbone import eventually
from tests.cli.caracal import Caracal

At = Callable[..., Caracal]


async def test_a_zone_from_its_beginning_to_its_end(api: Plane, at: At) -> None:
    caracal = at()
    zone = await caracal.ajson("zone", "create", "--name", "Acme")
    assert zone["name"] == "Acme"
    assert zone in await caracal.ajson("zone", "list")
    assert await caracal.ajson("zone", "get", zone["slug"]) == zone
    changed = await caracal.ajson("zone", "patch", zone["id"], "--name", "B", "--dcr-enabled")
    assert (changed["name"], changed["dcr_enabled"]) == ("B", True)
    key = await caracal.ajson("zone", "rotate-signing-key", "B")
    assert key["version"] == 2
    client = await caracal.ajson("app", "dcr", "--name", "bot", "--zone", zone["slug"])
    assert client["registration_method"] == "dcr"
    status = await caracal.ajson("zone", "dcr-status", zone["id"])
    assert status["live_dcr_applications"] == 1
    off = ("zone", "patch", zone["id"], "--no-dcr-enabled")
    line = await caracal.arefused(*off)
    assert line.startswith("dcr_shutdown_required: ")
    assert line.endswith("; say --dcr-shutdown keep_live or revoke_live")
    assert not (await caracal.ajson(*off, "--dcr-shutdown", "revoke_live"))["dcr_enabled"]
    assert await caracal.ajson("zone", "delete", zone["id"]) == {"id": zone["id"], "deleted": True}
    line = await caracal.arefused("zone", "get", zone["id"])
    assert line.startswith("zone_not_found: ")
    assert line.endswith("; `caracal zone list` shows the zones")


async def test_what_lives_in_a_zone(api: Plane, at: At) -> None:
    caracal = at(await api.zone())
    app = await caracal.ajson("app", "create", "--name", "A", "--credential-type", "token")
    assert app["client_secret"].startswith("cs_")
    resource = await caracal.ajson(
        *("resource", "create", "--identifier", "resource://r", "--scope", "read"),
        *("--rate-limit", '{"window_seconds": 1, "max_requests": 2}'),
    )
    cleared = await caracal.ajson("resource", "patch", resource["id"], "--clear", "rate-limit")
    assert (resource["rate_limit"]["max_requests"], cleared["rate_limit"]) == (2, None)
    granted = ("grant", "create", "--app", app["id"], "--resource", resource["id"], "--scope")
    grant = await caracal.ajson(*granted, "read")
    assert (await caracal.ajson("grant", "list", "--status", "active"))[0] == grant
    assert "grant_scopes_exceed_resource" in await caracal.arefused(*granted, "admin")
    revoked = await caracal.ajson("grant", "revoke", grant["id"])
    assert revoked == {"id": grant["id"], "revoked": True}
    assert (await caracal.ajson("grant", "get", grant["id"]))["status"] == "revoked"
    assert await caracal.ajson("session", "list", "--status", "active") == []
    assert await caracal.ajson("challenge", "list") == []
    assert (await caracal.arefused("challenge", "satisfy", "c")).startswith("challenge_not_found")
    line = await caracal.arefused("app", "patch", app["id"])
    assert line.startswith("no_fields: ")
    assert line.endswith("; name at least one member to change")
    await caracal.arun("app", "delete", app["id"])
    assert await caracal.ajson("app", "list") == []


async def test_a_provider(api: Plane, at: At, tmp_path: Path) -> None:
    caracal = at(await api.zone())
    (tmp_path / "secret.json").write_text('{"client_secret": "s3cret"}')
    made = await caracal.arun(
        *("provider", "create", "--identifier", "p", "--kind", "oauth2", "--client-id", "c"),
        *("--config", '{"token_url": "https://idp.example/token"}'),
        *("--secret-config", f"@{tmp_path}/secret.json", "--json"),
    )
    assert "s3cret" not in made.output
    provider = json.loads(made.stdout)
    assert provider["secret_config_keys"] == ["client_secret"]
    bare = await caracal.ajson(
        "provider", "patch", provider["id"], "--secret-config", '{"client_secret": null}'
    )
    assert bare["secret_config_keys"] == []
    assert (await caracal.ajson("provider", "list"))[0]["id"] == provider["id"]
    assert (await caracal.ajson("provider", "delete", provider["id"]))["deleted"]


async def test_templates_are_valid(api: Plane, at: At) -> None:
    caracal = at()
    templates = await caracal.ajson("template", "list")
    content = (await caracal.arun("template", "get", templates[0]["id"])).stdout
    assert (await caracal.ajson("policy", "validate", "-", given=content))["valid"]
    told = await caracal.ajson("policy", "validate", "-", "--remote", given=content)
    assert told["valid"]
    assert told["output_contract"]


async def test_policies_come_into_force(api: Plane, at: At, tmp_path: Path) -> None:
    caracal, file = at(await api.zone()), tmp_path / "policy.rego"
    file.write_text(REGO)
    made = ("policy", "create", "--name", "p", "--file", str(file))
    policy = await caracal.ajson(*made)
    file.write_text(f"{REGO}# two\n")
    second = await caracal.ajson("policy", "add-version", policy["id"], str(file))
    shown = await caracal.arun("policy", "get", policy["id"])
    assert second["id"] in shown.stdout
    assert policy["version"]["id"] in shown.stdout
    content = await caracal.arun("policy", "get", policy["id"], "--content", "--version", "1")
    assert content.stdout == REGO
    newest = await caracal.arun("policy", "get", policy["id"], "--content")
    assert newest.stdout == f"{REGO}# two\n"
    assert "no version 3" in await caracal.arefused(
        "policy", "get", policy["id"], "--content", "--version", "3"
    )
    policies = await caracal.ajson("policy-set", "create", "--name", "s")
    version = await caracal.ajson("policy-set", "add-version", policies["id"], second["id"])
    found = await caracal.ajson("policy-set", "get-version", policies["id"], version["id"])
    assert found["manifest_json"] == [{"policy_version_id": second["id"]}]
    tried = await caracal.ajson("policy-set", "simulate", policies["id"], version["id"], "-i", "{}")
    assert (tried["would_activate"], tried["result"]["decision"]) == (True, "deny")
    activate = ("policy", "activate", policies["id"], version["id"])
    activated = await caracal.ajson(*activate, "--no-wait")
    assert activated["activated"] is True
    status = await caracal.ajson("policy-set", "activation-status", policies["id"])
    assert (status["active"], status["version_id"]) == (True, version["id"])
    waited = await caracal.ajson(*activate, "--timeout", "0", code=1)  # there is no STS to load it
    assert waited["propagation_status"].startswith("waiting_for_")
    assert (await caracal.ajson("policy-set", "list"))[0]["active_version_id"] == version["id"]
    file.write_text("package other\n")
    line = await caracal.arefused(*made)
    assert line.startswith("invalid_rego: the package must be caracal.authz")
    assert (await caracal.ajson("policy-set", "delete", policies["id"]))["deleted"]
    assert (await caracal.ajson("policy", "delete", policy["id"]))["deleted"]


async def test_the_trail_of_a_request(api: Plane, at: At) -> None:
    zone = await api.zone()
    caracal = at(zone)
    denied = decided(
        zone,
        1,
        decision="deny",
        determining_policies_json=["p/deny"],
        diagnostics_json=[{"reason": "no"}],
        metadata_json={"resource": "resource://r", "reason": "not granted"},
    )
    await recorded(api, [decided(zone, 0), denied])
    (listed,) = await caracal.ajson("audit", "list", "--decision", "deny")
    assert listed["id"] == denied.id
    table = await caracal.arun("audit", "list")
    assert "not granted" in table.stdout
    shown = await caracal.arun("audit", "show", denied.request_id)
    assert "p/deny" in shown.stdout
    assert "diagnostics: reason=no" in shown.stdout
    document = await caracal.ajson("audit", "show", denied.request_id)
    assert [entry["id"] for entry in document["trail"]] == [denied.id]
    assert document["explanation"]["final_decision"] == "deny"
    assert "final decision: deny" in shown.stdout
    explained = await caracal.arun("audit", "explain", denied.request_id)
    assert "p/deny" in explained.stdout
    # No policy was asked: that it would be the same again is not shown.
    replayed = await caracal.ajson("audit", "replay", denied.request_id, code=1)
    assert (replayed["decisions"], len(replayed["not_replayed"])) == ([], 1)
    line = await caracal.arefused("audit", "explain", denied.request_id, "--input")
    assert line.startswith("no_policy_input: ")
    assert (await caracal.ajson("audit", "retention"))["retention_days"] >= 1
    line = await caracal.arefused("audit", "retention", "--days", "1000000")
    assert line.startswith("retention_above_limit: ")
    line = await caracal.arefused("audit", "show", "nothing")
    assert line.startswith("request_not_found: ")


async def test_what_administrators_did(api: Plane, at: At) -> None:
    zone = await api.zone()
    app = await at(zone).ajson("app", "create", "--name", "A")
    await at(zone).arun("app", "patch", app["id"], "--name", "B")

    async def found() -> list[Any]:
        given = ("--entity-type", "applications")
        return list(await at(zone).ajson("admin-audit", "list", *given))

    (request,) = await eventually(found)
    assert (request["entity_id"], request["method"]) == (app["id"], "PATCH")
    everywhere = await at().ajson("admin-audit", "list", "--limit", "3")
    assert len(everywhere) == 3


# --- which zone is meant -----------------------------------------------------------------------


async def test_a_zone_by_id_slug_or_name(api: Plane, at: At) -> None:
    zone = await api.made("/zones", {"name": "By name", "slug": "by-slug"})
    app = await api.application(zone["id"])
    for named in (zone["id"], "by-slug", "By name"):
        (found,) = await at().ajson("app", "list", "--zone", named)
        assert found["id"] == app["id"]
        assert await at(named).ajson("app", "get", app["id"]) == found


async def test_a_zone_that_is_not_clear(api: Plane, at: At) -> None:
    await api.zone(name="twin")
    await api.zone(name="twin")
    line = await at().arefused("app", "list", "--zone", "twin", code=2)
    assert line == "which_zone: 2 zones are called 'twin'; name one by its id"
    line = await at().arefused("app", "list", code=2)
    assert line.startswith("which_zone: there are ")
    assert line.endswith("; say which with --zone or CARACAL_ZONE")
    line = await at().arefused("app", "list", "--zone", "no such")
    assert line.startswith("zone_not_found: there is no zone 'no such'")


async def test_a_token_of_one_zone(api: Plane, at: At) -> None:
    zone = await api.zone()
    token = (await api.token("zone", zone))["Authorization"].removeprefix("Bearer ")
    caracal = at(CARACAL_ADMIN_TOKEN=token)
    assert await caracal.ajson("app", "list", "--zone", zone) == []
    line = await caracal.arefused("app", "list", code=2)
    assert line.startswith("which_zone: this token is for one zone; name its id with --zone")
    line = await caracal.arefused("zone", "list")
    assert line.startswith("admin_token_zone_mismatch: ")
    reader = (await api.token("zone", zone, "read"))["Authorization"].removeprefix("Bearer ")
    caracal = at(zone, CARACAL_ADMIN_TOKEN=reader)
    assert (await caracal.arefused("app", "create", "--name", "A")).startswith(
        "admin_token_capability: "
    )


async def test_a_stack_is_found_by_its_file(api: Plane, tmp_path: Path) -> None:
    stack = {"api_url": api.url, "admin_token": "operator-token", "pid": os.getpid()}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    caracal = Caracal({"CARACAL_DATA_DIR": str(tmp_path)})
    assert isinstance(await caracal.ajson("zone", "list"), list)


# --- audit tail --------------------------------------------------------------------------------


async def test_tail_follows_new_decisions(api: Plane, at: At) -> None:
    zone = await api.zone()
    await recorded(api, [decided(zone, second) for second in range(3)])
    tail = await asyncio.create_subprocess_exec(
        *_program("audit", "tail", "--lines", "2", "--interval", "0.1", "--json"),
        env=_environment(api, zone),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert tail.stdout is not None
        lines = [json.loads(await _line(tail.stdout)) for _ in range(2)]
        assert [line["occurred_at"][17:19] for line in lines] == ["01", "02"]
        late, fresh = decided(zone, 1), decided(zone, 9, decision="deny")
        await recorded(api, [late])
        assert json.loads(await _line(tail.stdout))["id"] == late.id
        await recorded(api, [fresh])
        assert json.loads(await _line(tail.stdout))["id"] == fresh.id
        tail.send_signal(2)
        out, errors = await asyncio.wait_for(tail.communicate(), 20)
        assert (tail.returncode, out, errors) == (0, b"", b"")
    finally:
        if tail.returncode is None:
            tail.kill()
            await tail.communicate()


async def _line(stream: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(stream.readline(), 20)


def _program(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "from caracal.cli import main; main()", *arguments)


def _environment(api: Plane, zone: str) -> dict[str, Any]:
    return os.environ | {
        "CARACAL_API_URL": api.url,
        "CARACAL_ADMIN_TOKEN": "operator-token",
        "CARACAL_ZONE": zone,
    }
