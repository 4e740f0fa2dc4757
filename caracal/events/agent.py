"""Agent: a running agent's session, below the one that spawned it. Its id is the agent session id.

An agent may also be suspended, resumed or ended by the cascade of another thing: then only its
guard keys and the read models know. So what a command needs of the state, its guards say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self

from caracal import clock
from caracal.errors import CaracalError, Conflict, NotFound, TooMany
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate, Fall, FallenAgent
from caracal.events.guards import (
    Count,
    Ended,
    Free,
    Guard,
    Need,
    Revive,
    Take,
    active,
    live,
)
from caracal.events.session import needs_session
from caracal.events.zone import needs_zone

Kind = Literal["service", "instance", "ephemeral"]


class Agent(Aggregate):
    """spawned -> (suspended -> resumed)* -> terminated"""

    TOPIC = "agent"
    PLURAL = "agents"

    class Spawned(base.Created):
        TOPIC = "agent.spawned"
        application_id: str
        subject_session_id: str
        parent_id: str | None
        ancestors: list[str]
        depth: int
        kind: str
        capabilities: list[str]
        ttl_seconds: int
        metadata: dict[str, Any]
        max_children: int
        heartbeat_deadline_at: str | None
        idempotency_key: str | None
        idempotency_sha256: str | None

    class Suspended(base.Cascade):
        TOPIC = "agent.suspended"
        reason: str

        def apply(self, aggregate: Agent) -> None:
            aggregate.status, aggregate.parts, aggregate.reason = (
                "suspended",
                self.part,
                self.reason,
            )

    class Resumed(base.Cascade):
        TOPIC = "agent.resumed"
        heartbeat_deadline_at: str | None

        def apply(self, aggregate: Agent) -> None:
            aggregate.status, aggregate.parts = "active", 0

    class Terminated(base.Cascade):
        TOPIC = "agent.terminated"
        reason: str

        def apply(self, aggregate: Agent) -> None:
            aggregate.status, aggregate.parts, aggregate.reason = (
                "terminated",
                self.part,
                self.reason,
            )

    def __init__(
        self,
        application_id: str,
        subject_session_id: str,
        parent_id: str | None,
        ancestors: list[str],
        depth: int,
        kind: str,
        capabilities: list[str],
        ttl_seconds: int,
        metadata: dict[str, Any],
        max_children: int,
        heartbeat_deadline_at: str | None,
        idempotency_key: str | None,
        idempotency_sha256: str | None,
    ) -> None:
        self.application_id, self.subject_session_id = application_id, subject_session_id
        self.parent_id, self.ancestors, self.depth = parent_id, ancestors, depth
        self.kind, self.capabilities, self.ttl_seconds = kind, capabilities, ttl_seconds
        self.metadata, self.max_children = metadata, max_children
        self.heartbeat_deadline_at = heartbeat_deadline_at
        self.idempotency_key, self.idempotency_sha256 = idempotency_key, idempotency_sha256
        self.status, self.reason = "active", ""

    @classmethod
    def spawn(
        cls,
        agent_id: str,
        *,
        zone_id: str,
        application_id: str,
        subject_session_id: str,
        parent: Mapping[str, Any] | None,
        limits: SpawnLimits,
        dcr: bool = False,
        idempotency: tuple[str, str] | None = None,
        lease_until: datetime | None = None,
        **members: Any,
    ) -> Self:
        """Begin an agent below ``parent`` (a row of the read model), or a root.

        Args:
            agent_id: new agent session id.
            zone_id: of application, session and parent.
            application_id: whose agent it is.
            subject_session_id: STS session that it acts for.
            parent: agent that spawns it.
            limits: of the deployment.
            dcr: the application registered itself: it has one live agent.
            idempotency: key of the caller, and SHA-256 of what it asked for (hex).
            lease_until: end of a service's first lease.
            **members: ``kind``, ``capabilities``, ``ttl_seconds``, ``metadata``.

        Raises:
            TooMany: 429 ``agent_depth_limit_exceeded``.
        """
        depth = 0 if parent is None else int(parent["depth"]) + 1
        if depth > limits.depth:
            raise too_deep(limits.depth)
        ancestors = [] if parent is None else [*parent["ancestors"], parent["id"]]
        key, digest = idempotency or (None, None)
        names = {
            "application_id": application_id,
            "subject_session_id": subject_session_id,
            "parent_id": None if parent is None else parent["id"],
            "idempotency_key": key,
            "idempotency_sha256": digest,
        }
        return cls._begin(
            cls.Spawned,
            agent_id,
            needs_zone(zone_id),
            needs_application(application_id),
            needs_session(subject_session_id),
            *_taken(zone_id, agent_id, names, dcr=dcr),
            *_counted(zone_id, names, limits),
            *_below(parent, ancestors),
            **names,
            ancestors=ancestors,
            depth=depth,
            max_children=limits.children,
            heartbeat_deadline_at=clock.rfc3339(lease_until) if lease_until else None,
            **members,
        )

    def suspend(self, fall: Fall, reason: str = "requested") -> None:
        """Suspend the agent and what ``fall`` lists below it.

        Raises:
            Conflict: 409 ``agent_not_found_or_not_active`` (by its guard).
        """
        self.parts = 0
        self.guards.append(Need(active(self.aggregate_id), not_active(self.aggregate_id)))
        self._record_suspension(fall, reason)

    def suspend_late(self, fall: Fall) -> None:
        """Suspend what began while :meth:`suspend` was deciding what falls."""
        if self.status == "suspended" and fall:
            self._record_suspension(fall, self.reason)

    def resume(self, agents: Sequence[FallenAgent], *, lease_until: datetime | None = None) -> None:
        """Resume the agent and ``agents``, all of them suspended; services lease anew.

        Raises:
            Conflict: 409 ``agent_not_found_or_not_suspended`` (by its guard).
        """
        error = not_suspended(self.aggregate_id)
        others = [agent.id for agent in agents if agent.id != self.aggregate_id]
        self.guards += [
            Need(live("agent", self.aggregate_id), error),
            Take(active(self.aggregate_id), str(self.zone_id), error),
            Revive(
                tuple((active(other), live("agent", other)) for other in others),
                str(self.zone_id),
            ),
        ]
        self.parts = 0
        deadline = clock.rfc3339(lease_until) if lease_until else None
        fall = Fall(agents=tuple(agents))
        self._record_parts(self.Resumed, fall, heartbeat_deadline_at=deadline)

    def terminate(self, fall: Fall, reason: str = "requested") -> None:
        """End the agent with what ``fall`` lists.

        Raises:
            AgentGone: it has ended before (by its guard).
        """
        self.parts = 0
        self.guards.append(Need(live("agent", self.aggregate_id), AgentGone(self.aggregate_id)))
        self._record_fall(self.Terminated, fall, reason=reason)

    def terminate_late(self, fall: Fall) -> None:
        """End what began while :meth:`terminate` was deciding what falls."""
        if self.status == "terminated" and fall:
            self._record_fall(self.Terminated, fall, reason=self.reason)

    def _record_suspension(self, fall: Fall, reason: str) -> None:
        keys = tuple(active(agent.id) for agent in fall.agents)
        self.guards.append(Free(keys, str(self.zone_id)))
        self._record_parts(self.Suspended, fall, reason=reason)


class SpawnLimits:
    """How many agents there may be; see the settings of the same names."""

    def __init__(self, *, depth: int, children: int, zone: int, application: int) -> None:
        self.depth, self.children = depth, children
        self.zone, self.application = zone, application


class AgentGone(NotFound):
    """The agent has ended: to end it again is no error for those who close in a finally step."""

    def __init__(self, agent_id: str) -> None:
        super().__init__("agent_not_found", f"there is no live agent session {agent_id!r}")


class Replayed(Conflict):
    """The same spawn was made before; its agent lives."""

    def __init__(self) -> None:
        super().__init__("concurrent_update", "the same agent is being spawned by another request")


def fallen(zone_id: str, row: Mapping[str, Any]) -> FallenAgent:
    """Return an agent of the read model as one that falls, with all its keys and counters."""
    keys = [active(row["id"]), dcr_key(row["application_id"])]
    if row["idempotency_key"] is not None:
        keys.append(idempotency_key(zone_id, row))
    return FallenAgent(
        id=row["id"],
        application_id=row["application_id"],
        parent_id=row["parent_id"],
        ended=Ended(live("agent", row["id"]), tuple(keys), tuple(_counters(zone_id, row))),
    )


def _taken(zone_id: str, agent_id: str, names: Mapping[str, Any], *, dcr: bool) -> Iterable[Guard]:
    """The zone owns all keys of an agent, so that a cascade frees many at once."""
    if names["idempotency_key"] is not None:
        yield Take(idempotency_key(zone_id, names), zone_id, Replayed())
    known = Conflict("concurrent_update", f"the agent session {agent_id!r} is there already")
    yield Take(live("agent", agent_id), zone_id, known)
    yield Take(active(agent_id), zone_id, known)
    if dcr:
        yield Take(dcr_key(names["application_id"]), zone_id, dcr_bound())


def _counted(zone_id: str, names: Mapping[str, Any], limits: SpawnLimits) -> Iterable[Guard]:
    of_zone, of_application, *_ = _counters(zone_id, names)
    yield Count(of_zone, 1, limits.zone, over_limit("agent_zone_limit_exceeded", limits.zone))
    error = over_limit("agent_limit_exceeded", limits.application)
    yield Count(of_application, 1, limits.application, error)


def _below(parent: Mapping[str, Any] | None, ancestors: Sequence[str]) -> Iterable[Guard]:
    """Every ancestor must be active: a cascade on one of them may not have listed the parent."""
    if parent is None:
        return
    for ancestor in reversed(ancestors):
        yield Need(active(ancestor), parent_not_found(parent["id"]))
    most = int(parent["max_children"])
    yield Count(_children(parent["id"]), 1, most, over_limit("agent_children_limit_exceeded", most))


def _counters(zone_id: str, names: Mapping[str, Any]) -> list[str]:
    counters = [f"agents:{zone_id}", f"agents:{zone_id}:{names['application_id']}"]
    return counters + ([_children(names["parent_id"])] if names["parent_id"] else [])


def _children(parent_id: str) -> str:
    return f"children:{parent_id}"


def idempotency_key(zone_id: str, names: Mapping[str, Any]) -> str:
    """Return the guard key of a replayable spawn: caller's key and what it asked for."""
    columns = ("application_id", "subject_session_id", "parent_id")
    parts = [zone_id, *(names[column] or "" for column in columns)]
    parts += [names["idempotency_key"], names["idempotency_sha256"]]
    return "agent_idempotency:" + ":".join(parts)


def dcr_key(application_id: str) -> str:
    """Return the guard key by which an application that registered itself has one live agent."""
    return f"dcr_bound:{application_id}"


def needs_active(agents: Iterable[str], error: CaracalError) -> list[Need]:
    """Return the guards by which nothing hangs on an agent that may not act."""
    return [Need(active(agent_id), error) for agent_id in agents]


def too_deep(limit: int) -> TooMany:
    return TooMany("agent_depth_limit_exceeded", f"agents nest at most {limit} deep")


def over_limit(code: str, limit: int) -> TooMany:
    return TooMany(code, f"at most {limit} agent sessions may live there")


def agent_not_found(agent_id: str) -> NotFound:
    return NotFound("agent_not_found", f"there is no agent session {agent_id!r}")


def parent_not_found(agent_id: str) -> NotFound:
    return NotFound("parent_not_found", f"there is no active agent session {agent_id!r}")


def not_active(agent_id: str) -> Conflict:
    said = f"the agent session {agent_id!r} is not active"
    return Conflict("agent_not_found_or_not_active", said)


def not_suspended(agent_id: str) -> Conflict:
    said = f"the agent session {agent_id!r} is not suspended"
    return Conflict("agent_not_found_or_not_suspended", said)


def dcr_bound() -> Conflict:
    return Conflict("dcr_application_already_bound", "the application has a live agent session")
