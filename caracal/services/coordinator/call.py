"""One request of an application or the operator: what a route needs, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from redis.asyncio import Redis

from caracal.events.agent_graph import AgentGraph
from caracal.events.store.log import Saved
from caracal.services.call import CommandCall, Parts
from caracal.services.cascade import Ground
from caracal.services.coordinator.caller import Caller, Identities, Tokens
from caracal.services.coordinator.limits import Limits
from caracal.services.coordinator.view import CoordinatorView
from caracal.services.refused_requests import RefusedRequests

Answer = TypeVar("Answer")

_REACHED_SECONDS = 1.0  # a few ms, as a rule


@dataclass(slots=True)
class Counters:
    """What this process has done, for ``/metrics``."""

    invocations: Counter[str] = field(default_factory=Counter)
    emitted: int = 0


@dataclass(frozen=True, slots=True)
class Coordinator(Parts):
    """The parts of the running service; made in ``app.py``, nowhere else."""

    view: CoordinatorView
    tokens: Tokens
    identities: Identities
    limits: Limits
    redis: Redis
    counters: Counters
    refused: RefusedRequests

    @property
    def lease(self) -> timedelta:
        """Return how long a service lives by one heartbeat."""
        return timedelta(seconds=self.settings.service_agent_lease_seconds)


@dataclass(frozen=True, slots=True)
class ViewGround(Ground):
    """Ground whose graphs are those of the view in memory, brought to the log's head."""

    view: CoordinatorView

    async def graph(
        self, zone_id: str, near: Collection[str] | None = None, position: int | None = None
    ) -> AgentGraph:
        if position is None or not await self.view.following.reach(position, _REACHED_SECONDS):
            await self.view.look_again()
        return self.view.graph(zone_id)


@dataclass(frozen=True, slots=True)
class Call(CommandCall):
    """An authenticated request."""

    caller: Caller

    @property
    def coordinator(self) -> Coordinator:
        """Return the parts of the running service."""
        assert isinstance(self.parts, Coordinator)
        return self.parts

    @property
    def view(self) -> CoordinatorView:
        """Return what the service holds in memory."""
        return self.coordinator.view

    @property
    def actor(self) -> Mapping[str, Any]:
        return {"actor": self.caller.client_id}

    @property
    def ground(self) -> ViewGround:
        return ViewGround(self.parts.log, self.parts.database, self.view)

    async def commit(self, command: Callable[[], Awaitable[Saved]], zone_id: str | None) -> Saved:
        saved = await CommandCall.commit(self, command, zone_id)
        self.coordinator.counters.emitted += len(saved.events)
        return saved

    async def decided(self, decide: Callable[[], Answer]) -> Answer:
        """Decide by the view; what would be refused is decided once more at the log's head.

        Raises:
            CaracalError: the refusal, or 503 ``unavailable``.
        """
        return await self.view.decided(decide)


async def _call(request: Request, response: Response) -> Call:
    return Call(request.app.state.coordinator, request, response, request.state.caller)


CallDep = Annotated[Call, Depends(_call)]
