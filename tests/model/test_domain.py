"""Hypothesis plays the domain alone, two commands at once: as if one had come before the other.

``CARACAL_DOMAIN_EXAMPLES`` says how many zones are played.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.model.domain import ENDS, Domain, Move
from tests.model.zone import AgentModel, EdgeModel, Limits, Said, Zone

EXAMPLES = int(os.environ.get("CARACAL_DOMAIN_EXAMPLES", "25"))
STEPS = 50
LIMITS = Limits(depth=4, children=3, zone=12, application=8)
SCOPES = [frozenset({"read", "write"}), frozenset({"read"}), frozenset()]
OFTEN = ("spawn", "spawn", "delegate", "delegate", "delegate", "suspend", "resume", "revoke")
NAMES = (*OFTEN, "terminate")


class Machine(RuleBasedStateMachine):
    """A zone; every step is one command, or one with another in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.zone, self.domain, self._made = Zone(LIMITS), Domain(LIMITS), 0
        self._runner = asyncio.Runner()

    def teardown(self) -> None:
        self._runner.close()

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Have something to play with."""
        for name in ("spawn",) * 7 + ("delegate",) * 6:
            self._one(data, name)

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def one(self, data: st.DataObject, name: str) -> None:
        self._one(data, name)

    def _one(self, data: st.DataObject, name: str) -> None:
        move = self._move(data, name)
        if move is not None:
            said = self._runner.run(self.domain.do(move))
            assert said == move.at(self.zone), move
            assert not self.domain.differences(self.zone), move

    @rule(data=st.data(), names=st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)))
    def two(self, data: st.DataObject, names: tuple[str, str]) -> None:
        first, second = (self._move(data, name) for name in names)
        if first is None or second is None:
            return
        said: list[Said] = []

        async def meanwhile() -> None:
            said.append(await self.domain.do(second))

        self.domain.meanwhile = meanwhile
        outcome = self._runner.run(self.domain.do(first))
        self.domain.meanwhile = None
        moves = [first, second] if said else [first]
        self.zone = self._explained(moves, [outcome, *said])

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

    def _move(self, data: st.DataObject, name: str) -> Move | None:
        agents, edges = list(self.zone.agents), list(self.zone.edges)
        self._made += 1
        if name == "spawn":
            return self._spawn(data)
        if name == "delegate":
            return self._delegate(data) if agents else None
        things = edges if name == "revoke" else agents
        return Move(name, _of(data, things)) if things else None

    def _spawn(self, data: st.DataObject) -> Move:
        parents = [row for row in self.zone.agents.values() if row.depth < LIMITS.depth]
        parent = data.draw(st.none() | st.sampled_from(parents)) if parents else None
        application = parent.application if parent else data.draw(st.sampled_from(["a", "b"]))
        new = f"agent-{self._made}"
        asked = AgentModel(new, application, "s", parent and parent.id, 0, float("inf"))
        return Move("spawn", new, agent=asked)

    def _delegate(self, data: st.DataObject) -> Move:
        source, target = _of(data, list(self.zone.agents)), _of(data, list(self.zone.agents))
        new, inbound = f"edge-{self._made}", [e.id for e in self.zone.inbound(source, 0)]
        asked = EdgeModel(
            new,
            source,
            target,
            _of(data, SCOPES),
            ENDS.timestamp(),
            hops=_of(data, [4, 3, 2, 1]),
            ttl=_of(data, [60, None]),
            budget=_of(data, [1, None]),
        )
        named = data.draw(st.sampled_from([None, *inbound]))
        return Move("delegate", new, edge=asked, named=named)


def _of(data: st.DataObject, options: Sequence[st.Ex]) -> st.Ex:
    return data.draw(st.sampled_from(list(options)))


def test_two_at_once_are_one_after_the_other() -> None:
    given = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="CARACAL_DOMAIN_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=given)
