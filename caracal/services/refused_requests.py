"""Refused requests of administrators on record: an audit entry for each that ended with >= 400.

Written off the answer's path, and never at its cost: what the queue or Redis does not take is
counted. Anyone can be refused, so the ledger must not grow at anyone's will:

- who has proven who they are is on record each time, within the limit of requests; of what goes
  beyond that limit (429) the first of each actor and minute is;
- of those who have not, at most ``unproven_per_min`` of each address, one 429 of them, and
  :data:`UNPROVEN_PER_MIN` of all addresses together.

What is left out is counted, and the next entry tells how many were (``unrecorded``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import orjson

from caracal.events.store.audit_entry import ADMIN_REQUEST, NO_ZONE, AuditEvent
from caracal.events.store.audit_writer import AuditWriter
from caracal.ids import new_id
from caracal.services.http import App, Message, Receive, Scope, Send, client_address, raw_path
from caracal.services.windows import Window, network_of
from caracal.settings import Settings
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

UNPROVEN_PER_MIN = 600
QUEUE_MAX = 2_000
_BATCH = 100
_LONGEST_PATH = 1024
_LONGEST_BODY = 64 * 1024
_STOP_SECONDS = 2.0
_TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class Actor:
    """Who has proven who they are."""

    id: str
    name: str | None = None
    scope: str | None = None

    @property
    def members(self) -> dict[str, str | None]:
        """Return what an entry says of them."""
        return {"actor_id": self.id, "actor_name": self.name, "actor_scope": self.scope}


class RefusedRequests:
    """Writes entries from a bounded queue; ``start`` and ``stop`` own its task, not the writer."""

    def __init__(
        self, writer: AuditWriter, *, unproven_per_min: int = 60, queue_max: int = QUEUE_MAX
    ) -> None:
        """``unproven_per_min`` bounds what one address leaves; 0 stands for 60."""
        self._writer, self._unproven_per_min = writer, unproven_per_min or 60
        self._queue: asyncio.Queue[AuditEvent] = asyncio.Queue(queue_max)
        self._seen, self._too_many = Window(), Window()
        self._task: asyncio.Task[None] | None = None
        self._unrecorded = 0
        self.unrecorded = 0
        """How many refusals have no entry, for metrics."""

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="refused-requests")

    async def stop(self) -> None:
        """Write what waits, as far as Redis takes it soon, and end."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._queue.join()
        await cancelled(self._task)

    def note(self, *, actor: Actor | None, address: str, status: int, **members: Any) -> None:
        """Put a refusal on record, or count it; returns at once and never raises.

        ``members`` are ``zone_id``, ``request_id`` and ``metadata`` of the entry.
        """
        if not self._counts(actor, network_of(address), status):
            self._leave_out()
            return
        try:
            self._queue.put_nowait(self._event(actor, address, status, **members))
        except asyncio.QueueFull:
            self._leave_out()
        else:
            self._unrecorded = 0

    def _counts(self, actor: Actor | None, address: str, status: int) -> bool:
        if status == _TOO_MANY and self._too_many.add(actor.id if actor else address) > 1:
            return False
        if actor is not None:
            return True
        # The first limit spares the second: one address alone cannot use it up.
        return (
            self._seen.add(address) <= self._unproven_per_min
            and self._seen.add("") <= UNPROVEN_PER_MIN
        )

    def _leave_out(self) -> None:
        self.unrecorded += 1
        self._unrecorded += 1

    def _event(
        self,
        actor: Actor | None,
        address: str,
        status: int,
        *,
        zone_id: str | None,
        request_id: str,
        metadata: Mapping[str, Any],
    ) -> AuditEvent:
        known = {
            **(actor.members if actor else {}),
            **metadata,
            "unrecorded": self._unrecorded or None,
        }
        return AuditEvent(
            zone_id=zone_id or NO_ZONE,
            event_type=ADMIN_REQUEST,
            request_id=request_id,
            decision="deny",
            evaluation_status="",
            metadata_json={
                "status_code": status,
                "address": address,
                **{name: value for name, value in known.items() if value is not None},
            },
        )

    async def _run(self) -> None:
        while True:
            events = [await self._queue.get()]
            while len(events) < _BATCH and not self._queue.empty():
                events.append(self._queue.get_nowait())
            try:
                await self._writer.add(events)  # what Redis does not take, it counts
            except Exception:
                logger.exception("refused requests are not on record")
            for _ in events:
                self._queue.task_done()


async def recording(
    settings: Settings, stack: AsyncExitStack, **limits: int
) -> tuple[AuditWriter, RefusedRequests]:
    """Begin to write refusals, for as long as ``stack``; ``limits`` of :class:`RefusedRequests`."""
    writer = AuditWriter(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        keys=settings.audit_hmac_key,
    )
    await writer.start()
    stack.push_async_callback(writer.stop)
    refused = RefusedRequests(writer, **limits)
    await refused.start()
    stack.push_async_callback(refused.stop)
    return writer, refused


class Recorded:
    """ASGI layer, outside of all that refuses: gives a request its ``call_id``, notes refusals.

    ``concerns`` says by the path which requests are meant, ``actor`` who made it by its state,
    ``zone`` in which existing zone; ``requests`` is asked when one was refused.
    """

    def __init__(
        self,
        app: App,
        requests: Callable[[], RefusedRequests],
        *,
        concerns: Callable[[str], bool],
        actor: Callable[[Mapping[str, Any]], Actor | None],
        zone: Callable[[Scope], str | None],
    ) -> None:
        self._app, self._requests = app, requests
        self._concerns, self._actor, self._zone = concerns, actor, zone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._concerns(scope["path"]):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["call_id"] = new_id()
        answer = _Refusal()

        async def watched(message: Message) -> None:
            answer.saw(message)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if answer.status:
                try:
                    self._note(scope, answer)
                except Exception:  # the answer is given; nothing here may spoil it
                    logger.exception("a refused request is not on record")

    def _note(self, scope: Scope, answer: _Refusal) -> None:
        state = scope["state"]
        self._requests().note(
            actor=self._actor(state),
            address=client_address(scope),
            status=answer.status,
            zone_id=self._zone(scope),
            request_id=state.get("request_id", ""),
            metadata={
                "call_id": state["call_id"],
                "method": scope["method"],
                "path": raw_path(scope)[:_LONGEST_PATH],
                "error": answer.code,
            },
        )


class _Refusal:
    """What a caller was told, when it was a refusal; status 0 when not."""

    def __init__(self) -> None:
        self.status = 0
        self._body = b""

    def saw(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self.status = message["status"]
        elif self.status and message["type"] == "http.response.body":
            self._body = (self._body + message.get("body", b""))[:_LONGEST_BODY]

    @property
    def code(self) -> str | None:
        try:
            return str(orjson.loads(self._body)["error"])
        except (ValueError, TypeError, KeyError):
            return None
