"""The Python clients against the running services: every answer is of the type they promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal.client import NULL, AdminApiError, AdminClient, Page, types
from caracal.ids import new_id
from tests.api.policies import REGO, rego
from tests.api.running import OPERATOR, Plane
from tests.client.both import KINDS, Client, Kind
from tests.client.conforms import conforms
from tests.making import new_session


class Checked:
    """A client whose answers are compared with the types that they should have."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, name: str, *args: Any, of: Any = None, **kwargs: Any) -> Any:
        result = await self._client.call(name, *args, **kwargs)
        if of is None:
            assert result is None
        else:
            conforms(result.items if isinstance(result, Page) else result, of, name)
        return result

    async def refused(self, code: str, name: str, *args: Any) -> AdminApiError:
        with pytest.raises(AdminApiError) as raised:
            await self._client.call(name, *args)
        assert raised.value.code == code
        return raised.value


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, api: Plane) -> AsyncIterator[Checked]:
    kind: Kind = request.param
    both = Client(kind, api_url=api.url, admin_token=OPERATOR)
    yield Checked(both)
    await both.close()


async def zone_of(client: Checked) -> str:
    return str((await client("zones.create", {"name": "n", "slug": new_id()}, of=types.Zone))["id"])


async def test_zones(client: Checked) -> None:
    given: types.ZoneInput = {"name": "Z", "slug": new_id(), "org_id": None, "dcr_enabled": True}
    zone = await client("zones.create", given, of=types.Zone)
    assert (zone["org_id"], zone["dcr_enabled"]) == ("default", True)
    changed = await client("zones.patch", zone["id"], {"login_flow": "sso"}, of=types.Zone)
    assert await client("zones.get", zone["id"], of=types.Zone) == changed
    assert changed in await client("zones.list", of=list[types.Zone])
    await client("zones.delete", zone["id"])
    error = await client.refused("zone_not_found", "zones.get", zone["id"])
    assert (error.status, error.body["requestId"]) == (404, error.request_id)


async def test_applications(client: Checked) -> None:
    zone = await zone_of(client)
    given = {"name": "a", "credential_type": "token", "traits": ["x.y"], "consent": "required"}
    made = await client("applications.create", zone, given, of=types.Application)
    assert made.pop("client_secret").startswith("cs_")
    assert await client("applications.get", zone, made["id"], of=types.Application) == made
    changed = await client(
        "applications.patch",
        zone,
        made["id"],
        {"traits": [], "consent": None},
        of=types.Application,
    )
    assert changed == made | {"traits": []}
    assert await client("applications.list", zone, of=list[types.Application]) == [changed]
    await client("applications.delete", zone, made["id"])
    await client.refused("application_not_found", "applications.delete", zone, made["id"])


async def test_resources(client: Checked) -> None:
    zone = await zone_of(client)
    given = {"identifier": "resource://r", "scopes": ["a"], "upstream_url": "http://u/"}
    made = await client("resources.create", zone, given, of=types.Resource)
    assert await client("resources.get", zone, made["id"], of=types.Resource) == made
    patch = {"upstream_url": NULL, "name": None, "scopes": ["a", "b"]}
    changed = await client("resources.patch", zone, made["id"], patch, of=types.Resource)
    assert (changed["upstream_url"], changed["name"]) == (None, "resource://r")
    assert await client("resources.list", zone, of=list[types.Resource]) == [changed]
    await client("resources.delete", zone, made["id"])
    await client.refused("resource_not_found", "resources.get", zone, made["id"])


async def test_policies_and_sets(client: Checked) -> None:
    zone = await zone_of(client)
    given = {"name": "p", "content": REGO}
    policy = await client("policies.create", zone, given, of=types.PolicyWithVersion)
    first = policy.pop("version")
    second = await client(
        "policies.add_version", zone, policy["id"], rego("two"), of=types.PolicyVersion
    )
    assert (first["version"], second["version"]) == (1, 2)
    whole = await client("policies.get", zone, policy["id"], of=types.PolicyWithVersions)
    assert [version["version"] for version in whole["versions"]] == [2, 1]
    assert await client("policies.list", zone, of=list[types.Policy]) == [policy]
    error = await client.refused(
        "invalid_rego", "policies.create", zone, {"name": "x", "content": "x"}
    )
    assert error.body["detail"]

    made = await client("policy_sets.create", zone, "s", "d", of=types.PolicySet)
    manifest = [{"policy_version_id": first["id"]}]
    version = await client(
        "policy_sets.add_version", zone, made["id"], manifest, of=types.PolicySetVersion
    )
    shown = await client(
        "policy_sets.get_version", zone, made["id"], version["id"], of=types.PolicySetVersion
    )
    assert (shown["manifest_json"], shown["policies"]) == (manifest, [policy["id"]])
    done = await client(
        "policy_sets.activate", zone, made["id"], version["id"], of=types.Activation
    )
    assert (done["activated"], done["shadow_version_id"]) == (True, None)
    active = await client("policy_sets.get", zone, made["id"], of=types.PolicySet)
    assert active["active_version_id"] == version["id"]
    assert await client("policy_sets.list", zone, of=list[types.PolicySet]) == [active]
    await client("policy_sets.delete", zone, made["id"])
    await client("policies.delete", zone, policy["id"])


async def test_grants(client: Checked) -> None:
    zone = await zone_of(client)
    app = (await client("applications.create", zone, {"name": "a"}, of=types.Application))["id"]
    given = {"identifier": "r", "scopes": ["a", "b"]}
    resource = (await client("resources.create", zone, given, of=types.Resource))["id"]
    grants = [
        await client(
            "grants.create",
            zone,
            {"application_id": app, "resource_id": resource, "scopes": scopes, "user_id": user},
            of=types.Grant,
        )
        for scopes, user in ((["a"], None), (["a", "b"], "ada"))
    ]
    kind = list[types.Grant]
    assert await client("grants.list", zone, of=kind) == grants[::-1]
    assert await client("grants.list", zone, scopes=["a", "b"], of=kind) == grants[1:]
    assert await client("grants.list", zone, {"user_id": "ada"}, of=kind) == grants[1:]
    await client("grants.revoke", zone, grants[0]["id"])
    await client("grants.revoke", zone, grants[0]["id"])
    assert (await client("grants.get", zone, grants[0]["id"], of=types.Grant))[
        "status"
    ] == "revoked"
    assert await client("grants.list", zone, status="active", of=kind) == grants[1:]


async def test_sessions(api: Plane, client: Checked) -> None:
    zone = await zone_of(client)
    app = await client("applications.create", zone, {"name": "a"}, of=types.Application)
    subjects = ("ada", "bob", "ada")
    await api.save(*(new_session(app["id"], zone_id=zone, subject_id=one) for one in subjects))
    kind = list[types.Session]
    assert len(await client("sessions.list", zone, of=kind)) == 3
    assert len(await client("sessions.list", zone, subject="ada", status="active", of=kind)) == 2
    assert len(await client("sessions.list", zone, {"limit": 1}, of=kind)) == 1
    assert len(await client("sessions.iter", zone, limit=1, of=kind)) == 3


async def test_audit(api: Plane, client: Checked) -> None:
    zone = await zone_of(client)
    made = client._client.client.last_request_id
    trail = await client("audit.by_request", zone, made, of=list[types.AuditDetail])
    assert {entry["event_type"] for entry in trail} >= {"zone.created"}
    assert await client("audit.list", zone, decision="deny", of=list[types.AuditEvent]) == []
    await client.refused("request_not_found", "audit.by_request", zone, new_id())
    await client.refused("invalid_query", "audit.list", zone, {"since": "yesterday"})


async def test_pages(api: Plane, client: Checked) -> None:
    zone = await zone_of(client)
    for number in range(5):
        await api.resource(zone, identifier=f"r{number}")
    kind = list[types.Resource]
    everything = await client("resources.list", zone, of=kind)
    assert [one["identifier"] for one in everything] == ["r4", "r3", "r2", "r1", "r0"]
    assert await client("resources.list", zone, limit=2, of=kind) == everything[:2]
    assert await client("resources.iter", zone, limit=2, of=kind) == everything
    first = await client("resources.list_page", zone, limit=3, of=kind)
    assert first.items == everything[:3]
    rest = await client("resources.list_page", zone, limit=3, cursor=first.next_cursor, of=kind)
    assert rest == Page(everything[3:], None)


async def test_more_than_one_page_of_the_servers(api: Plane) -> None:
    zone = await api.zone()
    await asyncio.gather(*(api.resource(zone, identifier=f"r{number}") for number in range(201)))
    for kind in KINDS:
        client = Client(kind, api_url=api.url, admin_token=OPERATOR)
        assert len(await client.call("resources.list", zone)) == 201
        await client.close()


async def test_a_read_waits_for_what_was_pending(api: Plane) -> None:
    def later(response: httpx.Response) -> None:
        if response.request.method == "POST":  # as if the read models had been too slow
            response.headers["Caracal-Consistency"] = "pending"
        asked.append(response.request.headers.get("Caracal-Min-Position"))

    asked: list[str | None] = []
    with httpx.Client(event_hooks={"response": [later]}) as http:
        client = AdminClient(api_url=api.url, admin_token=OPERATOR, http_client=http)
        zone = await asyncio.to_thread(client.zones.create, {"name": "n", "slug": new_id()})
        position = client.last_position
        assert await asyncio.to_thread(client.zones.get, zone["id"]) == zone
    assert asked == [None, str(position)]


async def test_a_wrong_token(api: Plane) -> None:
    client = AdminClient(api_url=api.url, admin_token="cat_wrong", retries=0)
    with client, pytest.raises(AdminApiError) as raised:
        await asyncio.to_thread(client.zones.list)
    assert (raised.value.status, raised.value.code) == (401, "invalid_admin_token")
