"""Decisions to try out, away from the processes that serve (control-plane.md section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caracal.policy.engine import Decision, PolicyCompileError, deny
from caracal.policy.process import Exhausted, run
from caracal.policy.turns import turn

TIMEOUT = 10.0
"""Seconds on the clock; the evaluation itself may use 0.5 of a processor."""


async def evaluate(
    modules: Sequence[tuple[str, str]],
    policy_input: Mapping[str, Any],
    *,
    timeout: float = TIMEOUT,
) -> Decision:
    """Return what the policies say together, decided in a process that is killed at its limits.

    As at an exchange: what goes wrong denies, with status ``error``.

    Args:
        modules: names and texts, in evaluation order; the texts passed ``check_manifest``.
        policy_input: JSON (sts.md section 14).
        timeout: in seconds.

    Raises:
        PolicyCompileError: the policies cannot be used together.
        TooMany: 429 ``rate_limited``, its owner has too much work waiting (``turns.py``).
    """
    return (await evaluate_all(modules, [policy_input], timeout=timeout))[0]


async def evaluate_all(
    modules: Sequence[tuple[str, str]],
    inputs: Sequence[Mapping[str, Any]],
    *,
    timeout: float = TIMEOUT,
) -> list[Decision]:
    """As ``evaluate`` for many inputs, in one process; if it is killed, all are denied.

    Raises:
        PolicyCompileError: the policies cannot be used together.
    """
    work = {"evaluate": {"modules": list(modules), "inputs": list(inputs)}}
    try:
        async with turn():
            told = await run(work, timeout=timeout)
    except Exhausted:
        return [deny("evaluation_timeout", status="error")] * len(inputs)
    if (why := told.get("failed")) is not None:
        raise PolicyCompileError(why)
    return [Decision(**decision) for decision in told["decisions"]]
