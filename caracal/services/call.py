"""One authenticated request of a service that takes commands: what all its routes need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from psycopg_pool import PoolTimeout

from caracal import telemetry
from caracal.errors import CaracalError, Unavailable
from caracal.events.base import Aggregate, acting
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log, Saved, retrying
from caracal.projections.query import Db
from caracal.projections.waiter import Waiter
from caracal.services.cascade import Ground
from caracal.services.connections import Pool, pool
from caracal.settings import Settings

Thing = TypeVar("Thing", bound=Aggregate)
_REACHED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running service that its calls use."""

    settings: Settings
    pool: Pool
    log: Log
    waiter: Waiter

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Db]:
        """Borrow a connection for queries.

        Raises:
            Unavailable: 503 ``unavailable``.
        """
        try:
            async with self.pool.connection() as connection:
                yield connection
        except PoolTimeout:
            raise Unavailable("unavailable", "the database cannot be reached now") from None

    async def reached(self, position: int) -> bool:
        """Wait until every read model has applied the log up to ``position``; at most 2 s.

        No connection is held meanwhile.
        """
        async with self.database() as connection:
            wanted = await self.waiter.up_to(connection, position)
        return wanted is not None and await self.waiter.applied(wanted, _REACHED_SECONDS)


async def opened(settings: Settings, stack: AsyncExitStack) -> tuple[Settings, Pool, Log, Waiter]:
    """Open what commands need, for as long as ``stack``: the first members of :class:`Parts`.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    connections = await stack.enter_async_context(pool(settings))
    appender = Appender(settings.database_url)
    await appender.start()
    stack.push_async_callback(appender.stop)
    waiter = Waiter(settings.database_url)
    await waiter.start()
    stack.push_async_callback(waiter.stop)
    return settings, connections, Log(connections, appender), waiter


@dataclass(frozen=True, slots=True)
class CommandCall:
    """An authenticated request. A service's own kind says with which parts, and by whom."""

    parts: Parts
    request: Request
    response: Response

    @property
    def actor(self) -> Mapping[str, Any]:
        """Return ``actor`` and what else the metadata of events says of the caller."""
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """Return the id of the request."""
        return str(self.request.state.request_id)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Db]:
        """Borrow a connection for queries."""
        async with self.parts.database() as connection:
            yield connection

    @property
    def ground(self) -> Ground:
        """Return what a cascade works on."""
        return Ground(self.parts.log, self.parts.database)

    @contextmanager
    def acting(self, zone_id: str | None) -> Iterator[None]:
        """Give the events made inside the caller's metadata, and what the admin audit needs."""
        route = self.request.scope["route"]
        with acting(
            zone_id=zone_id,
            call_id=self.request.state.call_id,
            status_code=route.status_code or 200,
            action=f"{self.request.method} {self.request.scope['path']}",
            request_id=self.request_id,
            traceparent=telemetry.traceparent(),
            **self.actor,
        ):
            yield

    async def find(self, kind: type[Thing], thing_id: str, zone_id: str) -> Thing | None:
        """Load an aggregate of this zone from the log; None when there is none."""
        thing = await self.parts.log.find(kind, thing_id)
        return (
            thing if thing is not None and getattr(thing, "zone_id", zone_id) == zone_id else None
        )

    async def commit(self, command: Callable[[], Awaitable[Saved]], zone_id: str | None) -> Saved:
        """Run a command (again when another was faster), and wait for its read models.

        Raises:
            CaracalError: the command's refusal.
        """
        with self.acting(zone_id):
            saved = await retrying(command)
        if saved.position is not None:
            self.response.headers["Caracal-Position"] = str(saved.position)
            if not await self.parts.waiter.applied(saved):
                self.response.headers["Caracal-Consistency"] = "pending"
        return saved

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
            return await self.parts.log.save(thing)

        await self.commit(command, zone_id)
        return changed[0]


def no_content(call: CommandCall) -> Response:
    """Return 204 with the headers that the command has set."""
    return Response(status_code=204, headers=dict(call.response.headers))
