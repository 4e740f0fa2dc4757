"""A process of its own for what the engine must not do in ours.

The engine can be interrupted in no other way than by ending its process, and it takes what
memory it wants. So this one has limits of both, and is killed at its time limit.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from signal import Signals
from typing import Any

from caracal.errors import InternalError
from caracal.policy.limits import command, environment


class Exhausted(Exception):
    """The process took too much: time or memory, or its stack when ``deep``."""

    def __init__(self, *, deep: bool = False) -> None:
        super().__init__("the process took too much")
        self.deep = deep


async def run(work: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
    """Return what ``sandbox.py`` answers to ``work``.

    The caller has a turn (``turns.py``). ``timeout`` in seconds.

    Raises:
        Exhausted: it was killed, by us or by a limit.
    """
    process = await asyncio.create_subprocess_exec(
        *command("caracal.policy.sandbox"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(json.dumps(work).encode()), timeout)
    except TimeoutError:
        raise Exhausted from None
    finally:
        await _end(process)
    return _answer(output, process.returncode)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def _answer(output: bytes, code: int | None) -> dict[str, Any]:
    """What the process said, or what its death says."""
    if code == 0:
        return dict(json.loads(output.splitlines()[-1]))
    if code is not None and code < 0:
        raise Exhausted(deep=-code == Signals.SIGSEGV)
    raise InternalError("the process that runs policies failed")
