"""Spawning an agent session: the checks in the contract's order, then its guards (section 4.2).

What the view says is only for the order of refusals: under concurrent writers the guards of the
append have the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import orjson
from fastapi import Header
from pydantic import Field, StringConstraints

from caracal import clock
from caracal.errors import BadInput, CaracalError, Conflict, Forbidden, NotFound
from caracal.events.agent import (
    Agent,
    Kind,
    Replayed,
    SpawnLimits,
    dcr_bound,
    over_limit,
    parent_not_found,
    too_deep,
)
from caracal.events.application import application_not_found
from caracal.events.guards import live
from caracal.events.session import Session
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.memory import Row
from caracal.services.coordinator.agent_answer import AgentAnswer
from caracal.services.coordinator.call import Call
from caracal.services.coordinator.caller import Caller
from caracal.services.coordinator.view import CoordinatorView
from caracal.services.fields import JsonObject
from caracal.services.models import Body, Name
from caracal.settings import Settings

_ATTEMPTS = 5  # of a replay that meets the end of what it would replay

Capability = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,255}$")
]


class SpawnInput(Body):
    application_id: Name
    subject_session_id: Name | None = None
    session_sid: Name | None = Field(None, description="older name of subject_session_id")
    parent_id: Name | None = None
    kind: Kind = "ephemeral"
    capabilities: Annotated[list[Capability], Field(max_length=32)] = Field(default_factory=list)
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = 3600
    metadata: JsonObject = Field(default_factory=dict)

    @property
    def members(self) -> dict[str, Any]:
        """Return what the agent is told to be."""
        return self.model_dump(include={"kind", "capabilities", "ttl_seconds", "metadata"})

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was asked for, hex: two requests with one key may differ."""
        return sha256(orjson.dumps(self.members, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def spawn(
    call: Call, zone_id: str, body: SpawnInput, idempotency_key: str | None
) -> AgentAnswer:
    """Spawn an agent; the live one that the same request has made before, with status 200.

    Raises:
        CaracalError: the refusal of the first check that does not hold.
    """
    session_id = body.subject_session_id or body.session_sid or call.caller.sid
    if session_id is None:
        said = "no subject session is named, and the token has no sid"
        raise BadInput("subject_session_id_required", said)
    call.caller.check_spawns_for(body.application_id)
    asked = Asked(zone_id, session_id, body, idempotency_key)
    for _ in range(_ATTEMPTS):
        if (row := await _replayed(call, asked)) is not None:
            call.response.status_code = 200
            return AgentAnswer.of(row)
        try:
            return await _spawned(call, asked)
        except Replayed:
            continue  # another request was faster: now its agent is found
    raise Replayed


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to spawn."""

    zone_id: str
    session_id: str
    body: SpawnInput
    key: str | None

    @property
    def application_id(self) -> str:
        """Return whose agent it will be."""
        return self.body.application_id


async def _replayed(call: Call, asked: Asked) -> Row | None:
    """Return the live agent that the same request has made; at the log's head it still lives."""
    if asked.key is None:
        return None
    body = asked.body
    names = (asked.zone_id, body.application_id, asked.session_id, body.parent_id)
    if not call.view.replayable(*names, asked.key, body.digest):
        return None
    await call.view.look_again()
    return next(iter(call.view.replayable(*names, asked.key, body.digest)), None)


async def _spawned(call: Call, asked: Asked) -> AgentAnswer:
    session = await _live_session(call, asked.session_id)
    parent = await call.decided(
        lambda: check(call.view, call.coordinator.settings, call.caller, asked, session)
    )
    made: list[Agent] = []
    agent_id, given = new_id(), call.coordinator.settings
    lease_until = clock.now() + call.coordinator.lease if asked.body.kind == "service" else None

    async def command() -> Saved:
        made[:] = [
            Agent.spawn(
                agent_id,
                zone_id=asked.zone_id,
                application_id=asked.application_id,
                subject_session_id=asked.session_id,
                parent=parent,
                limits=limits_of(given),
                dcr=_is_dcr(call.view, asked),
                idempotency=(asked.key, asked.body.digest) if asked.key is not None else None,
                lease_until=lease_until,
                **asked.body.members,
            )
        ]
        return await call.parts.log.save(*made)

    try:
        await call.commit(command, asked.zone_id)
    except Replayed:
        await call.view.look_again()
        raise
    return AgentAnswer.of(_row(made[0], lease_until))


def _row(agent: Agent, lease_until: Any) -> Row:
    own = {"id": agent.aggregate_id, "spawned_at": agent.created_on, "terminated_at": None}
    return {**vars(agent), **own, "status_reason": None, "heartbeat_deadline_at": lease_until}


async def _live_session(call: Call, sid: str) -> Session | None:
    """Return a subject session as the log has it; a cascade may have ended it without its word."""
    session = await call.parts.log.find(Session, sid)
    if session is None or await call.parts.log.owner(live("session", sid)) is None:
        return None
    return session


def check(
    view: CoordinatorView, given: Settings, caller: Caller, asked: Asked, session: Session | None
) -> Row | None:
    """Check what the view can tell, in the contract's order; return the parent.

    Raises:
        CaracalError: the refusal of the first check that does not hold.
    """
    if view.application(asked.zone_id, asked.application_id) is None:
        raise application_not_found(asked.application_id)
    if _is_dcr(view, asked) and asked.body.kind != "ephemeral":
        said = "an application that registered itself has ephemeral agents only"
        raise Conflict("dcr_requires_ephemeral_agent", said)
    if session is None or not _may_carry(session, asked.zone_id):
        raise _session_not_found(asked.session_id)
    own = view.number_of_application(asked.zone_id, asked.application_id)
    _check_room(view.number_in_zone(asked.zone_id), given.max_per_zone, "agent_zone_limit_exceeded")
    if _is_dcr(view, asked) and own:
        raise dcr_bound()
    _check_room(own, given.max_per_app, "agent_limit_exceeded")
    return None if asked.body.parent_id is None else _parent(view, given, caller, asked)


def _parent(view: CoordinatorView, given: Settings, caller: Caller, asked: Asked) -> Row:
    parent_id = str(asked.body.parent_id)
    parent = view.active_agent(asked.zone_id, parent_id)
    if parent is None or not all(view.active_agent(asked.zone_id, a) for a in parent["ancestors"]):
        raise parent_not_found(parent_id)
    owner = parent["application_id"]
    if owner != asked.application_id and not caller.may("spawn_under", owner):
        said = "the parent is another application's, and the token lacks coordinator.spawn_under"
        raise Forbidden("parent_ownership_required", said)
    children = view.number_of_children(asked.zone_id, parent_id)
    _check_room(children, parent["max_children"], "agent_children_limit_exceeded")
    if parent["depth"] + 1 > given.max_depth:
        raise too_deep(given.max_depth)
    return parent


def _check_room(there: int, limit: int, code: str) -> None:
    if there >= limit:
        raise over_limit(code, limit)


def _may_carry(session: Session, zone_id: str) -> bool:
    return (
        session.zone_id == zone_id
        and not session.ended
        and clock.parse(session.expires_at) > clock.now()
    )


def _is_dcr(view: CoordinatorView, asked: Asked) -> bool:
    row = view.application(asked.zone_id, asked.application_id)
    return row is not None and row["registration_method"] == "dcr"


def limits_of(given: Settings) -> SpawnLimits:
    """Return how many agents there may be."""
    return SpawnLimits(
        depth=given.max_depth,
        children=given.max_children,
        zone=given.max_per_zone,
        application=given.max_per_app,
    )


def _session_not_found(sid: str) -> CaracalError:
    return NotFound(
        "session_not_found",
        f"there is no active session {sid!r} in the zone",
        detail="a subject session is an STS session; business correlation belongs in metadata",
    )
