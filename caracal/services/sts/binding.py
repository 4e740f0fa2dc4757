"""What an exchange is bound to: session, agent, delegation edge (contract, sections 7 and 9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from caracal.projections.memory import Row
from caracal.services.sts.delegation import (
    DELEGATION_INVALID,
    Actor,
    Exercised,
    Graph,
    acting,
    exercised,
    is_unknown,
)
from caracal.services.sts.refusals import Refused, denied
from caracal.services.sts.subject_token import Principal
from caracal.services.sts.token_request import TokenRequest

_SESSION_INVALID = "session_invalid"


@dataclass(frozen=True, slots=True)
class Binding:
    """What policy sees and the mandate carries; None where there is none.

    Attributes:
        session_id: the session.
        agent: who acts.
        delegation: the edge by which it acts.
    """

    session_id: str | None = None
    agent: Actor | None = None
    delegation: Exercised | None = None

    @property
    def agent_session_id(self) -> str | None:
        """Return the agent's id."""
        return self.agent.row["id"] if self.agent else None

    @property
    def delegation_edge_id(self) -> str | None:
        """Return the edge's id."""
        return self.delegation.edge["id"] if self.delegation else None

    def claims(self) -> dict[str, Any]:
        """Return what a mandate says of it, but for the session (contract, section 12)."""
        if self.agent is None:
            return {}
        said = {"agent_session_id": self.agent.row["id"]}
        return said | self.delegation.claims() if self.delegation else said

    def anchors(self) -> set[str]:
        """Return the agents whose end ends the mandate, and the session that the agent serves."""
        if self.agent is None:
            return set()
        actors = self.delegation.actors if self.delegation else (self.agent,)
        lines = {above for actor in actors for above in actor.lineage}
        return lines | {self.agent.row["subject_session_id"]}

    def ends(self, issued_at: int, ends: int) -> int:
        """Return when a mandate ends that would end at ``ends``, if nothing ends before; Unix s."""
        if self.agent is None:
            return ends
        if self.delegation is None:
            return min(ends, self.agent.ends_at)
        most = self.delegation.most_seconds
        return min(ends, self.delegation.ends_at, issued_at + most if most is not None else ends)


def bind(
    request: TokenRequest,
    subject: Principal | None,
    zone: Graph,
    *,
    owner: str,
    session: Row | None,
    now: datetime,
) -> Binding:
    """Return what the exchange is bound to; row 9 of the validation order.

    Args:
        request: the form.
        subject: of the subject token; its agent and edge apply where the form names none.
        zone: its agents and edges.
        owner: application that must own session and agent.
        session: live row of ``session_id``, read only when there is no subject token.
        now: sessions, agents and edges expire.

    Raises:
        Refused: 403 ``access_denied``.
    """
    session_id = _session_id(request, subject, owner, session, now)
    agent_id = _named(request.agent_session_id, subject, "agent_session_id")
    edge_id = _named(request.delegation_edge_id, subject, "delegation_edge_id")
    try:
        if not edge_id:
            return Binding(session_id, _agent(zone, agent_id, owner, now) if agent_id else None)
        if not agent_id:
            raise denied("delegation edge requires agent session", DELEGATION_INVALID)
        found = exercised(zone, edge_id, agent_id, owner=owner, scopes=request.scopes, now=now)
        return Binding(session_id, found.actors[-1], found)
    except Refused as refused:
        refused.about = {"agent_session_id": agent_id, "delegation_edge_id": edge_id}
        raise


def check_client(
    subject: Principal, application_id: str, gateway_applications: set[str | None], actor: bool
) -> None:
    """Refuse a subject token that was given to another application (contract, section 7).

    Args:
        subject: of the subject token.
        application_id: the calling application.
        gateway_applications: on signed Gateway calls, what the resources name; else empty.
        actor: an actor token of the calling application was sent (on-behalf-of).

    Raises:
        Refused: 403 ``access_denied``.
    """
    if subject.client_id == application_id or actor or gateway_applications == {application_id}:
        return
    raise denied("session client mismatch", _SESSION_INVALID)


def _session_id(
    request: TokenRequest,
    subject: Principal | None,
    owner: str,
    session: Row | None,
    now: datetime,
) -> str | None:
    if subject is not None:
        if request.session_id not in ("", subject.sid):
            raise denied("session mismatch", _SESSION_INVALID)
        return subject.sid
    if request.session_id and (session is None or not _is_own(session, owner, now)):
        raise denied("session not owned by caller", _SESSION_INVALID)
    return request.session_id or None


def _is_own(session: Row, owner: str, now: datetime) -> bool:
    own = (session["session_type"], session["subject_id"]) == ("application", owner)
    return own and bool(session["expires_at"] > now)


def _named(given: str, subject: Principal | None, claim: str) -> str:
    """Return what the form names, else what the subject token does; they may not differ."""
    inherited: str = (subject.claims.get(claim) or "") if subject else ""
    if given and inherited and given != inherited:
        raise denied(*_MISMATCHES[claim])
    return given or inherited


_MISMATCHES = {
    "agent_session_id": ("agent session mismatch", _SESSION_INVALID),
    "delegation_edge_id": ("delegation edge mismatch", DELEGATION_INVALID),
}


def _agent(zone: Graph, agent_id: str, owner: str, now: datetime) -> Actor:
    agent = acting(zone, agent_id, now)
    if agent is None or agent.row["application_id"] != owner:
        unknown = agent is None and is_unknown(zone, agent_id)
        said = "agent session inactive or not owned by caller"
        raise denied(said, _SESSION_INVALID, unknown=unknown)
    return agent
