"""How far an activation has come: ``GET …/policy-sets/{id}/activation-status``.

The log says whether it is active, the relay's heartbeat whether it is published, each STS replica
what it has loaded. Nothing here is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Query
from pydantic import BaseModel
from redis.asyncio import Redis

from caracal.events.policy_set import PolicySet
from caracal.events.store.entries import Rings, text_fields
from caracal.events.store.redis import GONE, entries_in
from caracal.events.topics import HEARTBEAT
from caracal.ids import ID_PATTERN
from caracal.projections.policy_set import get_policy_set
from caracal.services import policy_report
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.policy_set import binding_not_found, find_set
from caracal.services.path import PathId, ZoneId
from caracal.services.policy_report import Report

router = APIRouter(prefix="/v1/zones/{zone_id}/policy-sets", tags=["policy sets"])

Propagation = Literal[
    "loaded", "waiting_for_activation", "waiting_for_topic", "waiting_for_sts", "failed"
]
Found = TypeVar("Found")
_BEATS = 8  # a stray entry at the end hides no heartbeat
_MAX_POSITION = 2**63 - 1

VersionId = Annotated[str | None, Query(pattern=ID_PATTERN.pattern)]
Position = Annotated[int | None, Query(ge=1, le=_MAX_POSITION)]


class TopicState(BaseModel):
    """``published`` is null when it cannot be known now."""

    position: int | None
    published: bool | None


class Replica(BaseModel):
    """An STS replica. ``state``: ``loaded`` decides by the version that was asked for, ``other``
    by another or by none, ``failed`` could not load it, ``on_first_use`` has not met the zone.
    ``apart``: what decides has stalled this replica, or was slow again and again; it is evaluated
    in a process of its own, where a stall is a deny.
    """

    replica: str
    version_id: str | None
    state: Literal["loaded", "other", "failed", "on_first_use"]
    apart: bool = False
    position: int


class ActivationStatus(BaseModel):
    """``unknown`` names what cannot be known now: ``topic``, ``sts``."""

    policy_set_id: str
    version_id: str | None
    active: bool
    propagation_status: Propagation
    topic: TopicState
    sts: list[Replica]
    unknown: list[Literal["topic", "sts"]]


@router.get("/{policy_set_id}/activation-status")
@refuses("policy_set_binding_not_found", "version_not_found")
async def activation_status(
    zone_id: ZoneId,
    policy_set_id: PathId,
    call: CallDep,
    version_id: VersionId = None,
    position: Position = None,
) -> ActivationStatus:
    """Say how far an activation has come.

    Without ``version_id`` that of the active version, without ``position`` (from the answer to
    the activation) that of the set's last change.
    """
    found = await find_set(call, zone_id, policy_set_id, binding_not_found(policy_set_id))
    if version_id is not None:
        found.version_of(version_id, "version_not_found")
    wanted = version_id or found.active_version_id
    active = wanted is not None and wanted == found.active_version_id
    if position is None and active:
        position = await _last_change(call, found)
    view = call.api.view.tail
    assert view is not None
    done, told = await asyncio.gather(
        _if_there(published_up_to(call.api.redis, view.rings, view.log_id)),
        _if_there(policy_report.reports(call.api.redis, zone_id)),
    )
    published = None if done is None or position is None else done >= position
    replicas = [_replica(report, wanted, position or 0) for report in told or ()]
    return ActivationStatus(
        policy_set_id=policy_set_id,
        version_id=wanted,
        active=active,
        propagation_status=propagation(active, published, replicas, position or 0),
        topic=TopicState(position=position, published=published),
        sts=replicas,
        unknown=[*(["topic"] if done is None else []), *(["sts"] if told is None else [])],
    )


async def _last_change(call: Call, found: PolicySet) -> int | None:
    async with call.database() as db:
        row = await get_policy_set(db, str(found.zone_id), found.aggregate_id)
    return None if row is None else int(row["position"])


async def _if_there(answer: Awaitable[Found]) -> Found | None:
    """Return None when Redis cannot be used now."""
    try:
        return await answer
    except GONE:
        return None


async def published_up_to(redis: Redis, rings: Rings, log_id: str) -> int | None:
    """Return the position that the relay's newest genuine heartbeat tells; None without one.

    Raises:
        RedisError, OSError, TimeoutError: Redis cannot be used now.
    """
    for _, raw in entries_in(await redis.xrevrange(HEARTBEAT, count=_BEATS)):
        fields = text_fields(raw)
        if fields and rings.facts.verify(HEARTBEAT, fields) and fields["log_id"] == log_id:
            return int(fields["position"])
    return None


def _replica(report: Report, wanted: str | None, position: int) -> Replica:
    return Replica(
        replica=report.replica,
        version_id=None if report.loaded is None else report.loaded.version_id,
        state=_state(report, wanted, position),
        apart=report.loaded is not None and report.loaded.apart,
        position=report.position,
    )


def _state(
    report: Report, wanted: str | None, position: int
) -> Literal["loaded", "other", "failed", "on_first_use"]:
    if report.loaded is None:
        return "on_first_use"
    if wanted is not None and report.loaded.version_id == wanted:
        return "loaded"
    # Topics have no order among each other: until then a part of it may only be late.
    if report.loaded.failed_version_id == wanted is not None and report.position >= position:
        return "failed"
    return "other"


def propagation(
    active: bool, published: bool | None, replicas: Sequence[Replica], position: int
) -> Propagation:
    """Return the one word for it all.

    A replica that loads on first use stops nothing once it knows of the activation: it has no
    other version to decide by. But where none has loaded it, nobody has shown that it loads.
    """
    if not active:
        return "waiting_for_activation"
    states = {replica.state for replica in replicas}
    if "failed" in states:
        return "failed"
    late = any(
        replica.state == "on_first_use" and replica.position < position for replica in replicas
    )
    if "loaded" in states and "other" not in states and not late:
        return "loaded"
    return "waiting_for_topic" if published is False else "waiting_for_sts"
