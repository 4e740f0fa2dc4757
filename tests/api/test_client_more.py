"""The clients' methods beyond the first ones, against the running services."""

from __future__ import annotations

import asyncio

from caracal.client import AdminClient, types
from caracal.ids import new_id
from tests.api.policies import REGO
from tests.api.running import OPERATOR, Plane, plane, worker
from tests.api.test_client import Checked, client, zone_of
from tests.backbone import opened_log

__all__ = ["client"]  # the fixture


async def test_providers(client: Checked) -> None:
    zone = await zone_of(client)
    given: types.ProviderInput = {
        "identifier": "provider://mail",
        "kind": "apikey",
        "config_json": {"region": "eu"},
        "secret_config": {"api_key": "one", "old": "two"},
    }
    made = await client("providers.create", zone, given, of=types.Provider)
    assert (made["config_json"], made["secret_config_keys"]) == (
        {"region": "eu"},
        ["api_key", "old"],
    )
    patch: types.ProviderPatch = {"name": "Mail", "secret_config": {"old": None}}
    changed = await client("providers.patch", zone, made["id"], patch, of=types.Provider)
    assert (changed["name"], changed["secret_config_keys"]) == ("Mail", ["api_key"])
    assert await client("providers.get", zone, made["id"], of=types.Provider) == changed
    assert await client("providers.list", zone, of=list[types.Provider]) == [changed]
    await client("providers.delete", zone, made["id"])
    await client.refused("provider_not_found", "providers.get", zone, made["id"])


async def test_trusted_issuers(client: Checked) -> None:
    zone = await zone_of(client)
    given: types.TrustedIssuerInput = {
        "issuer": f"https://login.example/{new_id()}",
        "audiences": ["client"],
        "required_claims": {"hd": "corp.example", "admin": True},
    }
    made = await client("trusted_issuers.create", zone, given, of=types.TrustedIssuer)
    assert made["algorithms"] == ["RS256", "PS256", "ES256"]
    patch: types.TrustedIssuerPatch = {"mapped_claims": ["groups"], "single_use": False}
    changed = await client("trusted_issuers.patch", zone, made["id"], patch, of=types.TrustedIssuer)
    assert (changed["mapped_claims"], changed["single_use"]) == (["groups"], False)
    shown = await client("trusted_issuers.get", zone, made["id"], of=types.TrustedIssuer)
    assert shown == changed
    listed = await client("trusted_issuers.list", zone, of=list[types.TrustedIssuer])
    assert listed == [changed]
    user = await client("trusted_issuers.user_id", zone, made["id"], "ada", of=types.UserId)
    assert user["user_id"].startswith("usr_")
    await client("trusted_issuers.delete", zone, made["id"])
    await client.refused("trusted_issuer_not_found", "trusted_issuers.get", zone, made["id"])


async def test_dynamic_registration(client: Checked) -> None:
    zone = await zone_of(client)
    given: types.DCRInput = {"name": "d", "credential_type": "token", "expires_in": 60}
    await client.refused("dcr_disabled", "applications.dcr", zone, given)
    await client("zones.patch", zone, {"dcr_enabled": True}, of=types.Zone)
    made = await client("applications.dcr", zone, given, of=types.Application)
    assert made["registration_method"] == "dcr"
    status = await client("zones.dcr_status", zone, of=types.DcrStatus)
    assert status == {"id": zone, "dcr_enabled": True, "live_dcr_applications": 1}
    await client.refused("dcr_shutdown_required", "zones.patch", zone, {"dcr_enabled": False})
    shut: types.ZonePatch = {"dcr_enabled": False, "dcr_shutdown": "revoke_live"}
    await client("zones.patch", zone, shut, of=types.Zone)
    assert await client("applications.list", zone, of=list[types.Application]) == []


async def test_rotation(client: Checked) -> None:
    zone = await zone_of(client)
    made = await client("zones.rotate_signing_key", zone, of=types.RotatedSigningKey)
    assert (made["zone_id"], made["version"]) == (zone, 2)


async def test_validation(client: Checked) -> None:
    said = await client("policies.validate", REGO, of=types.PolicyValidation)
    assert (said["valid"], said["schema_version"]) == (True, "2026-03-16")
    await client.refused("invalid_rego", "policies.validate", "package x")
    await client.refused("invalid_schema_version", "policies.validate", REGO, "2001-01-01")


async def test_templates(client: Checked) -> None:
    found = await client("policy_templates.list", of=list[types.PolicyTemplate])
    assert "role-based" in {template["id"] for template in found}
    for template in found[:1]:
        shown = await client("policy_templates.get", template["id"], of=types.PolicyTemplate)
        assert shown == template
    await client.refused("policy_template_not_found", "policy_templates.get", "none")


async def test_simulation_and_activation_status(client: Checked) -> None:
    zone = await zone_of(client)
    policy = await client(
        "policies.create", zone, {"name": "p", "content": REGO}, of=types.PolicyWithVersion
    )
    chosen = (await client("policy_sets.create", zone, "s", of=types.PolicySet))["id"]
    manifest = [{"policy_version_id": policy["version"]["id"]}]
    version = (
        await client("policy_sets.add_version", zone, chosen, manifest, of=types.PolicySetVersion)
    )["id"]
    tried = await client("policy_sets.simulate", zone, chosen, version, {}, of=types.Simulation)
    assert (tried["would_activate"], tried["result"]["decision"]) == (True, "deny")
    assert (await client("policy_sets.simulate", zone, chosen, version, of=types.Simulation))[
        "result"
    ] is None
    kind = types.ActivationStatus
    before = await client("policy_sets.activation_status", zone, chosen, version, of=kind)
    assert before["active"] is False
    done = await client("policy_sets.activate", zone, chosen, version, of=types.Activation)
    after = await client(
        "policy_sets.activation_status", zone, chosen, version, done["position"], of=kind
    )
    assert (after["active"], after["topic"]["position"]) == (True, done["position"])


async def test_admin_tokens(api: Plane, client: Checked) -> None:
    zone = await zone_of(client)
    given: types.AdminTokenInput = {"name": "ci", "scope": "zone", "zone_id": zone}
    made = await client("admin_tokens.create", given, of=types.AdminToken)
    with AdminClient(api_url=api.url, admin_token=made.pop("token")) as narrow:
        assert (await asyncio.to_thread(narrow.zones.get, zone))["id"] == zone
    listed = await client("admin_tokens.list", of=list[types.AdminToken])
    assert made["id"] in {token["id"] for token in listed}
    await client("admin_tokens.revoke", made["id"])
    await client.refused("admin_token_not_found", "admin_tokens.revoke", made["id"])


async def test_bootstrap(database_url: str, redis_url: str) -> None:
    given = {"CARACAL_LOCAL_BOOTSTRAP_ENABLED": "true"}
    async with (
        opened_log(database_url) as log,
        worker(database_url, redis_url),
        plane(database_url, redis_url, log, **given) as local,
    ):
        with AdminClient(api_url=local.url, admin_token=OPERATOR) as client:
            first = await asyncio.to_thread(client.bootstrap)
            again = await asyncio.to_thread(client.bootstrap, force=True)
    assert (first["app_client_id"], first["rotated"], again["rotated"]) == (
        "zone1:app1",
        False,
        True,
    )
    assert None not in (first["app_client_secret"], again["app_client_secret"])


async def test_admin_audit(client: Checked) -> None:
    zone = await zone_of(client)
    kind = list[types.AdminAuditEvent]
    found = await client("admin_audit.list", zone, action="POST /v1/zones", of=kind)
    (made,) = found
    assert await client("admin_audit.list", request_id=made["request_id"], of=kind) == found
    assert await client("admin_audit.iter", zone, limit=1, of=kind) == found


async def test_retention(client: Checked) -> None:
    kept = await client("audit.retention", of=types.AuditRetention)
    assert (
        await client("audit.set_retention", kept["retention_days"], of=types.AuditRetention) == kept
    )
    await client.refused("retention_above_limit", "audit.set_retention", 10**6)


async def test_explain_and_replay(client: Checked) -> None:
    zone = await zone_of(client)
    for method in ("audit.explain", "audit.replay"):
        await client.refused("request_not_found", method, zone, new_id())


async def test_challenges(client: Checked) -> None:
    zone = await zone_of(client)
    kind = list[types.StepUpChallenge]
    assert await client("step_up_challenges.list", zone, of=kind) == []
    await client.refused("challenge_not_found", "step_up_challenges.get", zone, new_id())
    satisfy = "step_up_challenges.satisfy"
    await client.refused("challenge_not_found_or_expired", satisfy, zone, new_id())
    await client.refused("challenge_not_found_or_expired", satisfy, zone, new_id(), "ada")
