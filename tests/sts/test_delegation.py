"""Edges in use, against a slow model: no mandate goes beyond any edge of its path."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caracal import clock
from caracal.events.delegation_constraints import MAX_HOPS
from caracal.services.sts.binding import Binding
from caracal.services.sts.delegation import Exercised, acting, exercised
from caracal.services.sts.refusals import Refused

NOW = datetime(2030, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SECOND = int(NOW.timestamp())
SCOPES = ["read", "write", "send"]
RESOURCES = [{"id": f"r{number}", "identifier": f"resource://{number}"} for number in range(3)]


@dataclass
class Zone:
    """The graph of a zone, as dictionaries."""

    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[str, dict[str, Any]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    epoch_at: int = 100

    def agent(self, agent_id: str) -> dict[str, Any] | None:
        return self.agents.get(agent_id)

    def edge(self, edge_id: str) -> dict[str, Any] | None:
        return self.edges.get(edge_id)

    def epoch(self) -> int:
        return self.epoch_at

    def barred(self, ids: Iterable[str]) -> bool:
        return not self.dead.isdisjoint(ids)

    def add_agent(self, **members: Any) -> str:
        agent_id = f"a{len(self.agents)}"
        self.agents[agent_id] = {
            "id": agent_id,
            "application_id": f"app of {agent_id}",
            "subject_session_id": "s",
            "ancestors": [],
            "status": "active",
            "spawned_at": NOW - timedelta(seconds=100),
            "ttl_seconds": 3600,
        } | members
        return agent_id

    def add_edge(self, source: str, target: str, **members: Any) -> str:
        edge_id = f"e{len(self.edges)}"
        self.edges[edge_id] = {
            "id": edge_id,
            "source_session_id": source,
            "target_session_id": target,
            "issuer_application_id": self.agents[source]["application_id"],
            "receiver_application_id": self.agents[target]["application_id"],
            "parent_edge_id": None,
            "resource_id": None,
            "scopes": SCOPES,
            "constraints": {},
            "status": "active",
            "expires_at": NOW + timedelta(hours=1),
            "position": 7,
        } | members
        return edge_id


def exercise(zone: Zone, edge_id: str, scopes: Iterable[str] = ()) -> Exercised:
    target = zone.edges[edge_id]["target_session_id"]
    owner = zone.agents[target]["application_id"]
    return exercised(zone, edge_id, target, owner=owner, scopes=list(scopes), now=NOW)


def moments(least: int) -> st.SearchStrategy[datetime]:
    return st.integers(least, 30).map(lambda seconds: NOW + timedelta(seconds=seconds))


SOME_SCOPES = st.lists(st.sampled_from(SCOPES), unique=True)
SOME_RESOURCES = st.lists(st.sampled_from([one["identifier"] for one in RESOURCES]))


@st.composite
def constraints(draw: st.DrawFn, sound: bool) -> dict[str, Any]:
    given = {
        "max_hops": draw(st.integers(4 if sound else 1, 5)),
        "ttl_seconds": draw(st.none() | st.integers(1, 30)),
        "budget": draw(st.none() | st.integers(2 if sound else 1, 3)),
        "resources": draw(st.none() | SOME_RESOURCES),
        "expires_at": draw(st.none() | moments(2 if sound else -2).map(clock.rfc3339)),
    }
    if not sound and draw(st.booleans()):
        given["budget"] = draw(SOME_SCOPES)
    return {name: value for name, value in given.items() if value is not None}


@st.composite
def chains(draw: st.DrawFn) -> tuple[Zone, list[str], list[str]]:
    """A chain of edges and what is wanted; in half of them anything may not hold."""
    zone, sound = Zone(), draw(st.booleans())
    states = st.sampled_from(["active"] * 4 + ([] if sound else ["suspended"]))
    ends: list[str] = []
    for _ in range(draw(st.integers(2, 5))):
        ttls = st.none() | st.integers(102 if sound else 98, 130)
        above: list[str] = []
        for _ in range(draw(st.integers(0, 2))):
            made = zone.add_agent(ancestors=above, ttl_seconds=draw(ttls), status=draw(states))
            above = [*above, made]
        ends.append(zone.add_agent(ancestors=above, ttl_seconds=draw(ttls), status=draw(states)))
    path: list[str] = []
    for source, target in pairwise(ends):
        members: dict[str, Any] = {
            "parent_edge_id": path[-1] if path else None,
            "constraints": draw(constraints(sound)),
            "expires_at": draw(moments(2 if sound else -2)),
            "scopes": SCOPES if sound else draw(SOME_SCOPES),
            "resource_id": draw(st.none() | st.sampled_from([one["id"] for one in RESOURCES])),
        }
        path.append(zone.add_edge(source, target, **members))
    if not sound and draw(st.booleans()):
        zone.dead.add(draw(st.sampled_from([*zone.agents, *zone.edges])))
    return zone, path, draw(SOME_SCOPES)[:2]


def ends_of(row: dict[str, Any]) -> float:
    said = row["constraints"].get("expires_at")
    ends = row["expires_at"] if said is None else min(row["expires_at"], clock.parse(said))
    return float(ends.timestamp())


def may_act(zone: Zone, agent_id: str) -> bool:
    row = zone.agents[agent_id]
    lineage = [agent_id, *row["ancestors"]]
    return zone.dead.isdisjoint(lineage) and all(
        zone.agents[one]["status"] == "active" and agent_ends(zone.agents[one]) >= SECOND + 1
        for one in lineage
    )


def agent_ends(row: dict[str, Any]) -> float:
    if row["ttl_seconds"] is None:
        return float("inf")
    return float((row["spawned_at"] + timedelta(seconds=row["ttl_seconds"])).timestamp())


def allowed(zone: Zone, path: list[str], scopes: list[str]) -> bool:
    """The rules of section 9, one after the other, for edges that do join."""
    for number, edge_id in enumerate(path):
        row = zone.edges[edge_id]
        limits = row["constraints"]
        budget = limits.get("budget")
        spent = (
            set(scopes) <= set(budget)
            if isinstance(budget, list)
            else (budget is None or len(scopes) <= budget)
        )
        holds = (
            may_act(zone, row["source_session_id"])
            and may_act(zone, row["target_session_id"])
            and edge_id not in zone.dead
            and ends_of(row) >= SECOND + 1
            and set(scopes) <= set(row["scopes"])
            and spent
            and len(path) - number <= limits["max_hops"]
        )
        if not holds:
            return False
    return True


def attempted(zone: Zone, path: list[str], scopes: list[str]) -> Exercised | None:
    with suppress(Refused):
        return exercise(zone, path[-1], scopes)
    return None


@settings(max_examples=400, deadline=None)
@given(chains())
def test_a_mandate_never_exceeds_an_edge_of_its_path(
    given_: tuple[Zone, list[str], list[str]],
) -> None:
    zone, path, scopes = given_
    found = attempted(zone, path, scopes)
    assert (found is not None) == allowed(zone, path, scopes)
    if found is None:
        return
    assert found.edge_ids == path
    binding = Binding("s", found.actors[-1], found)
    ends = binding.ends(SECOND, SECOND + 900)
    assert ends > SECOND
    for edge_id in path:
        row = zone.edges[edge_id]
        limits = row["constraints"]
        assert ends <= ends_of(row)
        assert ends - SECOND <= limits.get("ttl_seconds", 900)
        for end in ("source_session_id", "target_session_id"):
            lineage = [row[end], *zone.agents[row[end]]["ancestors"]]
            assert set(lineage) <= binding.anchors() | {"s"}
            assert ends <= min(agent_ends(zone.agents[one]) for one in lineage)
    for resource in RESOURCES:
        named = [
            zone.edges[edge]["resource_id"] in (None, resource["id"])
            and resource["identifier"]
            in (zone.edges[edge]["constraints"].get("resources") or [resource["identifier"]])
            for edge in path
        ]
        assert found.covers(resource) == all(named)


def chain_of(length: int, **members: Any) -> tuple[Zone, str]:
    zone = Zone()
    agents = [zone.add_agent() for _ in range(length + 1)]
    edge_id = None
    for source, target in pairwise(agents):
        given_ = {"parent_edge_id": edge_id, "constraints": {"max_hops": MAX_HOPS}} | members
        edge_id = zone.add_edge(source, target, **given_)
    assert edge_id is not None
    return zone, edge_id


def test_ten_edges_are_a_path_and_eleven_are_none() -> None:
    assert len(exercise(*chain_of(MAX_HOPS)).path) == MAX_HOPS
    with pytest.raises(Refused, match="delegation path invalid"):
        exercise(*chain_of(MAX_HOPS + 1))


def test_an_epoch_that_the_view_lacks_refuses() -> None:
    """The change that made the edge moved the epoch: a view without it has missed something."""
    zone, edge_id = chain_of(1)
    zone.epoch_at = 6
    with pytest.raises(Refused, match="delegation graph epoch unavailable") as raised:
        exercise(zone, edge_id)
    assert raised.value.status == "delegation_invalid"
    zone.epoch_at = 7
    assert exercise(zone, edge_id).epoch == 7


def test_a_loop_of_edges_ends() -> None:
    zone, edge_id = chain_of(3)
    zone.edges["e0"]["parent_edge_id"] = "e2"
    with pytest.raises(Refused, match="delegation path invalid"):
        exercise(zone, edge_id)


@pytest.mark.parametrize(
    ("missing", "dead", "unknown"),
    [
        ("e2", (), True),
        ("e0", (), True),
        ("a2", (), True),
        ("a3", (), True),
        ("e0", ("e0",), False),
    ],
)
def test_what_is_not_there_yet_is_unknown(missing: str, dead: tuple[str], unknown: bool) -> None:
    """It is looked for at the log's head; what is known to have ended is not."""
    zone, edge_id = chain_of(3)
    target, owner = "a3", zone.agents["a3"]["application_id"]
    zone.dead.update(dead)
    zone.agents.pop(missing, None)
    zone.edges.pop(missing, None)
    with pytest.raises(Refused) as raised:
        exercised(zone, edge_id, target, owner=owner, scopes=(), now=NOW)
    assert raised.value.unknown is unknown


def test_an_agent_without_limit_of_time_acts_for_ever() -> None:
    zone = Zone()
    agent = zone.add_agent(ttl_seconds=None, spawned_at=NOW - timedelta(days=9999))
    actor = acting(zone, agent, NOW)
    assert actor is not None
    assert Binding("s", actor).ends(SECOND, SECOND + 900) == SECOND + 900
