"""The tool server of the demo: a register of well-known incidents, spoken to by MCP.

It knows nothing of Caracal. Who may call which tool is decided in front of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette

Cause = Literal[
    "attack", "capacity", "certificate", "fire", "human",
    "network", "power", "release", "software", "supply chain",
]  # fmt: skip


@dataclass(frozen=True)
class Incident:
    """One entry of the register; ``date`` as in RFC 3339."""

    id: str
    date: str
    who: str
    cause: Cause
    what: str
    lesson: str


def load() -> tuple[Incident, ...]:
    """Return the whole register, oldest first."""
    text = files(__package__).joinpath("incidents.json").read_text("utf-8")
    return tuple(Incident(**each) for each in json.loads(text))


def make_app() -> Starlette:
    """Return the server as an application; its endpoint is ``/mcp``."""
    return tools(load()).streamable_http_app(stateless_http=True)


def tools(register: tuple[Incident, ...]) -> MCPServer[None]:
    """Return a server with the tools that read ``register`` and the one that writes to it."""
    server: MCPServer[None] = MCPServer("incidents", log_level="WARNING")
    notes: defaultdict[str, list[str]] = defaultdict(list)

    @server.tool()
    def search(text: str = "", cause: Cause | None = None) -> list[Incident]:
        """Find incidents by words in any field, or by cause, or both; newest first."""
        found = (each for each in register if text.lower() in " ".join(_texts(each)).lower())
        return [each for each in found if cause in (None, each.cause)][::-1]

    @server.tool()
    def get(id: str) -> Incident:  # noqa: A002  the argument's name on the wire
        """Return one incident."""
        return _named(register, id)

    @server.tool()
    def summarize(by: Literal["cause", "year"] = "cause") -> dict[str, int]:
        """Count incidents by cause or by year, most first."""
        keys = (each.cause if by == "cause" else each.date[:4] for each in register)
        return dict(Counter(keys).most_common())

    @server.tool()
    async def replay(context: Context, every_ms: int = 500) -> int:
        """Tell the register in order, one incident a progress notification; return how many."""
        for told, each in enumerate(register, 1):
            line = f"{each.date} {each.who}: {each.what}"
            await context.report_progress(told, len(register), line)
            await asyncio.sleep(every_ms / 1000)
        return len(register)

    @server.tool()
    def annotate(id: str, note: str) -> list[str]:  # noqa: A002
        """Add a note to an incident; return all of its notes."""
        notes[_named(register, id).id].append(note)
        return notes[id]

    return server


def _texts(incident: Incident) -> list[str]:
    return list(asdict(incident).values())


def _named(register: tuple[Incident, ...], id: str) -> Incident:  # noqa: A002
    for each in register:
        if each.id == id:
            return each
    raise ToolError(f"there is no incident {id}")


def start(log: Path, owner: int) -> str:
    """Fork a process that serves until process ``owner`` is gone; return its URL.

    Call it while this process has neither threads nor an event loop. The demo ends, what it made
    stays to be tried: so the server's life hangs on the stack and not on the demo.

    Args:
        log: where its standard output and error go.
        owner: id of a running process.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)  # answers from here on
    gone = os.pidfd_open(owner)
    if os.fork() == 0:
        _become(listener, gone, log)
    os.close(gone)
    with listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _become(listener: socket.socket, gone: int, log: Path) -> None:
    try:
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        logging.basicConfig(level="WARNING", stream=sys.stderr)
        asyncio.run(_serve(listener, gone))
    finally:
        os._exit(0)


async def _serve(listener: socket.socket, gone: int) -> None:
    """Serve; a pidfd becomes readable when its process ends, be it by kill -9."""
    asyncio.get_running_loop().add_reader(gone, os._exit, 0)
    # Longer than the Gateway keeps a connection: none is closed as it is taken.
    config = uvicorn.Config(make_app(), log_config=None, access_log=False, timeout_keep_alive=120)
    await uvicorn.Server(config).serve([listener])
