"""The story, step by step: made, used, denied, revoked, proven."""

from __future__ import annotations

import asyncio
import time

from caracal.demo.agent import Agent
from caracal.demo.control import ControlPlane
from caracal.demo.desk import tell_of_a_desk
from caracal.demo.epilogue import say_what_to_try
from caracal.demo.evidence import expect, soon, trail, verified, why
from caracal.demo.scene import READ, RESOURCE, WRITE, Scene, make_scene, token_of
from caracal.demo.screen import Screen, StepFailed, milliseconds
from caracal.demo.wire import Stream, read_stream, tool_call


async def tell(stack: dict[str, str], tools: str, screen: Screen) -> None:
    """Tell it from the first step to the last.

    Args:
        stack: content of ``stack.json``.
        tools: URL of the MCP server that stands behind the Gateway.

    Raises:
        StepFailed: a step did not do what it says.
    """
    async with ControlPlane(stack["api_url"], stack["admin_token"]) as admin:
        screen.headline("An operator makes the rules")
        scene = await make_scene(admin, stack, tools, screen)
        screen.headline("An agent works through the Gateway")
        with screen.step("token") as say:
            token = await token_of(stack, scene.application)
            say(f"ambient, {token['expires_in']} s, from the STS for the application's secret")
        async with Agent(stack["gateway_url"], RESOURCE, token["access_token"]) as agent:
            calls = await work(agent, admin, scene, screen)
            screen.headline("The operator revokes the grant while the agent reads a stream")
            calls |= await revoke(agent, admin, scene, screen)
        calls |= await tell_of_a_desk(admin, scene, screen)
        screen.headline("The evidence")
        await prove(admin, scene, calls, screen)
        screen.headline("Try next, while it serves (Ctrl-C ends it)")
        await say_what_to_try(admin, scene, screen)


async def work(agent: Agent, admin: ControlPlane, scene: Scene, screen: Screen) -> dict[str, str]:
    """Call a tool that policy allows and one that it denies; return the request ids."""
    with screen.step("list tools") as say:
        say(", ".join(await agent.tools(READ)))
    with screen.step("tool call, allowed") as say:
        allowed = await agent.call("search", {"cause": "certificate"}, READ)
        expect(allowed, 200)
        say(f"200  search: {len(allowed.result)} incidents, newest {allowed.result[0]['who']}")
        say(f'"{allowed.result[0]["lesson"]}"')
    with screen.step("tool call, denied") as say:
        note = {"id": allowed.result[0]["id"], "note": "not our problem"}
        denied = await agent.call("annotate", note, WRITE)
        expect(denied, 403)
        say(f"403  annotate: {denied.refusal}")
    with screen.step("why denied") as say:
        entries = await trail(admin, scene, denied.request_id)
        decision = next(entry for entry in entries if entry["determining_policies_json"])
        for policy in decision["determining_policies_json"]:
            say(f"policy {policy}")
        for diagnostic in decision["diagnostics_json"]:
            say(f"reason: {diagnostic['reason']}")
    return {"search": allowed.request_id, "annotate": denied.request_id}


async def revoke(agent: Agent, admin: ControlPlane, scene: Scene, screen: Screen) -> dict[str, str]:
    """Revoke the grant under two open streams; return the request ids."""
    wire, told = Stream(), asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.set()

    with screen.step("open two streams") as say:
        mcp = asyncio.create_task(agent.call("replay", {}, READ, on_progress))
        bare = asyncio.create_task(
            read_stream(
                wire,
                agent.url,
                agent.headers | {"X-Caracal-Scope": READ},
                tool_call("replay", {}, progress=True),
            )
        )
        await soon("progress", told.wait(), wire.flowing.wait())
        if wire.status != 200:
            raise StepFailed(f"the bare socket got {wire.status} {wire.body!r}")
        say("replay, by the MCP client and by a bare socket")
    asked = time.perf_counter()
    with screen.step("revoke grant") as say:
        await admin.delete(f"{scene.path}/grants/{scene.grant['id']}")
        say("204  in the log, together with the end of the session")
    with screen.step("streams cut") as say:
        cut, _ = await soon("the end of both streams", mcp, bare)
        expect(cut, 200)
        if not cut.broken or wire.trailers.get("x-caracal-revoked") != "true":
            raise StepFailed(f"trailers {wire.trailers}, MCP client: {cut.broken or cut.result}")
        say(f"{milliseconds(asked, wire.ended_at)} after the revocation was sent")
        say("on the wire: trailer X-Caracal-Revoked: true")
        say(f"MCP client:  {cut.broken}")
    with screen.step("next call, refused") as say:
        refused = await agent.call("search", {}, READ)
        expect(refused, 401)
        say(f"401  {refused.refusal}")
        say(f"{milliseconds(asked)} after the revocation was sent")
    return {
        "replay": cut.request_id,
        "replay (socket)": wire.headers["x-request-id"],
        "revoke": admin.request_id,
    }


async def prove(admin: ControlPlane, scene: Scene, calls: dict[str, str], screen: Screen) -> None:
    """Show what the ledger knows of those calls, and that nobody has touched it."""
    with screen.step("audit trail") as say:
        for name, request_id in calls.items():
            for entry in await trail(admin, scene, request_id):
                kind, decision = entry["event_type"], entry["decision"] or "fact"
                say(f"{name:<16} {kind:<15} {decision:<6} {why(entry)}".rstrip())
    with screen.step("verify the chain") as say:
        report = await verified(scene)
        if not report.ok or not report.checked:
            raise StepFailed(f"{report.checked} entries, findings: {report.findings}")
        say(f"{report.checked} entries, each with its content's hash and the one before: unbroken")
