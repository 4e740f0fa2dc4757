"""The check of a policy before it is stored: control-plane.md section 6.

First what the text alone tells, then a process of its own that parses it, inspects the tree and
evaluates it on samples.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from caracal.errors import Unprocessable
from caracal.policy.process import Exhausted, run
from caracal.policy.reasons import invalid
from caracal.policy.text import sanity
from caracal.policy.turns import turn

__all__ = ["MANIFEST_TIMEOUT", "TIMEOUT", "advice_on", "check_manifest", "check_policy", "sanity"]

TIMEOUT = 5.0
"""Seconds on the clock; the process itself may use 2 of a processor, half a one to compile."""

MANIFEST_TIMEOUT = 15.0
"""For up to 256 policies; 20 take a fifth of a second, 256 take two, and may use six."""


async def check_policy(content: str | bytes, *, timeout: float = TIMEOUT) -> None:
    """Raises Unprocessable ``invalid_rego`` with the reason in ``detail`` unless ``content`` may
    be stored. ``timeout`` in seconds counts from when the check gets its turn.

    Raises TooMany 429 ``rate_limited`` when its owner has too much work waiting (``turns.py``).
    """
    await _checked([content], timeout)


async def check_manifest(
    contents: Sequence[str | bytes],
    *,
    timeout: float = MANIFEST_TIMEOUT,
) -> None:
    """As ``check_policy`` for policies that will be evaluated together.

    Finds also what only their meeting makes: a second default of one rule, functions that reach
    each other, results that contradict on a sample.
    """
    await _checked(contents, timeout)


async def advice_on(content: str | bytes, *, timeout: float = TIMEOUT) -> list[str]:
    """As ``check_policy``, and return what may be stored yet is hardly meant (``advice.py``)."""
    return await _checked([content], timeout)


async def _checked(contents: Sequence[str | bytes], timeout: float) -> list[str]:
    try:
        async with turn():
            texts = await _sane(contents)
            told = await run({"check": [*enumerate(texts)]}, timeout=timeout)
    except Exhausted as taken:
        raise invalid("nesting_too_deep" if taken.deep else "evaluation_timeout") from None
    if (refusal := told["refusal"]) is not None:
        raise Unprocessable("invalid_rego", refusal[1], detail=refusal[0])
    return list(told["advice"])


async def _sane(contents: Sequence[str | bytes]) -> list[str]:
    texts = []
    for content in contents:
        texts.append(sanity(content))
        await asyncio.sleep(0)  # a text takes up to 50 ms, and 256 in a row would stop all else
    return texts
