"""Making an edge of the delegation graph: decided by the view, held to it by guards."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.delegation import Delegation
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.services.coordinator.call import Call
from caracal.services.coordinator.delegating import Asked, Decided, decide
from caracal.services.coordinator.edge_answer import NewEdgeAnswer
from caracal.services.coordinator.zone_facts import ZoneFacts
from caracal.services.models import Body, Name, printable

_BY_LAPSED = ("delegation_cycle_denied", "delegation_not_found")
"""What refuses an edge while another one's time is over: the cycle, and that it is ended now."""


def _moment(text: str) -> str:
    try:
        clock.parse(text)
    except (ValueError, OverflowError):
        raise ValueError("must be an RFC 3339 time with an offset") from None
    return text


Moment = Annotated[str, Field(max_length=64), AfterValidator(_moment)]
Scope = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]


class EdgeTerms(Body):
    issuer_application_id: Name
    receiver_application_id: Name
    parent_edge_id: Name | None = None
    resource_id: Name | None = None
    scopes: Annotated[list[Scope], Field(max_length=256)] = Field(default_factory=list)
    constraints_json: Any = Field(None, description="constraints, by their older name")
    constraints: Any = Field(None, description="an object; wins over constraints_json by key")
    expires_at: Moment | None = None
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None


class EdgeInput(EdgeTerms):
    source_session_id: Name
    target_session_id: Name

    def asked(self) -> Asked:
        """Return the request as it is decided on."""
        given = self.model_dump() | {
            "scopes": tuple(self.scopes),
            "expires_at": None if self.expires_at is None else clock.parse(self.expires_at),
        }
        return Asked(**{member.name: given[member.name] for member in fields(Asked)})


async def delegate(call: Call, zone_id: str, body: EdgeInput) -> NewEdgeAnswer:
    """Make an edge.

    An edge whose time is over closes no cycle, but its guard stands until that is written down:
    then it is, with the new edge.

    Raises:
        CaracalError: the refusal of the first check that does not hold.
    """
    asked, lapsed = body.asked(), list[str]()
    while True:
        try:
            return await _made(call, zone_id, asked, lapsed)
        except CaracalError as refusal:
            if refusal.code not in _BY_LAPSED:
                raise
            await call.view.look_again()
            known, lapsed = lapsed, _lapsed(call, zone_id, asked)
            if lapsed == known:
                raise


async def _made(call: Call, zone_id: str, asked: Asked, lapsed: list[str]) -> NewEdgeAnswer:
    edge_id = new_id()
    made: list[tuple[Delegation, Decided]] = []

    async def command() -> Saved:
        if made:  # another command was faster, and the view may not have it yet
            await call.view.look_again()
        decided = await call.decided(lambda: _decided(call, zone_id, asked))
        edge = _without(decided, lapsed).edge(edge_id, zone_id)
        made[:] = [(edge, decided)]
        over = await call.parts.log.find_all(Delegation, lapsed)
        for one in over:
            one.expire()
        return await call.parts.log.save(*over, edge)

    await call.commit(command, zone_id)
    return NewEdgeAnswer.made(_row(made[0][0]), made[0][1], clock.now())


def _without(decided: Decided, lapsed: list[str]) -> Decided:
    """Return the decision as it stands once edges have been ended."""
    if decided.seen is None:
        return decided
    return replace(decided, seen=tuple(edge for edge in decided.seen if edge not in lapsed))


def _lapsed(call: Call, zone_id: str, asked: Asked) -> list[str]:
    """Return the edges on the ways from the target whose time is over and that stand yet."""
    now, lapsed = clock.now(), list[str]()
    reached, frontier = set[str](), {asked.target_session_id}
    while frontier:
        reached |= frontier
        rows = [row for agent in frontier for row in call.view.edges_from(zone_id, agent)]
        lapsed += [row["id"] for row in rows if row["expires_at"] <= now]
        frontier = {row["target_session_id"] for row in rows} - reached
    return lapsed


def _decided(call: Call, zone_id: str, asked: Asked) -> Decided:
    now = clock.now()
    return decide(ZoneFacts(call.view, zone_id, now), call.caller, asked, now)


def _row(edge: Delegation) -> dict[str, Any]:
    """Return a new edge as its read model will have it."""
    own = {"id": edge.aggregate_id, "edge_version": 0, "revoked_at": None}
    times = {"created_at": edge.created_on, "expires_at": clock.parse(edge.expires_at)}
    return {**vars(edge), **own, **times}
