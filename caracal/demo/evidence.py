"""What is known of a call, and whether it came to what the story says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import psycopg

from caracal.demo.agent import Answer
from caracal.demo.control import ControlPlane, Json
from caracal.demo.scene import Scene
from caracal.demo.screen import StepFailed
from caracal.projections.audit_chain import ChainReport, verify_chain

PATIENCE = 10.0
"""Seconds for what follows at once."""

_POLL = 0.02  # s


async def trail(admin: ControlPlane, scene: Scene, request_id: str) -> list[Json]:
    """Return what is known of a request; the ledger follows the decisions within a moment."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if entries := await admin.get(f"{scene.path}/audit/by-request/{request_id}"):
            return list(entries)
        await asyncio.sleep(_POLL)
    raise StepFailed(f"the audit trail does not know request {request_id}")


def why(entry: Json) -> str:
    """Return the policies that determined a decision, or else how far it came."""
    return ", ".join(entry["determining_policies_json"] or [entry["evaluation_status"] or ""])


async def verified(scene: Scene) -> ChainReport:
    """Verify the zone's chain against the ledger itself, not against what the API says of it."""
    keys = tuple(bytes.fromhex(key) for key in scene.stack["audit_hmac_key"].split(","))
    async with await psycopg.AsyncConnection.connect(scene.stack["database_url"]) as db:
        return await verify_chain(db, scene.zone["id"], keys)


async def soon(what: str, *awaited: Awaitable[Any]) -> list[Any]:
    """Return the results of all ``awaited``, or raise StepFailed when they take too long."""
    try:
        return await asyncio.wait_for(asyncio.gather(*awaited), PATIENCE)
    except TimeoutError:
        raise StepFailed(f"waited {PATIENCE:.0f} s for {what}") from None


def expect(answer: Answer, status: int) -> None:
    """Raise StepFailed unless the call came to ``status``."""
    if answer.status != status:
        raise StepFailed(f"expected {status}, got {answer.status} {answer.refusal}")


async def started(task: asyncio.Task[None], sign: asyncio.Event) -> None:
    """Wait for a task's sign that it has begun; what stops it before that is raised.

    Raises:
        StepFailed: it took too long.
    """
    waiting = asyncio.create_task(sign.wait())
    await asyncio.wait((task, waiting), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    if not waiting.done():
        waiting.cancel()
        raise StepFailed(f"waited {PATIENCE:.0f} s for an agent")
