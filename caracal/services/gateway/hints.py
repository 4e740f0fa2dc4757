"""As which agent, by which edge a call is made, when only ``baggage`` says so (section 6).

A hint is never authority: it can but bind a call to an agent of the bearer's own application, and
the STS decides whether that agent may act.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from caracal.mandate import Claims
from caracal.services.gateway.view import GatewayView
from caracal.trace import Hint, read_hint


@dataclass(frozen=True, slots=True)
class ActsAs:
    """Fields of the exchange that the bearer has no claims for; None: it is not sent."""

    agent_session_id: str | None = None
    delegation_edge_id: str | None = None


_AS_THE_BEARER_SAYS = ActsAs()


async def acts_as(view: GatewayView, baggage: Iterable[bytes], claims: Claims) -> ActsAs:
    """Return what ``baggage`` adds to the verified claims of a bearer.

    Raises:
        Unavailable: 503 ``state_stale``, the agent or the edge is not in memory, and the log cannot
            be read now.
    """
    hint = read_hint(baggage)
    if hint.agent_session is None and hint.delegation_edge is None:
        return _AS_THE_BEARER_SAYS
    claimed: str | None = claims.get("agent_session_id")
    hinted = None if claimed else await _agent(view, hint, claims)
    agent = claimed or hinted
    if agent is None or claims.get("delegation_edge_id"):
        return ActsAs(hinted)
    return ActsAs(hinted, await _edge(view, hint, claims, agent))


async def _agent(view: GatewayView, hint: Hint, claims: Claims) -> str | None:
    row = await view.thing("agents", claims["zone_id"], hint.agent_session)
    return row["id"] if row and row["application_id"] == claims.get("client_id") else None


async def _edge(view: GatewayView, hint: Hint, claims: Claims, agent_id: str) -> str | None:
    """A client that delegates names its own session beside the new edge: not to be exercised."""
    row = await view.thing("delegations", claims["zone_id"], hint.delegation_edge)
    return row["id"] if row and row["target_session_id"] == agent_id else None
