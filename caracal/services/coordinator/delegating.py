"""Whether an edge of the delegation graph may be made: the contract's checks, in its order (7.3).

Pure: a request, who makes it, what the zone has, and the time go in; a decision or the refusal of
the first check that does not hold comes out. What must hold under concurrent writers is held by
the guards of the edge: its agents and their ancestors, the parent's path, the edges that the
choice of the parent was made among, and that no cycle closes (check 16, which is a guard only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

from caracal import clock
from caracal.errors import BadInput, Conflict, Forbidden
from caracal.events.delegation import Delegation, endpoint_not_found, parent_not_active
from caracal.events.delegation_constraints import (
    Authority,
    Constraints,
    broadened,
    check_narrowing,
    normalised,
    not_understood,
    read,
)
from caracal.events.resource import resource_not_found
from caracal.projections.memory import Row
from caracal.services.coordinator.caller import Caller


class Zone(Protocol):
    """What is known of a zone."""

    id: str

    def active_agent(self, agent_id: str) -> Row | None:
        """Return an agent that may act: it is active and in its time, and all above it live."""
        ...

    def resource(self, resource_id: str) -> Row | None:
        """Return a resource that is not archived."""
        ...

    def resource_named(self, identifier: str) -> Row | None:
        """Return the resource of an identifier, if it is not archived."""
        ...

    def granted(self, application_id: str, resource_id: str) -> frozenset[str] | None:
        """Return the scopes of a resource that an application holds itself; None: no grant."""
        ...

    def inbound(self, agent_id: str) -> list[Row]:
        """Return the edges to an agent that have not ended, those past their time included."""
        ...

    def barred(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended, is suspended, or is parked."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for an edge; both objects of constraints as they came."""

    source_session_id: str
    target_session_id: str
    issuer_application_id: str
    receiver_application_id: str
    parent_edge_id: str | None = None
    resource_id: str | None = None
    scopes: tuple[str, ...] = ()
    constraints_json: Any = None
    constraints: Any = None
    expires_at: datetime | None = None
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What the request says of the edge's authority, once it is well formed."""

    constraints: Mapping[str, Any]
    expires_at: datetime
    broad: bool


@dataclass(frozen=True)
class Decided:
    """An edge that may be made.

    Attributes:
        asked: the request.
        terms: its constraints are those to store.
        source, target: rows of its agents.
        resources: rows of all resources that it names.
        parent: row of the edge it is narrowed from; None: the source is an authority root.
        considered: the edges that the parent was chosen among.
        seen: the edges to the source, if the choice hangs on all of them.
    """

    asked: Asked
    terms: Terms
    source: Row
    target: Row
    resources: tuple[Row, ...]
    parent: Row | None
    considered: tuple[str, ...]
    seen: tuple[str, ...] | None

    @cached_property
    def limits(self) -> Constraints:
        """Return the constraints as they will be read."""
        return read(self.terms.constraints)

    def edge(self, edge_id: str, zone_id: str) -> Delegation:
        """Begin the edge."""
        return Delegation.create(
            edge_id,
            zone_id=zone_id,
            source=self.source,
            target=self.target,
            parent=self.parent,
            resource_id=self.asked.resource_id,
            resources=[row["id"] for row in self.resources],
            scopes=self.asked.scopes,
            constraints=self.terms.constraints,
            expires_at=self.terms.expires_at,
            seen=self.seen,
        )


def decide(zone: Zone, caller: Caller, asked: Asked, now: datetime) -> Decided:
    """Decide on an edge.

    Raises:
        Refusal: of the first check that does not hold.
    """
    terms = _terms(asked, now)
    check_issuer(caller, asked.issuer_application_id)
    _check_receiver(caller, asked)
    if asked.source_session_id == asked.target_session_id:
        raise BadInput("self_delegation_denied", "an agent session does not delegate to itself")
    if terms.expires_at <= now:
        raise BadInput("delegation_expired", "the delegation's expiry is past")
    if terms.broad:
        _check_broad(caller, asked)
    source, target = _endpoints(zone, asked)
    resources = _resources(zone, asked, terms)
    _check_held(zone, asked, resources)
    parent, considered, seen = _parent(zone, asked, now)
    if parent is not None:
        check_narrowing(*_compared(zone, asked, terms, resources, parent))
    return Decided(asked, terms, source, target, resources, parent, considered, seen)


# --- checks 1 to 7: what the request alone tells ------------------------------------------------


def _terms(asked: Asked, now: datetime) -> Terms:
    constraints = normalised({**_object(asked.constraints_json), **_object(asked.constraints)})
    if asked.ttl_seconds is not None:
        constraints = {"ttl_seconds": asked.ttl_seconds, **constraints}
    broad = asked.resource_id is None and not constraints.get("resources")
    if broad:
        constraints = broadened(constraints)
    return Terms(constraints, _expiry(asked, constraints, now), broad)


def _object(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise not_understood("constraints are an object")
    return given


def _expiry(asked: Asked, constraints: Mapping[str, Any], now: datetime) -> datetime:
    if asked.expires_at is not None:
        return asked.expires_at
    if (text := constraints.get("expires_at")) is not None:
        return clock.parse(text)
    if asked.ttl_seconds is not None:
        return now + timedelta(seconds=asked.ttl_seconds)
    raise BadInput("delegation_expiry_required", "expires_at or ttl_seconds is needed")


def check_issuer(caller: Caller, issuer: str) -> None:
    """Refuse who may not act for an edge's issuer.

    Raises:
        Forbidden: 403 ``issuer_ownership_required``.
    """
    if not (caller.owns(issuer) or caller.may("delegate_from", issuer)):
        said = "the issuer is another application, and the token lacks coordinator.delegate_from"
        raise Forbidden("issuer_ownership_required", said)


def _check_receiver(caller: Caller, asked: Asked) -> None:
    receiver = asked.receiver_application_id
    consents = receiver == asked.issuer_application_id or caller.owns(receiver)
    if not (consents or caller.may("delegate_to", receiver) or caller.is_admin):
        said = "the receiver is another application, and the token lacks coordinator.delegate_to"
        raise Forbidden("receiver_consent_required", said)


def _check_broad(caller: Caller, asked: Asked) -> None:
    issuer = asked.issuer_application_id
    internal = issuer == asked.receiver_application_id and caller.owns(issuer)
    permitted = "coordinator.delegate_broad" in caller.scopes
    if not (internal or permitted or caller.may("delegate_broad", issuer) or caller.is_admin):
        said = "an edge between applications names a resource, or needs coordinator.delegate_broad"
        raise Forbidden("broad_delegation_permission_required", said)


# --- checks 8 to 13: agents and resources --------------------------------------------------------


def _endpoints(zone: Zone, asked: Asked) -> tuple[Row, Row]:
    source = zone.active_agent(asked.source_session_id)
    target = zone.active_agent(asked.target_session_id)
    if source is None or target is None:
        raise endpoint_not_found()
    owners = source["application_id"], target["application_id"]
    if owners != (asked.issuer_application_id, asked.receiver_application_id):
        said = "the agent sessions belong to other applications than issuer and receiver"
        raise Conflict("delegation_application_mismatch", said)
    return source, target


def _resources(zone: Zone, asked: Asked, terms: Terms) -> tuple[Row, ...]:
    """Return all resources that are named, each once."""
    found: dict[str, Row] = {}
    for identifier in terms.constraints.get("resources", ()):
        if (row := zone.resource_named(identifier)) is None:
            raise resource_not_found(identifier)
        found[row["id"]] = row
    if asked.resource_id is None:
        return tuple(found.values())
    if (row := zone.resource(asked.resource_id)) is None:
        raise resource_not_found(asked.resource_id)
    if found and asked.resource_id not in found:
        said = "the resource is not among those of the constraints"
        raise BadInput("delegation_resource_scope_mismatch", said)
    return tuple({**found, asked.resource_id: row}.values())


def _check_held(zone: Zone, asked: Asked, resources: Iterable[Row]) -> None:
    resources = tuple(resources)
    for resource in resources:
        if not _holds(zone, asked, resource):
            said = "the issuer holds no such authority on the resource itself"
            raise Forbidden("resource_ownership_required", said)
    for resource in resources:
        if not set(asked.scopes) <= set(resource["scopes"]):
            said = "the delegation has scopes that the resource does not have"
            raise Forbidden("delegation_scopes_exceed_resource", said)


def _holds(zone: Zone, asked: Asked, resource: Row) -> bool:
    if resource["gateway_application_id"] == asked.issuer_application_id:
        return True
    granted = zone.granted(asked.issuer_application_id, resource["id"])
    return granted is not None and set(asked.scopes) <= granted


# --- checks 14 and 15: the edge it is narrowed from ----------------------------------------------


def _parent(
    zone: Zone, asked: Asked, now: datetime
) -> tuple[Row | None, tuple[str, ...], tuple[str, ...] | None]:
    """Return the parent, the edges it was chosen among, and all it hangs on."""
    inbound = zone.inbound(asked.source_session_id)
    parents = {row["id"]: row for row in inbound if row["expires_at"] > now}
    considered, seen = tuple(parents), tuple(row["id"] for row in inbound)
    if not parents:
        return None, (), seen
    named = asked.parent_edge_id
    if named is None and len(parents) > 1:
        said = "the source holds its authority by several edges; name one as parent_edge_id"
        raise Conflict("parent_delegation_ambiguous", said)
    parent = next(iter(parents.values())) if named is None else parents.get(named)
    if parent is None or zone.barred(parent["path"]):
        raise parent_not_active()
    return parent, considered, seen if named is None else None


def _compared(
    zone: Zone, asked: Asked, terms: Terms, resources: Iterable[Row], parent: Row
) -> tuple[Authority, Authority]:
    """Return what the edge lends, and what its parent does."""
    lent = authority_of(zone, parent)
    named = frozenset(row["id"] for row in resources)
    if asked.resource_id is not None and asked.resource_id == parent["resource_id"]:
        named = frozenset((asked.resource_id,))  # it names that one: others are out of reach
    child = Authority(
        scopes=frozenset(asked.scopes),
        resources=None if terms.broad else named,
        constraints=read(terms.constraints),
        expires_at=terms.expires_at,
    )
    return child, lent


def authority_of(zone: Zone, edge: Row) -> Authority:
    """Return what an edge lends, as whoever exercises it will be held to.

    Raises:
        Forbidden: 403 ``delegation_exceeds_parent_authority``, its constraints cannot be read.
    """
    try:
        limits = read(edge["constraints"])
    except BadInput:
        said = "the constraints of the edge that the source holds cannot be read"
        code = "delegation_exceeds_parent_authority"
        raise Forbidden(code, said, detail="constraints") from None
    scopes = frozenset(edge["scopes"])
    ends = [edge["expires_at"], *([limits.expires_at] if limits.expires_at else [])]
    return Authority(
        scopes=scopes if limits.scopes is None else scopes & frozenset(limits.scopes),
        resources=_lent_resources(zone, edge, limits),
        constraints=limits,
        expires_at=min(ends),
    )


def _lent_resources(zone: Zone, edge: Row, limits: Constraints) -> frozenset[str] | None:
    if edge["resource_id"] is not None:
        return frozenset((edge["resource_id"],))
    found = [zone.resource_named(identifier) for identifier in limits.resources]
    return frozenset(row["id"] for row in found if row) if limits.resources else None
