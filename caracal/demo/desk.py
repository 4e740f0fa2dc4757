"""The second act: a desk of agents, authority handed on, and the end of it by one word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx

from caracal.cli import main as command_line
from caracal.client import AsyncAdminClient, Caracal
from caracal.client.acting import DelegationConstraints
from caracal.client.envelope import envelope_headers
from caracal.demo.agent import Agent, Answer
from caracal.demo.control import ControlPlane, Json
from caracal.demo.evidence import expect, started, trail
from caracal.demo.scene import LIFECYCLE, READ, RESOURCE, WRITE, Scene, make_application, make_grant
from caracal.demo.screen import Screen, StepFailed, milliseconds

_PATIENCE = 5.0  # s


@dataclass
class Member:
    """An agent of the desk.

    Args:
        name: what it is there for.
        scopes: what it is lent.
        seconds: for how long.
        hops: how often that may be lent, this time included.
    """

    name: str
    scopes: list[str]
    seconds: int
    hops: int = 1
    edge: str = ""
    mandate: str = ""
    envelope: dict[str, str] = field(default_factory=dict)
    at_work: asyncio.Event = field(default_factory=asyncio.Event)
    dismissed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Desk:
    """An application whose agents work on the scene's resource."""

    scene: Scene
    screen: Screen
    application: Json
    caracal: Caracal

    @asynccontextmanager
    async def employing(self, member: Member) -> AsyncIterator[None]:
        """Let a member live below the surrounding agent, and mint a mandate by what it is lent."""
        async with self.caracal.delegate_to_spawn(
            scopes=member.scopes,
            ttl_seconds=member.seconds,
            resource_id=self.scene.resource["id"],
            constraints=DelegationConstraints(max_hops=member.hops),
            capabilities=[member.name],
        ) as (_, edge):
            member.edge, member.envelope = edge["id"], envelope_headers()
            issued = await self.caracal.mandate(RESOURCE, scopes=[READ])
            member.mandate = issued["access_token"]
            yield

    @asynccontextmanager
    async def employing_both(self, *members: Member) -> AsyncIterator[None]:
        """Let members live beside each other: each in a task, which has a place of its own."""
        tasks = [asyncio.create_task(self._live(member)) for member in members]
        try:
            for task, member in zip(tasks, members, strict=True):
                await started(task, member.at_work)
            yield
        finally:
            for member in members:
                member.dismissed.set()
            await asyncio.gather(*tasks)

    async def _live(self, member: Member) -> None:
        async with self.employing(member):
            member.at_work.set()
            await member.dismissed.wait()

    async def call(self, member: Member, tool: str, scope: str, **arguments: str) -> Answer:
        """Call a tool of the MCP server, through the Gateway, as a member."""
        token, gateway = await self.caracal.tokens.token(), self.scene.stack["gateway_url"]
        async with Agent(gateway, RESOURCE, token, member.envelope) as client:
            return await client.call(tool, arguments, scope)

    async def is_good(self, http: httpx.AsyncClient, member: Member) -> bool:
        """Ask the STS what any resource server may ask it (RFC 7662): is this mandate good?"""
        asked = {
            "zone_id": self.scene.zone["id"],
            "application_id": self.application["id"],
            "client_secret": self.application["client_secret"],
            "token": member.mandate,
        }
        answer = await http.post("/oauth/2/introspect", data=asked)
        if not answer.is_success:
            raise StepFailed(f"introspection answered {answer.status_code} {answer.text[:300]}")
        return bool(answer.json()["active"])

    async def refused_after(self, http: httpx.AsyncClient, member: Member, asked: float) -> str:
        """Tell how long after ``asked`` a mandate was refused, at the first look.

        Raises:
            StepFailed: it was not.
        """
        if await self.is_good(http, member):
            raise StepFailed(f"the mandate of the {member.name} outlived its delegation")
        return f"{member.name:<6}  refused, {milliseconds(asked)} after it was sent"

    def draw(self, *words: str) -> None:
        """Run a command of ours and show what it prints."""
        stack, asked = self.scene.stack, [*words, "--zone", self.scene.zone["id"]]
        self.screen.line(f"\n$ caracal {' '.join(asked)}")
        where = ["--data-dir", stack["data_dir"], "--api-url", stack["api_url"]]
        where += ["--coordinator-url", stack["coordinator_url"]]
        if code := command_line([*asked, *where], standalone_mode=False):
            raise StepFailed(f"the picture: caracal {' '.join(words)} ended with {code}")


async def tell_of_a_desk(admin: ControlPlane, scene: Scene, screen: Screen) -> dict[str, str]:
    """Tell the second act; return the request ids of what was asked."""
    screen.headline("A desk of agents: the lead hands on less than it was lent")
    lead = Member("lead", [READ, WRITE], 600, hops=2)
    reader, scribe = (Member(name, [READ], 300) for name in ("reader", "scribe"))
    async with AsyncExitStack() as stack:
        desk = await opened(admin, scene, screen, stack)
        with screen.step("lend to a lead") as say:
            await stack.enter_async_context(desk.employing(lead))
            say(f"{' '.join(lead.scopes)}, {lead.seconds} s")
        with screen.step("lend to two helpers") as say:
            await stack.enter_async_context(desk.employing_both(reader, scribe))
            say(f"{READ} alone, {reader.seconds} s, to each")
        desk.draw("agent", "tree")
        desk.draw("delegation", "graph")
        screen.headline("One helper does its work, the other one more than that")
        calls = await work(admin, desk, reader, scribe)
        screen.headline("The operator revokes what the lead was lent")
        calls |= await revoke(desk, lead, reader, scribe)
        desk.draw("agent", "tree", "--all")
        desk.draw("delegation", "graph", "--all")
    return calls


async def opened(admin: ControlPlane, scene: Scene, screen: Screen, stack: AsyncExitStack) -> Desk:
    """Make the desk's application, and its first agent, whose authority is its own."""
    with screen.step("open a desk") as say:
        application = await make_application(admin, scene.path, "Newsroom")
        await make_grant(admin, scene.path, application, scene.resource, LIFECYCLE)
        caracal = Caracal(
            zone_id=scene.zone["id"],
            application_id=application["id"],
            client_secret=application["client_secret"],
            sts_url=scene.stack["sts_url"],
            coordinator_url=scene.stack["coordinator_url"],
            resources=[RESOURCE],
        )
        await stack.enter_async_context(caracal)
        # A service outlives its process by its lease: it is there to be looked at later.
        first = caracal.spawn(kind="service", capabilities=["desk"])
        say(f"agent {(await stack.enter_async_context(first))['id']}")
    return Desk(scene, screen, application, caracal)


async def work(admin: ControlPlane, desk: Desk, reader: Member, scribe: Member) -> dict[str, str]:
    """Let one helper do its work and the other one more than that; return the request ids."""
    with desk.screen.step("the reader reads") as say:
        allowed = await desk.call(reader, "search", READ, text="backup")
        expect(allowed, 200)
        say(f"200  search: {len(allowed.result)} incidents, newest {allowed.result[0]['who']}")
    with desk.screen.step("the scribe writes") as say:
        note = {"id": allowed.result[0]["id"], "note": "nobody will notice"}
        denied = await desk.call(scribe, "annotate", WRITE, **note)
        expect(denied, 403)
        say(f"403  annotate: {denied.refusal}")
    with desk.screen.step("why denied") as say:
        entries = await trail(admin, desk.scene, denied.request_id)
        for entry in (each for each in entries if each["decision"] == "deny"):
            say(f"{entry['evaluation_status']}: {entry['metadata_json']['reason']}")
    return {"reader": allowed.request_id, "scribe": denied.request_id}


async def revoke(desk: Desk, lead: Member, *helpers: Member) -> dict[str, str]:
    """Revoke the lead's delegation; see the mandates of all die with it."""
    stack, screen = desk.scene.stack, desk.screen
    async with (
        AsyncAdminClient(
            api_url=stack["api_url"],
            admin_token=stack["admin_token"],
            coordinator_url=stack["coordinator_url"],
            coordinator_token=stack["coordinator_token"],
        ) as operator,
        httpx.AsyncClient(base_url=stack["sts_url"], timeout=_PATIENCE) as http,
    ):
        with screen.step("mandates, before") as say:
            for member in (lead, *helpers):
                if not await desk.is_good(http, member):
                    raise StepFailed(f"the mandate of the {member.name} is not active")
                say(f"{member.name:<6}  minted, active")
        asked = time.perf_counter()
        with screen.step("revoke one edge") as say:
            ended = await operator.delegations.revoke(desk.scene.zone["id"], lead.edge)
            agents = ended.get("terminated_agents")
            say(f"{ended['revoked_edges']} delegations, {agents} agents end with it")
        with screen.step("mandates, after") as say:
            refusals = (desk.refused_after(http, each, asked) for each in (lead, *helpers))
            for line in await asyncio.gather(*refusals):
                say(line)
    with screen.step("next call, refused") as say:
        refused = await desk.call(helpers[0], "search", READ, text="backup")
        expect(refused, 403)
        say(f"403  {refused.refusal}")
    return {"reader (dead)": refused.request_id}
