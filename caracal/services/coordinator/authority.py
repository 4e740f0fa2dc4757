"""What an agent may do by the edges that lead to it, all of them together (contract, 7.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel

from caracal.errors import BadInput
from caracal.events.delegation_constraints import Constraints, read
from caracal.projections.memory import Row
from caracal.services.coordinator.walk import is_active

IdentifierOf = Callable[[str], str | None]
Understood = tuple[Row, Constraints]


class EffectiveAuthority(BaseModel):
    agent_session_id: str
    inbound_edges: list[str]
    effective_scopes: list[str]
    effective_resource_ids: list[str]
    effective_resources: list[str]
    effective_resource_constrained: bool
    effective_max_hops: int
    effective_ttl_seconds: int | None
    earliest_expires_at: datetime | None


def effective_authority(
    agent_id: str, inbound: Iterable[Row], identifier_of: IdentifierOf, now: datetime
) -> EffectiveAuthority:
    """Return what the edges to an agent have in common; ``identifier_of`` a resource's id.

    Edges whose constraints cannot be read are listed and lend nothing.
    """
    rows = [row for row in inbound if is_active(row, now)]
    edges = [(row, limits) for row in rows if (limits := _read(row)) is not None]
    ids = {row["resource_id"] for row, _ in edges if row["resource_id"] is not None}
    named = {name for _, limits in edges for name in limits.resources}
    known = {name for one in ids if (name := identifier_of(one)) is not None}
    lives = [limits.ttl_seconds for _, limits in edges if limits.ttl_seconds is not None]
    return EffectiveAuthority(
        agent_session_id=agent_id,
        inbound_edges=[row["id"] for row in rows],
        effective_scopes=_common_scopes(edges),
        effective_resource_ids=sorted(ids),
        effective_resources=sorted(named | known),
        effective_resource_constrained=bool(ids or named),
        effective_max_hops=min((limits.max_hops for _, limits in edges), default=0),
        effective_ttl_seconds=min(lives, default=None),
        earliest_expires_at=min((row["expires_at"] for row, _ in edges), default=None),
    )


def _common_scopes(edges: Sequence[Understood]) -> list[str]:
    lent = [set(row["scopes"]) for row, _ in edges]
    return sorted(set.intersection(*lent)) if lent else []


def _read(row: Row) -> Constraints | None:
    try:
        return read(row["constraints"])
    except BadInput:
        return None
