"""The check of a policy before it is stored: control-plane.md section 6.

First what the text alone tells, then a process of its own that parses it, inspects the tree and
evaluates it on samples. That process has limits of memory and processor time and is killed at
its time limit, because the engine can be interrupted in no other way.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from weakref import WeakKeyDictionary

from caracal.errors import InternalError, Unprocessable
from caracal.policy.reasons import invalid
from caracal.policy.text import sanity

__all__ = ["MANIFEST_TIMEOUT", "TIMEOUT", "check_manifest", "check_policy", "sanity"]

TIMEOUT = 5.0
"""Seconds on the clock; the process itself may use 2 of a processor and 0.5 a sample."""

MANIFEST_TIMEOUT = 15.0
"""For up to 256 policies; 20 take a fifth of a second, 256 take two, and may use six."""

_PARALLEL = 2
_ROOT = str(Path(__file__).parents[2])
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from caracal.policy.sandbox import main; main()"
)
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "RUST_BACKTRACE": "0",
    "RUST_LIB_BACKTRACE": "0",
    "MIMALLOC_ARENA_RESERVE": "65536",  # KiB; else the engine reserves all the process may have
}

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def check_policy(content: str | bytes, *, timeout: float = TIMEOUT) -> None:
    """Raises Unprocessable ``invalid_rego`` with the reason in ``detail`` unless ``content`` may
    be stored. ``timeout`` in seconds counts from when the check gets one of its two places.
    """
    await check_manifest([content], timeout=timeout)


async def check_manifest(
    contents: Sequence[str | bytes],
    *,
    timeout: float = MANIFEST_TIMEOUT,
) -> None:
    """As ``check_policy`` for policies that will be evaluated together.

    Finds also what only their meeting makes: a second default of one rule, functions that reach
    each other, results that contradict on a sample.
    """
    texts = [sanity(content) for content in contents]
    async with _slot():
        refusal = await _inspected(texts, timeout)
    if refusal is not None:
        raise refusal


def _slot() -> asyncio.Semaphore:
    return _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_PARALLEL))


async def _inspected(texts: Sequence[str], timeout: float) -> Unprocessable | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-c", _START, _ROOT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        work = process.communicate(json.dumps([*enumerate(texts)]).encode())
        output, _ = await asyncio.wait_for(work, timeout)
    except TimeoutError:
        return invalid("evaluation_timeout")
    finally:
        await _end(process)
    return _answer(output, process.returncode)


def _environment() -> dict[str, str]:
    """Nothing of ours but where to find shared libraries: secrets stand in the environment."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return _ENVIRONMENT | ({"LD_LIBRARY_PATH": path} if path else {})


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def _answer(output: bytes, code: int | None) -> Unprocessable | None:
    """The refusal the process gave, or what its death says."""
    if code == 0:
        told = json.loads(output.splitlines()[-1])["refusal"]
        return None if told is None else Unprocessable("invalid_rego", told[1], detail=told[0])
    if code is not None and code < 0:
        return invalid("nesting_too_deep" if -code == Signals.SIGSEGV else "evaluation_timeout")
    raise InternalError("the process that checks policies failed")
