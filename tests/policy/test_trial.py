"""Decisions tried out in a process of their own: as at an exchange, and within limits."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import pytest

from caracal.policy.engine import Bundle, PolicyCompileError, PolicyEngines, deny
from caracal.policy.samples import SAMPLES
from caracal.policy.trial import evaluate, evaluate_all
from tests.policy.test_check import HEAD, LONG_COMPREHENSION, MEMORY, SCOPES

TIMED_OUT = deny("evaluation_timeout", status="error")


@pytest.mark.parametrize("sample", SAMPLES[:4])
async def test_it_says_what_an_exchange_would_say(sample: dict[str, Any]) -> None:
    modules = (("scopes", SCOPES),)
    here = PolicyEngines(1 << 20).evaluate(Bundle("0", modules), sample)
    assert asdict(await evaluate(modules, sample)) == asdict(here)


async def test_many_inputs_at_once() -> None:
    engines, bundle = PolicyEngines(1 << 20), Bundle("0", (("scopes", SCOPES),))
    found = await evaluate_all(bundle.modules, SAMPLES)
    assert found == [engines.evaluate(bundle, sample) for sample in SAMPLES]
    assert await evaluate_all(bundle.modules, []) == []


async def test_several_policies_speak_together() -> None:
    modules = [
        ("a", HEAD + 'result := {"decision": word, "evaluation_status": "complete"}'),
        ("b", HEAD + 'word := "allow" if input.yes\nresult := 1 if false'),
    ]
    assert (await evaluate(modules, {"yes": True})).allowed
    assert await evaluate(modules, {}) == deny_without_a_word()


def deny_without_a_word() -> Any:
    return PolicyEngines(0).evaluate(Bundle("0", (("a", HEAD + "result := 1 if false"),)), {})


@pytest.mark.parametrize("content", [LONG_COMPREHENSION, MEMORY + "}"])
async def test_what_takes_too_much_denies(content: str) -> None:
    """Such a policy is not stored; its input may make one of another."""
    gated = HEAD + content.replace("xs := [", "xs := input.xs\nys := [", 1)
    xs = {"xs": list(range(100))}
    assert await evaluate([("a", gated)], xs) == TIMED_OUT


async def test_the_clock_ends_it() -> None:
    started = time.monotonic()
    assert await evaluate([("a", HEAD + LONG_COMPREHENSION)], {}, timeout=0.3) == TIMED_OUT
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("content", ["result := nowhere", "result := {"])
async def test_what_does_not_compile_is_said(content: str) -> None:
    with pytest.raises(PolicyCompileError):
        await evaluate([("a", HEAD + content)], {})


async def test_results_that_contradict_deny() -> None:
    contradicting = HEAD + "result := 1 if input.x\nresult := 2 if input.y"
    found = await evaluate([("a", contradicting)], {"x": 1, "y": 1})
    assert found == deny("policy_eval_failed", status="error")


async def test_the_process_is_another() -> None:
    before = os.times().user
    await evaluate([("a", HEAD + LONG_COMPREHENSION)], {}, timeout=0.5)
    assert os.times().user - before < 0.3
