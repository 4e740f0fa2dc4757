"""One authenticated request: what a route needs, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from redis.asyncio import Redis

from caracal.errors import CaracalError, Unavailable
from caracal.events.base import Aggregate, acting
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.log import Log, Saved, retrying
from caracal.events.store.vault import Vault
from caracal.projections.query import Db
from caracal.projections.waiter import Waiter
from caracal.services.api.hashing import Hashing
from caracal.services.api.view import ApiView, invalid_admin_token
from caracal.services.cascade import Cascade, Ground
from caracal.services.http import traceparent_of
from caracal.services.refused_requests import RefusedRequests
from caracal.settings import Settings

Thing = TypeVar("Thing", bound=Aggregate)


@dataclass(frozen=True, slots=True)
class Api:
    """The parts of the running service; made in ``app.py``, nowhere else."""

    settings: Settings
    pool: AsyncConnectionPool[AsyncConnection[Any]]
    log: Log
    vault: Vault
    hashing: Hashing
    waiter: Waiter
    view: ApiView
    redis: Redis
    writer: AuditWriter
    refused: RefusedRequests


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    api: Api
    request: Request
    response: Response
    token: dict[str, Any]

    @property
    def request_id(self) -> str:
        """Return the id of the request."""
        return str(self.request.state.request_id)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Db]:
        """Borrow a connection for queries."""
        try:
            async with self.api.pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise Unavailable("unavailable", "the database cannot be reached now") from None

    @property
    def ground(self) -> Ground:
        """Return what a cascade works on."""
        return Ground(self.api.log, self.database)

    @contextmanager
    def acting(self, zone_id: str | None) -> Iterator[None]:
        """Give the events made inside the caller's metadata, and what the admin audit needs."""
        route = self.request.scope["route"]
        with acting(
            zone_id=zone_id,
            actor=self.token["id"],
            actor_name=self.token["name"],
            action=f"{self.request.method} {self.request.scope['path']}",
            request_id=self.request_id,
            traceparent=traceparent_of(self.request.scope),
            call_id=self.request.state.call_id,
            actor_scope=self.token["scope"],
            status_code=route.status_code or 200,
        ):
            yield

    async def find(self, kind: type[Thing], thing_id: str, zone_id: str) -> Thing | None:
        """Load an aggregate of this zone from the log; None when there is none."""
        thing = await self.api.log.find(kind, thing_id)
        return (
            thing if thing is not None and getattr(thing, "zone_id", zone_id) == zone_id else None
        )

    async def commit(self, command: Callable[[], Awaitable[Saved]], zone_id: str | None) -> Saved:
        """Run a command (again when another was faster), and wait for its read models.

        Raises:
            CaracalError: the command's refusal; 401, the token was revoked since the door.
        """
        self._check_token()
        with self.acting(zone_id):
            saved = await retrying(command)
        if saved.position is not None:
            self.response.headers["Caracal-Position"] = str(saved.position)
            if not await self.api.waiter.applied(saved):
                self.response.headers["Caracal-Consistency"] = "pending"
        return saved

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

    async def change(
        self,
        kind: type[Thing],
        thing_id: str,
        zone_id: str,
        decide: Callable[[Thing], None],
        missing: CaracalError,
    ) -> Thing:
        """Load a thing, decide, save; the common command.

        Raises:
            CaracalError: ``missing`` when there is no such thing, or the decision's refusal.
        """
        changed: list[Thing] = []

        async def command() -> Saved:
            if (thing := await self.find(kind, thing_id, zone_id)) is None:
                raise missing
            decide(thing)
            changed[:] = [thing]
            return await self.api.log.save(thing)

        await self.commit(command, zone_id)
        return changed[0]


async def _call(request: Request, response: Response) -> Call:
    return Call(request.app.state.api, request, response, request.state.token)


CallDep = Annotated[Call, Depends(_call)]


def no_content(call: Call) -> Response:
    """Return 204 with the headers that the command has set."""
    return Response(status_code=204, headers=dict(call.response.headers))
