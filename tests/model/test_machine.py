"""Hypothesis plays zones at running services: two Coordinators, two STSs, Gateway, worker.

``CARACAL_MODEL_EXAMPLES`` and ``CARACAL_MODEL_STEPS`` say how many zones, and how much in each.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg import AsyncConnection

from tests.flow.oracle import check_rebuilt
from tests.model.local import Stage, stage
from tests.model.play import BEGINNING, OFTEN, Play
from tests.model.zone import Limits

EXAMPLES = int(os.environ.get("CARACAL_MODEL_EXAMPLES", "4"))
STEPS = int(os.environ.get("CARACAL_MODEL_STEPS", "30"))
_LONG = "CARACAL_MODEL_EXAMPLES" in os.environ
SEEDS = st.integers(0, 2**32 - 1)
_ENDING = ("suspend", "resume", "terminate", "revoke", "end_session")
_MUST_COME = {"POST agents 201", "POST delegations 201", "mint 200"}
_SECONDS = 60  # one step, at most

pytestmark = pytest.mark.timeout(120 + EXAMPLES * STEPS)


@pytest.fixture
async def running(database_url: str, redis_url: str) -> AsyncIterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        async with stage(database_url, redis_url, Limits(), patch) as made:
            yield made


class Machine(RuleBasedStateMachine):
    """One zone; each rule is a command of :class:`Play`, compared with the model right after."""

    stage: Stage
    loop: asyncio.AbstractEventLoop
    outcomes: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        scene = self._run(self.stage.scene())
        self.play = Play(scene, Limits())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(_SECONDS)
        except AssertionError as error:
            error.add_note("\n".join(self.play.trail))
            raise

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        """Have something to play with."""
        for name in BEGINNING:
            self._do(name, seed)
        self._run(self.play.check())

    @rule(name=st.sampled_from(OFTEN), seed=SEEDS)
    def step(self, name: str, seed: int) -> None:
        self._do(name, seed)
        self._run(self.play.check(everywhere=name in _ENDING))

    def _do(self, name: str, seed: int) -> None:
        """Choices hang on a seed: only hypothesis' own thread may draw."""
        dice = random.Random(f"{seed} {self.play.turn}")
        self._run(self.play.do(name, dice.choice))

    def teardown(self) -> None:
        self._run(self.play.check(everywhere=True))
        self.outcomes.update(self.play.outcomes)


async def test_whatever_is_asked_for(running: Stage) -> None:
    """Agents, edges, mandates and counters are the model's; the read models are the log's."""
    Machine.stage, Machine.loop = running, asyncio.get_running_loop()
    Machine.outcomes = Counter()
    given = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=not _LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # a trail tells enough, and a replay takes long
    )
    await asyncio.to_thread(run_state_machine_as_test, Machine, settings=given)
    url = running.ports.database_url
    async with await AsyncConnection.connect(url, autocommit=True) as db:
        await check_rebuilt(url, db)
    print(*sorted(Machine.outcomes.items()), sep="\n")
    came = {outcome.rpartition(" ")[0] for outcome in Machine.outcomes}
    assert came >= _MUST_COME, Machine.outcomes
