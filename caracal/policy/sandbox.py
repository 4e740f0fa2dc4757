"""The part that lets the engine see a policy nobody vouches for: a process that may die.

Reads its work as one JSON object from standard input; the last line it writes is the answer.
Started by ``process.py`` in isolated mode with nothing of the parent's environment.

==================================================  =============================================
``{"check": [[name, content], …]}``                 ``{"refusal": …, "advice": […]}``; a refusal
                                                    is null, or reason and sentence
``{"evaluate": {"modules": …, "inputs": […]}}``     ``{"decisions": […]}``, or ``{"failed": "why"}``
==================================================  =============================================
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import regorus

from caracal.errors import Unprocessable
from caracal.policy.advice import advice
from caracal.policy.engine import QUERY, Bundle, Decision, PolicyCompileError, PolicyEngines, deny
from caracal.policy.limits import limit_cpu, limit_memory
from caracal.policy.module import Module
from caracal.policy.reasons import invalid
from caracal.policy.rules import inspect
from caracal.policy.samples import SAMPLES

MAX_MEMORY = 1 << 30
MAX_CPU_SECONDS = 2
MAX_COMPILE_SECONDS = 0.5
"""Of all policies together: a process that serves is at a stand while it compiles them."""

MAX_SAMPLE_SECONDS = 0.1
MAX_TRIAL_SECONDS = 0.5
"""As where policies serve: an evaluation that takes longer is ended there (sts.md 14)."""
_TAB = 4

_PLACE = re.compile(r"--> (\d+):(\d+):(\d+)$", re.MULTILINE)
_SAID = re.compile(r"^error: (.+)$", re.MULTILINE)
_MODULE = re.compile(r"\bat \d+:(?=\d+:\d+)")


def main() -> None:
    """Entry of the process."""
    work = json.load(sys.stdin)
    answer = _checked(work["check"]) if "check" in work else _evaluated(**work["evaluate"])
    sys.stdout.write(json.dumps(answer))


def _checked(modules: Sequence[tuple[str, str]]) -> dict[str, Any]:
    _limit(MAX_CPU_SECONDS + len(modules) // 64)
    found: list[str] = []
    refusal = None
    try:
        found = _check(modules)
    except Unprocessable as refused:
        refusal = refused
    except RecursionError:
        refusal = invalid("nesting_too_deep")
    except BaseException as error:
        if not _is_exhaustion(error):
            raise
        refusal = invalid("evaluation_timeout")
    told = None if refusal is None else [refusal.extras["detail"], refusal.description]
    return {"refusal": told, "advice": found}


def _evaluated(modules: Sequence[tuple[str, str]], inputs: Sequence[Any]) -> dict[str, Any]:
    _limit(MAX_CPU_SECONDS + len(modules) // 64 + len(inputs) // 2)
    engines = PolicyEngines(0)
    bundle = Bundle("", tuple((name, content) for name, content in modules))
    try:
        engines.load(bundle)
    except PolicyCompileError as error:
        return {"failed": error.description}
    return {"decisions": [asdict(_decided(engines, bundle, one)) for one in inputs]}


def _decided(engines: PolicyEngines, bundle: Bundle, policy_input: Any) -> Decision:
    started = time.process_time()
    decision = engines.evaluate(bundle, policy_input)
    if time.process_time() - started > MAX_TRIAL_SECONDS:
        return deny("evaluation_timeout", status="error")
    return decision


def _is_exhaustion(error: BaseException) -> bool:
    """Out of memory, in Python's words or in those of a panic of the engine."""
    return isinstance(error, MemoryError) or type(error).__name__ == "PanicException"


def _limit(cpu_seconds: int) -> None:
    limit_memory(MAX_MEMORY)
    limit_cpu(cpu_seconds)


def _check(modules: Sequence[tuple[str, str]]) -> list[str]:
    """Raises Unprocessable unless the modules may be stored together; returns advice on them."""
    engine = regorus.Engine()
    contents = [content for _, content in modules]
    started = time.process_time()
    for index, content in enumerate(contents):
        _run(contents, engine.add_policy, str(index), content)
    _limit_to(MAX_COMPILE_SECONDS, started)
    parsed = [Module(ast) for ast in json.loads(engine.get_ast_as_json())]
    inspect(parsed)
    results = [_tried(engine, contents, sample) for sample in SAMPLES]
    return [line for module in parsed for line in advice(module, results)]


def _tried(engine: Any, contents: Sequence[str], sample: Any) -> str:
    engine.set_input_json(json.dumps(sample))
    started = time.process_time()
    result = _run(contents, engine.eval_rule_as_json, QUERY)
    _limit_to(MAX_SAMPLE_SECONDS, started)
    return str(result)


def _limit_to(seconds: float, started: float) -> None:
    if time.process_time() - started > seconds:
        raise invalid("evaluation_timeout")


def _run(contents: Sequence[str], call: Any, *arguments: str) -> Any:
    """Calls the engine; its complaint becomes the reason ``syntax_error:<line>:<column>``."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise _complaint(contents, str(error)) from None


def _complaint(contents: Sequence[str], text: str) -> Unprocessable:
    place, said = _PLACE.search(text), _SAID.search(text)
    if place is None:
        return invalid("syntax_error:1:1")
    lines = contents[int(place[1])].split("\n")
    where = _position(lines, int(place[2]), int(place[3]))
    # The engine's places begin with the number of the module.
    words = _MODULE.sub("at ", said[1]) if said is not None else ""
    return invalid(f"syntax_error:{where}", words)


def _position(lines: list[str], line: int, column: int) -> str:
    """``line:column`` with the engine's column, where a tab is four wide, put right."""
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    width = 1
    for index, char in enumerate(text, start=1):
        if width >= column:
            return f"{line}:{index}"
        width += _TAB if char == "\t" else 1
    return f"{line}:{len(text) + 1}"


if __name__ == "__main__":
    main()
