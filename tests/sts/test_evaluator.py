"""Where a bundle is evaluated: here until the parent, or its own slowness, says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from caracal.policy.apart import ApartPool
from caracal.policy.beat import EVERYTHING, Board, label
from caracal.policy.engine import Bundle, PolicyCompileError, PolicyEngines
from caracal.services.sts.evaluator import Evaluator
from tests.sts.stalling import ALLOWS, slow

ZONE, SHA = "zone", "ab" * 32
KEY = label(ZONE, SHA)
ALLOWING = Bundle(SHA, (("a", ALLOWS),))
BROKEN = Bundle(SHA, (("a", "package caracal.authz\nresult := {"),))


@dataclass
class Surroundings:
    board: Board
    engines: PolicyEngines
    pool: ApartPool

    def evaluator(self, timeout: float = 0.5) -> Evaluator:
        return Evaluator(self.engines, self.board.beat(0), self.pool, timeout)


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    made = Surroundings(Board(), PolicyEngines(1 << 20), ApartPool(0.5))
    yield made
    await made.pool.close()


@pytest.mark.parametrize("name", [SHA, ZONE, EVERYTHING])
async def test_what_the_parent_names_is_kept_apart_until_it_is_named_no_more(
    around: Surroundings, name: str
) -> None:
    evaluator = around.evaluator()
    assert not evaluator.is_apart(ZONE, ALLOWING)
    around.board.publish([name], lost=1)
    assert evaluator.is_apart(ZONE, ALLOWING)
    assert evaluator.lost == 1
    assert evaluator.is_apart("other", Bundle("cd" * 32, ())) == (name == EVERYTHING)
    evaluator.load(ZONE, BROKEN)  # not here
    assert len(around.engines) == 0
    assert (await evaluator.apart(ALLOWING, {})).allowed
    assert evaluator.counters.apart_total == evaluator.counters.eval_total == 1
    around.board.publish([], lost=1)
    assert not evaluator.is_apart(ZONE, ALLOWING)
    with pytest.raises(PolicyCompileError):
        evaluator.load(ZONE, BROKEN)


async def test_what_is_slow_again_and_again_is_kept_apart(around: Surroundings) -> None:
    evaluator = around.evaluator(timeout=0.02)
    bundle = Bundle(SHA, (("a", slow(30)),))
    for _ in range(3):
        assert not evaluator.is_apart(ZONE, bundle)
        assert evaluator.here(KEY, bundle, {}).allowed
    assert evaluator.is_apart(ZONE, bundle)
    assert not evaluator.is_apart(ZONE, Bundle("cd" * 32, ()))


async def test_what_is_quick_stays(around: Surroundings) -> None:
    evaluator = around.evaluator()
    for _ in range(100):
        assert evaluator.here(KEY, ALLOWING, {}).allowed
    assert not evaluator.is_apart(ZONE, ALLOWING)


async def test_the_parent_sees_compiling_and_evaluating(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spied(name: str) -> None:
        real = getattr(PolicyEngines, name)

        def looking(*args: object) -> object:
            evaluation = around.board.evaluation(0)
            seen.append(evaluation and (evaluation.zone_id, evaluation.manifest_sha256))
            return real(*args)

        monkeypatch.setattr(PolicyEngines, name, looking)

    spied("load")
    spied("evaluate")
    evaluator = around.evaluator()
    evaluator.load(ZONE, ALLOWING)
    assert around.board.evaluation(0) is None
    evaluator.here(KEY, ALLOWING, {})
    with pytest.raises(PolicyCompileError):
        evaluator.load(ZONE, Bundle("broken", BROKEN.modules))
    assert around.board.evaluation(0) is None
    assert seen == [(ZONE, SHA), (ZONE, SHA), (ZONE, "broken")]
