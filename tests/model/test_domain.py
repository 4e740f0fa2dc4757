"""Hypothesis plays the domain alone, two commands at once: as if one had come before the other.

``CARACAL_DOMAIN_EXAMPLES`` says how many zones are played.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.model.domain import ENDS, Domain, Move
from tests.model.zone import AgentModel, EdgeModel, Limits, Said, Zone

EXAMPLES = int(os.environ.get("CARACAL_DOMAIN_EXAMPLES", "40"))
STEPS = 50
LIMITS = Limits(depth=4, children=3, zone=12, application=8)

pytestmark = pytest.mark.timeout(120 + EXAMPLES)
SCOPES = [frozenset({"read", "write"}), frozenset({"read"}), frozenset()]
OFTEN = ("spawn", "spawn", "delegate", "delegate", "delegate", "suspend", "resume", "revoke")
SEEDS = st.integers(0, 2**32 - 1)
NAMES = (*OFTEN, "terminate")


class Machine(RuleBasedStateMachine):
    """A zone; every step is one command, or one with another in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.zone, self.domain, self._made = Zone(LIMITS), Domain(LIMITS), 0
        self._runner = asyncio.Runner()
        self._dice = random.Random()

    def teardown(self) -> None:
        self._runner.close()

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        """Have something to play with."""
        self._dice.seed(seed)
        for name in ("spawn",) * 7 + ("delegate",) * 6:
            self._one(name)

    @rule(name=st.sampled_from(NAMES), seed=SEEDS)
    def one(self, name: str, seed: int) -> None:
        self._dice.seed(f"{seed} {self._made}")
        self._one(name)

    def _one(self, name: str) -> None:
        if (move := self._move(name, None)) is not None:
            said = self._runner.run(self.domain.do(move))
            assert said == move.at(self.zone), move
            assert not self.domain.differences(self.zone), move

    @rule(first=st.sampled_from(NAMES), second=st.sampled_from(NAMES), seed=SEEDS)
    def two(self, first: str, second: str, seed: int) -> None:
        self._dice.seed(f"{seed} {self._made}")
        if (move := self._move(first, None)) is None:
            return
        if (other := self._move(second, move)) is None:
            return
        said = list[Said]()

        async def meanwhile() -> None:
            said.append(await self.domain.do(other))

        self.domain.meanwhile = meanwhile
        outcome = self._runner.run(self.domain.do(move))
        self.domain.meanwhile = None
        self.zone = self._explained([move, other] if said else [move], [outcome, *said])

    def _explained(self, moves: list[Move], said: list[Said]) -> Zone:
        """Return the zone after one order of the commands that explains what was said and is."""
        tried = []
        for order in (1, -1):
            zone = self.zone.copy()
            answers = [move.at(zone) for move in moves[::order]]
            different = self.domain.differences(zone)
            if answers[::order] == said and not different:
                return zone
            tried.append((answers[::order], different))
        raise AssertionError((moves, said, tried))

    # --- what is asked for -------------------------------------------------------------------

    def _move(self, name: str, beside: Move | None) -> Move | None:
        """Choose a command; as a rule one about what another one is about, too."""
        agents = list(self.zone.agents)
        if beside is not None and self._dice.random() < 0.8:
            agents = self._near(beside)
        self._made += 1
        if name == "spawn":
            return self._spawn(agents)
        if name == "delegate":
            return self._delegate(agents) if agents else None
        near = set(agents)
        edges = [e.id for e in self.zone.edges.values() if {e.source, e.target} & near]
        things = edges if name == "revoke" else agents
        return Move(name, self._dice.choice(things)) if things else None

    def _near(self, move: Move) -> list[str]:
        """Return the agents that a command is about, with those above and below them."""
        edge = move.edge or self.zone.edges.get(move.thing)
        agent = move.agent.parent if move.agent else move.thing
        named = {edge.source, edge.target} if edge else {agent or ""}
        above = {one for name in named & self.zone.agents.keys() for one in self.zone.lineage(name)}
        below = [one for one in self.zone.agents if named & {*self.zone.lineage(one)}]
        return [*above, *below]

    def _spawn(self, agents: Sequence[str]) -> Move:
        rows = [self.zone.agents[one] for one in agents]
        parents = [row for row in rows if row.depth < LIMITS.depth]
        parent = self._dice.choice([None, *parents])
        application = parent.application if parent else self._dice.choice("ab")
        new = f"agent-{self._made}"
        asked = AgentModel(new, application, "s", parent.id if parent else None, 0, float("inf"))
        return Move("spawn", new, agent=asked)

    def _delegate(self, agents: Sequence[str]) -> Move:
        of, new = self._dice.choice, f"edge-{self._made}"
        near, any_ = of(agents), of(list(self.zone.agents))
        source, target = of([(near, any_), (any_, near)])
        asked = EdgeModel(
            new,
            source,
            target,
            of(SCOPES),
            ENDS.timestamp(),
            hops=of([4, 3, 2, 1]),
            ttl=of([60, None]),
            budget=of([1, None, None]),
        )
        inbound = self.zone.inbound(asked.source, 0)
        return Move("delegate", new, edge=asked, named=of([None, *(e.id for e in inbound)]))


def test_two_at_once_are_one_after_the_other() -> None:
    given = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="CARACAL_DOMAIN_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # what is said of a failure tells enough
    )
    run_state_machine_as_test(Machine, settings=given)
