"""What to try next: lines that work as pasted, for a second application."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shlex import quote
from typing import Any

from caracal.demo.control import ControlPlane
from caracal.demo.scene import (
    READ,
    RESOURCE,
    WRITE,
    Scene,
    make_application,
    make_grant,
    token_of,
)
from caracal.demo.screen import Screen
from caracal.demo.wire import tool_call


async def say_what_to_try(admin: ControlPlane, scene: Scene, screen: Screen) -> None:
    """Make an application that may still read, and print what can be done with it."""
    with screen.step("a second application") as say:
        application = await make_application(admin, scene.path, "You")
        grant = await make_grant(admin, scene.path, application, scene.resource)
        token = await token_of(scene.stack, application)
        say(f"its token is good for {token['expires_in'] // 60} minutes")
    directory = Path(scene.stack["data_dir"]) / "demo"
    directory.mkdir(mode=0o700, exist_ok=True)
    agent = _header_file(directory / "agent.headers", agent_headers(token["access_token"]))
    operator = _header_file(
        directory / "operator.headers", {"Authorization": f"Bearer {scene.stack['admin_token']}"}
    )
    zone = scene.stack["api_url"] + scene.path
    here = f"--zone {scene.zone['id']} --data-dir {quote(scene.stack['data_dir'])}"
    gateway = f"{scene.stack['gateway_url']}/mcp -H {agent}"
    for what, line in {
        "Call a tool": f"curl -sS {gateway} {_call(READ, 'search', text='backup')}",
        "Ask for more than policy gives": (
            f"curl -sS {gateway} {_call(WRITE, 'annotate', id='INC-015', note='seen')}"
        ),
        "See what was decided, and why": (
            f"curl -sS '{zone}/audit?limit=3' -H {operator} | python3 -m json.tool"
        ),
        "Draw which agents there were": f"caracal agent tree --all {here}",
        "and who handed what to whom": f"caracal delegation graph --all {here}",
        "Open a stream": f"curl -sSN --raw {gateway} {_call(READ, 'replay', every_ms=2000)}",
        "and end it from another terminal": (
            f"curl -sS -X DELETE {zone}/grants/{grant['id']} -H {operator}"
        ),
    }.items():
        screen.line(f"\n# {what}\n{line}")


def agent_headers(token: str) -> dict[str, str]:
    """Return what every MCP request to the Gateway carries."""
    return {
        "Authorization": f"Bearer {token}",
        "X-Caracal-Resource": RESOURCE,
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }


def _header_file(file: Path, headers: dict[str, str]) -> str:
    """Write headers where only their owner can read them, and curl; return curl's argument."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.writelines(f"{name}: {value}\n" for name, value in headers.items())
    return quote(f"@{file}")


def _call(scope: str, tool: str, **arguments: Any) -> str:
    message = json.dumps(
        tool_call(tool, arguments, progress=tool == "replay"), separators=(",", ":")
    )
    return f"-H {quote(f'X-Caracal-Scope: {scope}')} -d {quote(message)}"
