"""One request of an administrator: what a route needs, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from redis.asyncio import Redis

from caracal.errors import CaracalError
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.log import Saved
from caracal.events.store.vault import Vault
from caracal.services.api.hashing import Hashing
from caracal.services.api.view import ApiView, invalid_admin_token
from caracal.services.call import CommandCall, Parts, Thing
from caracal.services.cascade import Cascade
from caracal.services.refused_requests import RefusedRequests
from caracal.services.token_endpoint import TokenEndpoint


@dataclass(frozen=True, slots=True)
class Api(Parts):
    """The parts of the running service; made in ``app.py``, nowhere else."""

    vault: Vault
    hashing: Hashing
    view: ApiView
    redis: Redis
    writer: AuditWriter
    refused: RefusedRequests
    endpoint: TokenEndpoint


@dataclass(frozen=True, slots=True)
class Call(CommandCall):
    """An authenticated request."""

    token: dict[str, Any]

    @property
    def api(self) -> Api:
        """Return the parts of the running service."""
        assert isinstance(self.parts, Api)
        return self.parts

    @property
    def actor(self) -> Mapping[str, Any]:
        return {
            "actor": self.token["id"],
            "actor_name": self.token["name"],
            "actor_scope": self.token["scope"],
        }

    async def commit(self, command: Callable[[], Awaitable[Saved]], zone_id: str | None) -> Saved:
        """Run a command, see :class:`CommandCall`.

        Raises:
            CaracalError: the command's refusal; 401, the token was revoked since the door.
        """
        self._check_token()
        return await CommandCall.commit(self, command, zone_id)

    def _check_token(self) -> None:
        """Refuse a token that was revoked while its request waited: for a turn, for a hash."""
        if self.api.view.tokens.live(self.token["id"]) is None:
            raise invalid_admin_token()

    async def end(
        self, cascade: Cascade[Thing], thing_id: str, zone_id: str, missing: CaracalError
    ) -> None:
        """End a thing with all that hangs on it.

        Raises:
            CaracalError: ``missing`` when there is no such thing, or the decision's refusal.
        """
        await self.commit(cascade.command(self.ground, thing_id, zone_id, missing), zone_id)


async def _call(request: Request, response: Response) -> Call:
    return Call(request.app.state.api, request, response, request.state.token)


CallDep = Annotated[Call, Depends(_call)]
