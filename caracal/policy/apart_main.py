"""The process in which policies that are kept apart are evaluated; ``apart.py`` starts it.

It lives on from one evaluation to the next, and may be killed at any moment. Work and answers are
lines of JSON:

======================================  ============================================================
``{"key": …, "modules": [[…, …], …]}``  ``{"failed": null}``, or why these names and texts do not
                                        compile
``{"key": …, "input": …}``              ``{"decision": …}``, or ``{"unknown": true}``: the modules
                                        of that key must be sent (again)
======================================  ============================================================
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from typing import Any

import orjson

from caracal.policy.engine import Bundle, PolicyCompileError, PolicyEngines
from caracal.policy.limits import limit_cpu, limit_memory

MAX_MEMORY = 1 << 29
MAX_ENGINE_BYTES = 1 << 26
MAX_CPU_SECONDS = 2
"""Of one piece of work; what asked for it kills it sooner, unless it is dead itself."""

NICENESS = 10
"""What is kept apart is kept apart because it takes too much: others go first."""


def main() -> None:
    """Entry of the process; ends with its input."""
    os.nice(NICENESS)
    limit_memory(MAX_MEMORY)
    engines = PolicyEngines(MAX_ENGINE_BYTES)
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        limit_cpu(int(time.process_time()) + MAX_CPU_SECONDS)
        out.write(orjson.dumps(_answer(engines, orjson.loads(line))) + b"\n")
        out.flush()


def _answer(engines: PolicyEngines, work: dict[str, Any]) -> dict[str, Any]:
    if "modules" in work:
        return {"failed": _loaded(engines, work)}
    if work["key"] not in engines:
        return {"unknown": True}
    return {"decision": asdict(engines.evaluate(Bundle(work["key"], ()), work["input"]))}


def _loaded(engines: PolicyEngines, work: dict[str, Any]) -> str | None:
    modules = tuple((name, content) for name, content in work["modules"])
    try:
        engines.load(Bundle(work["key"], modules))
    except PolicyCompileError as error:
        return error.description
    return None
