"""The demo: one agent, one tool server, and the end of its authority, on the running stack."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from caracal.demo import server
from caracal.demo.screen import Screen, StepFailed
from caracal.demo.story import tell

__all__ = ["run"]


def run(stack: dict[str, str | int]) -> int:
    """Tell the story on the running ``stack`` (content of its ``stack.json``).

    The tool server that it starts serves until the stack ends. Call it in a process of its own,
    without threads or an event loop.

    Returns:
        0, or 1 when a step did not do what it says; one line on standard error says which.
    """
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # a refused call is told by us
    log = Path(str(stack["data_dir"])) / "logs" / "demo-tools.log"
    tools = server.start(log, int(stack["pid"]))
    try:
        asyncio.run(tell({name: str(value) for name, value in stack.items()}, tools, Screen()))
    except StepFailed as failure:
        print(f"caracal: the demo failed at {failure}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
