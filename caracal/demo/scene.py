"""The scene: all that must exist before an agent may do anything."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from caracal.demo.control import ControlPlane, Json, ambient_token
from caracal.demo.screen import Screen

READ, WRITE, LIFECYCLE = "incidents:read", "incidents:write", "agent:lifecycle"
RESOURCE = "resource://incidents"


@dataclass(frozen=True)
class Scene:
    """What the first steps have made; each as the control plane answered."""

    stack: dict[str, str]
    zone: Json
    resource: Json
    application: Json
    grant: Json

    @property
    def path(self) -> str:
        """Where the zone is in the control plane."""
        return f"/v1/zones/{self.zone['id']}"


async def make_scene(
    admin: ControlPlane, stack: dict[str, str], tools: str, screen: Screen
) -> Scene:
    """Make a zone and all that the agent's calls need in it."""
    with screen.step("create zone") as say:
        zone = await admin.post("/v1/zones", name="Demo")
        say(f"{zone['slug']}  {zone['id']}")
    path = f"/v1/zones/{zone['id']}"
    with screen.step("create application") as say:
        application = await make_application(admin, path, "Incident analyst")
        say(f"{application['name']}, its secret is shown once")
    with screen.step("create resource") as say:
        resource = await admin.post(
            f"{path}/resources",
            identifier=RESOURCE,
            scopes=[READ, WRITE, LIFECYCLE],
            protocol="mcp",
            upstream_url=tools,
        )
        say(f"{RESOURCE}, an MCP server at {tools}")
    await make_policy(admin, path, screen)
    with screen.step("grant") as say:
        grant = await make_grant(admin, path, application, resource)
        say(f"{' '.join(grant['scopes'])} to the application")
    return Scene(stack, zone, resource, application, grant)


async def make_policy(admin: ControlPlane, path: str, screen: Screen) -> None:
    """Store the policy beside this file and put it in force."""
    with screen.step("create policy") as say:
        text = files(__package__).joinpath("policy.rego").read_text("utf-8")
        policy = await admin.post(f"{path}/policies", name="Incidents", content=text)
        say(f"version {policy['version']['version']}: who may read, and that nobody may write")
    with screen.step("create policy set") as say:
        made = await admin.post(f"{path}/policy-sets", name="Demo")
        manifest = [{"policy_version_id": policy["version"]["id"]}]
        version = await admin.post(f"{path}/policy-sets/{made['id']}/versions", manifest=manifest)
        say(f"version {version['version']}, manifest {version['manifest_sha256'][:16]}")
    with screen.step("activate") as say:
        await admin.post(f"{path}/policy-sets/{made['id']}/activate", version_id=version["id"])
        say("in force")


async def make_application(admin: ControlPlane, path: str, name: str) -> Json:
    """Make an application that proves itself by a secret made by the server."""
    return await admin.post(f"{path}/applications", name=name, credential_type="token")


async def make_grant(
    admin: ControlPlane, path: str, application: Json, resource: Json, *more: str
) -> Json:
    """Grant an application both scopes, and ``more``; what of it is allowed, policy decides."""
    return await admin.post(
        f"{path}/grants",
        application_id=application["id"],
        resource_id=resource["id"],
        scopes=[READ, WRITE, *more],
    )


async def token_of(stack: dict[str, str], application: Json) -> Json:
    """Get an ambient token for an application that may read the register."""
    return await ambient_token(stack["sts_url"], application, RESOURCE, READ)
