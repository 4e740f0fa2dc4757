"""Policies evaluated in a process that may die: as in ours, and within limits."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from caracal.policy import apart, apart_main
from caracal.policy.apart import Apart, ApartPool, Stalled
from caracal.policy.engine import Bundle, PolicyCompileError, PolicyEngines, deny
from caracal.policy.samples import SAMPLES
from tests.policy.test_check import SCOPES
from tests.sts.stalling import EATS, STALLS

FAILED = deny("policy_eval_failed", status="error")
ODD = {"context": {"requested_scopes": ["odd"]}}
GOOD = Bundle("good", (("scopes", SCOPES),))


@pytest.fixture
async def pool() -> AsyncIterator[ApartPool]:
    made = ApartPool(0.5)
    yield made
    await made.close()


@pytest.fixture
async def one() -> AsyncIterator[Apart]:
    made = Apart(0.5)
    yield made
    await made.close()


def pid_of(one: Apart) -> int:
    assert one._process is not None
    return one._process._process.pid


async def test_it_says_what_this_process_would_say(pool: ApartPool) -> None:
    here = PolicyEngines(1 << 20)
    for sample in SAMPLES:
        said = await pool.evaluate(GOOD, sample)
        assert asdict(said) == asdict(here.evaluate(GOOD, sample))
    assert pool.stalls == 0


@pytest.mark.parametrize("content", [STALLS, EATS])
async def test_what_takes_too_much_denies_and_the_next_is_not_touched(
    pool: ApartPool, content: str
) -> None:
    bundle = Bundle("bad", (("a", content),))
    assert (await pool.evaluate(bundle, {})).allowed
    began = time.monotonic()
    assert await pool.evaluate(bundle, ODD) == FAILED
    assert time.monotonic() - began < 5
    assert pool.stalls == 1
    assert (await pool.evaluate(bundle, {})).allowed


async def test_one_bundle_takes_no_more_than_one_process(pool: ApartPool) -> None:
    bad = Bundle("bad", (("a", STALLS),))
    assert (await pool.evaluate(bad, {})).allowed
    assert (await pool.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"
    storm = [asyncio.create_task(pool.evaluate(bad, ODD)) for _ in range(apart.MAX_WAITING + 8)]
    await asyncio.sleep(0)
    said = await pool.evaluate(GOOD, SAMPLES[0])
    assert said.evaluation_status == "complete"
    assert not all(task.done() for task in storm)
    assert {(await task).evaluation_status for task in storm} == {"error"}
    gc.collect()
    assert not pool._turns


async def test_what_does_not_compile_is_said(pool: ApartPool) -> None:
    with pytest.raises(PolicyCompileError):
        await pool.evaluate(Bundle("broken", (("a", "package caracal.authz\nresult := {"),)), {})
    assert (await pool.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": "x" * 300_000}, {"a": 1 << 70}])
async def test_input_that_is_none_denies(one: Apart, value: dict[str, Any]) -> None:
    assert await one.evaluate(GOOD, value) == FAILED
    assert (await one.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"


async def test_one_that_is_killed_is_replaced(one: Apart) -> None:
    await one.evaluate(GOOD, SAMPLES[0])
    before = pid_of(one)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(Stalled):
        await one.evaluate(GOOD, SAMPLES[0])
    assert (await one.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"
    assert pid_of(one) != before


async def test_a_cancelled_evaluation_gives_its_answer_to_nobody(one: Apart) -> None:
    stalls = Bundle("bad", (("a", STALLS),))
    await one.evaluate(stalls, {})
    task = asyncio.create_task(one.evaluate(stalls, ODD))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (await one.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"


async def test_bundles_that_had_to_go_are_sent_again(
    one: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    padding = "# " + "x" * 60_000
    number = apart_main.MAX_ENGINE_BYTES // (160 * 60_000) + 2
    bundles = [Bundle(str(n), (("a", f"{SCOPES}\n{padding}"),)) for n in range(number)]
    for bundle in [*bundles, *bundles]:
        assert (await one.evaluate(bundle, SAMPLES[0])).evaluation_status == "complete"


async def test_one_that_does_not_start_denies(
    pool: ApartPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(apart, "command", lambda module: ("/nowhere",))
    assert await pool.evaluate(GOOD, SAMPLES[0]) == FAILED
    monkeypatch.setattr(apart, "command", lambda module: ("/bin/false",))
    assert await pool.evaluate(GOOD, SAMPLES[0]) == FAILED
    assert "does not start" in caplog.text
    monkeypatch.undo()
    assert (await pool.evaluate(GOOD, SAMPLES[0])).evaluation_status == "complete"


async def test_it_has_nothing_of_our_environment(
    one: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZONE_KEK", "secret")
    await one.evaluate(GOOD, SAMPLES[0])
    assert b"secret" not in Path(f"/proc/{pid_of(one)}/environ").read_bytes()


async def test_the_processes_end_with_us() -> None:
    made = Apart(0.5)
    await made.evaluate(GOOD, SAMPLES[0])
    pid = pid_of(made)
    await made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
