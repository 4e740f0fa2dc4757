"""Authority never grows along a path: decisions against a slow model of what edges allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, combinations, product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.errors import CaracalError
from caracal.services.coordinator.caller import Caller
from caracal.services.coordinator.delegating import Asked, decide
from tests.making import in_zone

NOW = clock.now()
SCOPES, RESOURCES, ACTIONS = "abc", ("r1", "r2", "r3"), "xy"
APP = "app"
CALLER = Caller(APP, APP, "zone", frozenset())


@dataclass
class Town:
    """A zone whose one application holds every resource; agents are any names."""

    id: str = "zone"
    edges: dict[str, dict[str, Any]] = field(default_factory=dict)

    def active_agent(self, agent_id: str) -> dict[str, Any]:
        return {"id": agent_id, "application_id": APP, "ancestors": []}

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        own = {"identifier": f"resource://{resource_id}", "scopes": list(SCOPES)}
        return {"id": resource_id, "gateway_application_id": APP, **own}

    def resource_named(self, identifier: str) -> dict[str, Any] | None:
        return self.resource(identifier.removeprefix("resource://"))

    def granted(self, application_id: str, resource_id: str) -> frozenset[str] | None:
        return None

    def inbound(self, agent_id: str) -> list[dict[str, Any]]:
        return [row for row in self.edges.values() if row["target_session_id"] == agent_id]

    def barred(self, ids: Iterable[str]) -> bool:
        return False

    def add(self, asked: Asked) -> dict[str, Any]:
        """Make an edge as the read model would show it."""
        decided = decide(self, CALLER, asked, NOW)
        with in_zone("zone"):
            edge = decided.edge(f"e{len(self.edges)}", "zone")
        row = {**vars(edge), "id": edge.aggregate_id, "expires_at": clock.parse(edge.expires_at)}
        self.edges[edge.aggregate_id] = row
        return row


Use = tuple[frozenset[str], str, str]


def uses(edge: dict[str, Any]) -> set[Use]:
    """Every (scopes, resource, action) that one exchange on the edge may have."""
    constraints = edge["constraints"]
    subsets = chain.from_iterable(combinations(edge["scopes"], n) for n in range(4))
    named = set(RESOURCES)
    if edge["resource_id"] is not None:
        named &= {edge["resource_id"]}
    if constraints.get("resources"):
        named &= {one.removeprefix("resource://") for one in constraints["resources"]}
    actions = constraints.get("actions", ACTIONS)
    most = constraints.get("budget", len(SCOPES))
    return {
        (frozenset(scopes), resource, action)
        for scopes, resource, action in product(subsets, named, actions)
        if len(set(scopes)) <= most
    }


def ends(edge: dict[str, Any]) -> datetime:
    extra = edge["constraints"].get("expires_at")
    until: datetime = edge["expires_at"]
    return until if extra is None else min(until, clock.parse(extra))


def hours(most: int) -> st.SearchStrategy[datetime]:
    return st.integers(1, most).map(lambda number: NOW + timedelta(hours=number))


NAMES: dict[str, st.SearchStrategy[Any]] = {
    "resources": st.lists(
        st.sampled_from(RESOURCES).map("resource://{}".format), unique=True, max_size=3
    ),
    "actions": st.lists(st.sampled_from(ACTIONS), unique=True),
    "ttl_seconds": st.integers(1, 3),
    "budget": st.integers(1, 3),
    "expires_at": hours(2).map(clock.rfc3339),
}
WIDER = {name: st.none() | values for name, values in NAMES.items()} | {
    "max_hops": st.none() | st.integers(1, 10)
}
CONSTRAINTS = st.fixed_dictionaries({"max_hops": st.integers(1, 10)}, optional=NAMES)


@st.composite
def requests(draw: st.DrawFn, source: str, target: str) -> Asked:
    return Asked(
        source_session_id=source,
        target_session_id=target,
        issuer_application_id=APP,
        receiver_application_id=APP,
        resource_id=draw(st.none() | st.sampled_from(RESOURCES)),
        scopes=tuple(draw(st.lists(st.sampled_from(SCOPES), unique=True))),
        constraints=draw(CONSTRAINTS),
        expires_at=draw(hours(2)),
        ttl_seconds=draw(st.none() | st.integers(1, 3)),
    )


@st.composite
def narrower(draw: st.DrawFn, source: str, target: str, parent: dict[str, Any]) -> Asked:
    """The parent again with one hop less, but for a member or two: many are let through."""
    wide, hops = draw(requests(source, target)), parent["constraints"].get("max_hops", 1)
    constraints = {**parent["constraints"], "max_hops": max(hops - 1, 1)}
    constraints |= draw(
        st.dictionaries(st.sampled_from(list(WIDER)), st.none(), max_size=1).flatmap(
            lambda names: st.fixed_dictionaries({name: WIDER[name] for name in names})
        )
    )
    given: dict[str, Any] = {
        "resource_id": parent["resource_id"],
        "scopes": tuple(parent["scopes"]),
        "expires_at": ends(parent),
    }
    for name in draw(st.sets(st.sampled_from(sorted(given)), max_size=1)):
        given[name] = getattr(wide, name)
    return replace(wide, **given, constraints=constraints, ttl_seconds=None)


@given(st.data())
def test_authority_never_grows_along_a_path(data: st.DataObject) -> None:
    town = Town()
    edge: dict[str, Any] | None = None
    for number in range(4):
        agents = f"a{number}", f"a{number + 1}"
        try:
            if edge is None:
                edge = town.add(data.draw(requests(*agents)))
                continue
            child = town.add(data.draw(narrower(*agents, edge)))
        except CaracalError:
            return
        assert child["parent_edge_id"] == edge["id"]
        assert uses(child) <= uses(edge)
        assert child["expires_at"] <= ends(edge)
        assert child["constraints"].get("max_hops", 1) < edge["constraints"].get("max_hops", 1)
        cap = edge["constraints"].get("ttl_seconds")
        assert cap is None or child["constraints"]["ttl_seconds"] <= cap
        edge = child


@given(st.data())
def test_no_more_than_the_model_is_refused(data: st.DataObject) -> None:
    """A child that is the parent again, with one hop less, is always let through."""
    town = Town()
    try:
        parent = town.add(data.draw(requests("a", "b")))
    except CaracalError:
        return
    hops = parent["constraints"].get("max_hops", 1) - 1
    if not hops:
        return
    child = town.add(
        Asked(
            source_session_id="b",
            target_session_id="c",
            issuer_application_id=APP,
            receiver_application_id=APP,
            resource_id=parent["resource_id"],
            scopes=tuple(parent["scopes"]),
            constraints={**parent["constraints"], "max_hops": hops},
            expires_at=ends(parent),
        )
    )
    assert uses(child) == uses(parent)
