"""What an exchange is bound to: session, agent, delegation edge (contract, sections 7 and 9)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from caracal.projections.memory import Row
from caracal.services.sts.refusals import denied
from caracal.services.sts.subject_token import Principal
from caracal.services.sts.token_request import TokenRequest


@dataclass(frozen=True, slots=True)
class Binding:
    """Ids that policy sees and the mandate carries; None where there is none."""

    session_id: str | None = None
    agent_session_id: str | None = None
    delegation_edge_id: str | None = None


def bind(
    request: TokenRequest,
    subject: Principal | None,
    *,
    owner: str,
    session: Row | None,
    now: datetime,
) -> Binding:
    """Return what the exchange is bound to; row 9 of the validation order.

    Args:
        request: the form.
        subject: of the subject token.
        owner: application that must own session and agent.
        session: live row of ``session_id``, read only when there is no subject token.
        now: sessions expire.

    Raises:
        Refused: 403 ``access_denied``.
    """
    _check_agent(request)
    if subject is not None:
        if request.session_id not in ("", subject.sid):
            raise denied("session mismatch", "session_invalid")
        return Binding(session_id=subject.sid)
    if request.session_id and (session is None or not _is_own(session, owner, now)):
        raise denied("session not owned by caller", "session_invalid")
    return Binding(session_id=request.session_id or None)


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
    raise denied("session client mismatch", "session_invalid")


def _is_own(session: Row, owner: str, now: datetime) -> bool:
    own = (session["session_type"], session["subject_id"]) == ("application", owner)
    return own and bool(session["expires_at"] > now)


def _check_agent(request: TokenRequest) -> None:
    if request.agent_session_id:
        raise denied("agent session inactive or not owned by caller", "session_invalid")
    if request.delegation_edge_id:
        raise denied("delegation edge requires agent session", "delegation_invalid")
