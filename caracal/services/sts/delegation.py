"""The agent that acts, and the delegation edge that it exercises (contract, section 9).

Pure: the view answers from memory, and every walk is bounded by the depth of agents and the length
of a path, never by the size of the zone. All that does not hold refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from caracal.errors import BadInput
from caracal.events.delegation_constraints import MAX_HOPS, Constraints, read
from caracal.projections.memory import Row
from caracal.services.sts.refusals import Refused, denied

DELEGATION_INVALID = "delegation_invalid"


class Graph(Protocol):
    """What a zone's view knows of agents and edges; what has ended it does not know."""

    def agent(self, agent_id: str) -> Row | None:
        """Return an agent of the zone that has not ended."""
        ...

    def edge(self, edge_id: str) -> Row | None:
        """Return an edge of the zone that has not ended."""
        ...

    def epoch(self) -> int:
        """Return the log position of the zone's last edge change; 0 if there was none."""
        ...

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ...


@dataclass(frozen=True, slots=True)
class Actor:
    """An agent that may act: it and all above it are active and in their time.

    Attributes:
        row: of the read model.
        lineage: its ancestors, root first, and itself.
        ends_at: when its time, or that of one above it, is over; Unix seconds.
    """

    row: Row
    lineage: tuple[str, ...]
    ends_at: int


@dataclass(frozen=True, slots=True)
class Link:
    """An edge of a path; ``constraints`` are None when they are not understood."""

    row: Row
    constraints: Constraints | None

    @property
    def ends_at(self) -> int:
        """Return when it is over, Unix seconds."""
        extra = self.constraints.expires_at if self.constraints else None
        ends: datetime = self.row["expires_at"]
        return int((ends if extra is None else min(ends, extra)).timestamp())

    def covers(self, resource: Row) -> bool:
        """Say whether it lends authority on a resource: all that it names must agree."""
        allowed = self.constraints.resources if self.constraints else ()
        return self.row["resource_id"] in (None, resource["id"]) and (
            not allowed or resource["identifier"] in allowed
        )


@dataclass(frozen=True, slots=True)
class Exercised:
    """A delegation edge in use, with the path of edges that it was narrowed from.

    Attributes:
        path: edges, root first; the last one is exercised.
        actors: the source of each, then the target of the last.
        epoch: log position of the zone's last edge change.
        chain: the claim ``delegation_chain``.
    """

    path: tuple[Link, ...]
    actors: tuple[Actor, ...]
    epoch: int
    chain: tuple[dict[str, str], ...]

    @property
    def edge(self) -> Row:
        """Return the edge that is exercised."""
        return self.path[-1].row

    @property
    def edge_ids(self) -> list[str]:
        """Return the path, root first."""
        return [link.row["id"] for link in self.path]

    @property
    def ends_at(self) -> int:
        """Return when the first of all edges and agents is over, Unix seconds."""
        edges = (link.ends_at for link in self.path)
        return min(*edges, *(actor.ends_at for actor in self.actors))

    @property
    def most_seconds(self) -> int | None:
        """Return the longest life that all edges allow a mandate; None: they do not say."""
        said = (link.constraints.ttl_seconds for link in self.path if link.constraints)
        return min((seconds for seconds in said if seconds is not None), default=None)

    def covers(self, resource: Row) -> bool:
        """Say whether every edge of the path lends authority on a resource."""
        return all(link.covers(resource) for link in self.path)

    def claims(self) -> dict[str, Any]:
        """Return what a mandate says of it (contract, section 12)."""
        edge = self.edge
        return {
            "delegation_edge_id": edge["id"],
            "source_session_id": edge["source_session_id"],
            "target_session_id": edge["target_session_id"],
            "delegation_path": self.edge_ids,
            "delegation_chain": list(self.chain),
            "hop_count": len(self.path),
            "delegation_graph_epoch": self.epoch,
        }


def acting(zone: Graph, agent_id: str, now: datetime) -> Actor | None:
    """Return an agent of the zone, if it may act ``now``."""
    if (row := zone.agent(agent_id)) is None:
        return None
    lineage = (*row["ancestors"], agent_id)
    rows = (zone.agent(above) for above in row["ancestors"])
    known = [row, *(above for above in rows if above is not None)]
    ends_at = min(_end_of(each) for each in known)
    sound = (
        len(known) == len(lineage)
        and all(each["status"] == "active" for each in known)
        and ends_at > int(now.timestamp())
        and not zone.barred(lineage)
    )
    return Actor(row, lineage, ends_at) if sound else None


def exercised(
    zone: Graph,
    edge_id: str,
    agent_id: str,
    *,
    owner: str,
    scopes: Sequence[str],
    now: datetime,
) -> Exercised:
    """Return the edge by which an agent acts, once all of the contract's rows 2 to 12 hold.

    Args:
        zone: of the request.
        edge_id: the edge.
        agent_id: who exercises it.
        owner: application that must own the agent.
        scopes: that are requested.
        now: agents and edges expire.

    Raises:
        Refused: 403 ``access_denied``, the first row that fails.
    """
    link = _link(zone, edge_id, now)
    if link is None:
        raise _inactive(zone, edge_id)
    if link.row["target_session_id"] != agent_id:
        raise _refused("delegation edge target mismatch")
    target = _target(zone, link.row, owner, now)
    if link.constraints is None:
        raise _refused("delegation constraints invalid")
    _check_scopes(link, scopes)
    path, epoch = _path(zone, link)
    return Exercised(path, _actors(zone, path, target, scopes, now), epoch, _chain(path))


def is_unknown(zone: Graph, thing_id: str) -> bool:
    """Say whether the view knows neither an agent nor its end: to be looked for once more."""
    return zone.agent(thing_id) is None and not zone.barred([thing_id])


def _target(zone: Graph, edge: Row, owner: str, now: datetime) -> Actor:
    """Rows 4 to 6: who lends and who receives; return the latter."""
    source_id, target_id = edge["source_session_id"], edge["target_session_id"]
    if (source := acting(zone, source_id, now)) is None:
        unknown = is_unknown(zone, source_id)
        raise _refused("delegation source inactive or expired", unknown=unknown)
    target = acting(zone, target_id, now)
    if target is None or target.row["application_id"] != owner:
        unknown = target is None and is_unknown(zone, target_id)
        raise _refused("delegation target inactive or unauthorized", unknown=unknown)
    named = edge["issuer_application_id"], edge["receiver_application_id"]
    if named != (source.row["application_id"], target.row["application_id"]):
        raise _refused("delegation application mismatch")
    return target


def _actors(
    zone: Graph, path: Sequence[Link], target: Actor, scopes: Sequence[str], now: datetime
) -> tuple[Actor, ...]:
    """Row 12: the path holds, from its root to the exercised edge."""
    sources: list[Actor] = []
    for before, link in zip((None, *path), path, strict=False):
        source = acting(zone, link.row["source_session_id"], now)
        if source is None or not _is_current(zone, link, now):
            raise _path_inactive()
        if before is not None and not _follows(link.row, before.row):
            raise _refused("delegation chain discontinuous")
        if source.row["application_id"] != link.row["issuer_application_id"]:
            raise _refused("delegation chain endpoints mismatch")
        _check_scopes(link, scopes)
        sources.append(source)
    return (*sources, target)


def _link(zone: Graph, edge_id: str, now: datetime) -> Link | None:
    """Return an edge that may be exercised ``now``."""
    if (row := zone.edge(edge_id)) is None:
        return None
    link = Link(row, _constraints(row))
    return link if _is_current(zone, link, now) else None


def _is_current(zone: Graph, link: Link, now: datetime) -> bool:
    row = link.row
    in_time = link.ends_at > int(now.timestamp())
    return row["status"] == "active" and in_time and not zone.barred([row["id"]])


def _constraints(row: Row) -> Constraints | None:
    try:
        return read(row["constraints"])
    except BadInput:
        return None


def _path(zone: Graph, last: Link) -> tuple[tuple[Link, ...], int]:
    """Rows 10 and 11: return the edges that lead to the exercised one, root first; the epoch."""
    path, missing = _walked(zone, last)
    if not _is_well_formed(path):
        raise _refused("delegation path invalid")
    epoch = zone.epoch()
    if epoch < last.row["position"]:  # the view lacks a change that it should have
        raise _refused("delegation graph epoch unavailable")
    if missing is not None:
        raise _path_inactive(unknown=not zone.barred([missing]))
    return path, epoch


def _walked(zone: Graph, last: Link) -> tuple[tuple[Link, ...], str | None]:
    """Follow the parents; one that the view does not have ends the walk, and comes back beside."""
    links, missing = [last], None
    while (parent := links[-1].row["parent_edge_id"]) is not None and len(links) <= MAX_HOPS:
        if (row := zone.edge(parent)) is None:
            missing = parent
            break
        links.append(Link(row, _constraints(row)))
    return tuple(reversed(links)), missing


def _is_well_formed(path: Sequence[Link]) -> bool:
    """Row 10: no repeat, at most ten edges, each allows as many hops as follow."""
    ids = {link.row["id"] for link in path}
    hops = range(len(path), 0, -1)  # from each edge to the exercised one, both counted
    return len(ids) == len(path) <= MAX_HOPS and all(
        link.constraints is not None and following <= link.constraints.max_hops
        for link, following in zip(path, hops, strict=True)
    )


def _check_scopes(link: Link, scopes: Sequence[str]) -> None:
    """Rows 8 and 9."""
    if not set(scopes) <= set(link.row["scopes"]):
        raise _refused("requested scopes exceed delegation scopes")
    limits = link.constraints or Constraints()
    too_many = limits.budget is not None and len(scopes) > limits.budget
    if too_many or (limits.scopes is not None and not set(scopes) <= set(limits.scopes)):
        raise _refused("requested scopes exceed delegation budget")


def _follows(edge: Row, before: Row) -> bool:
    return (edge["source_session_id"], edge["issuer_application_id"]) == (
        before["target_session_id"],
        before["receiver_application_id"],
    )


def _chain(path: Sequence[Link]) -> tuple[dict[str, str], ...]:
    """Return one hop for each edge, then who receives the last (contract, section 9)."""
    hops = [
        {
            "app": link.row["issuer_application_id"],
            "session": link.row["source_session_id"],
            "edge": link.row["id"],
        }
        for link in path
    ]
    last = path[-1].row
    receiver = {"app": last["receiver_application_id"], "session": last["target_session_id"]}
    return (*hops, receiver)


def _end_of(agent: Row) -> int:
    if agent["ttl_seconds"] is None:
        return _NEVER
    return int(agent["spawned_at"].timestamp() + agent["ttl_seconds"])


_NEVER = 2**53


def _inactive(zone: Graph, edge_id: str) -> Refused:
    unknown = zone.edge(edge_id) is None and not zone.barred([edge_id])
    return _refused("delegation edge inactive or expired", unknown=unknown)


def _path_inactive(*, unknown: bool = False) -> Refused:
    return _refused("delegation path edge inactive or revoked", unknown=unknown)


def _refused(description: str, *, unknown: bool = False) -> Refused:
    return denied(description, DELEGATION_INVALID, unknown=unknown)
