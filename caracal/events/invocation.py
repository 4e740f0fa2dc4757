"""Invocation: the durable record of one call to an agent service."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from caracal import clock
from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.agent import needs_active
from caracal.events.agent_service import needs_agent_service
from caracal.events.base import Aggregate
from caracal.events.guards import Take
from caracal.events.zone import needs_zone

Completion = Literal["succeeded", "failed"]


class _Moved(Aggregate.Event):
    """What every signal of an invocation names, stands in every event of it."""

    TOPIC = "invocation.moved"
    service_id: str

    @property
    def moment(self) -> str:
        return str(self.timestamp)


class _Ended(_Moved):
    """How an attempt ended; ``retryable``: by its deadline, with attempts left."""

    TOPIC = "invocation.ended"
    error: dict[str, Any] | None
    metadata: dict[str, Any]
    retryable: bool

    def apply(self, aggregate: Invocation) -> None:
        aggregate.status = self.TOPIC.partition(".")[2]
        aggregate.error = self.error
        aggregate.metadata = {**aggregate.metadata, **self.metadata}
        aggregate.completed_at = None if self.retryable else self.moment
        if self.retryable:
            aggregate.started_at = None


class Invocation(Aggregate):
    """pending -> running -> succeeded | failed | timed_out, or canceled

    A failed one may start again while attempts are left.
    """

    TOPIC = "invocation"
    PLURAL = "invocations"

    class Created(base.Created):
        TOPIC = "invocation.created"
        service_id: str
        source_session_id: str | None
        target_session_id: str | None
        idempotency_key: str
        method: str
        params: Any
        metadata: dict[str, Any]
        timeout_ms: int
        retry_policy: dict[str, int]

    class Started(_Moved):
        TOPIC = "invocation.started"
        attempt: int
        deadline_at: str

        def apply(self, aggregate: Invocation) -> None:
            aggregate.status, aggregate.attempts = "running", self.attempt
            aggregate.deadline_at, aggregate.started_at = self.deadline_at, self.moment
            aggregate.completed_at = aggregate.error = None

    class CancelRequested(_Moved):
        TOPIC = "invocation.cancel_requested"
        reason: str | None

        def apply(self, aggregate: Invocation) -> None:
            aggregate.status = "cancel_requested"
            _note_cancel(aggregate, self.reason, self.moment)

    class Canceled(_Moved):
        TOPIC = "invocation.canceled"
        reason: str | None

        def apply(self, aggregate: Invocation) -> None:
            aggregate.status, aggregate.completed_at = "canceled", self.moment
            if aggregate.cancel_requested_at is None:
                _note_cancel(aggregate, self.reason, self.moment)

    class Succeeded(_Ended):
        TOPIC = "invocation.succeeded"

    class Failed(_Ended):
        TOPIC = "invocation.failed"

    class TimedOut(_Ended):
        TOPIC = "invocation.timed_out"

    def __init__(
        self,
        service_id: str,
        source_session_id: str | None,
        target_session_id: str | None,
        idempotency_key: str,
        method: str,
        params: Any,
        metadata: dict[str, Any],
        timeout_ms: int,
        retry_policy: dict[str, int],
    ) -> None:
        self.service_id, self.method, self.params = service_id, method, params
        self.source_session_id, self.target_session_id = source_session_id, target_session_id
        self.idempotency_key, self.metadata = idempotency_key, metadata
        self.timeout_ms, self.retry_policy = timeout_ms, retry_policy
        self.status, self.attempts = "pending", 0
        self.error: dict[str, Any] | None = None
        self.deadline_at: str | None = None
        self.cancel_requested_at: str | None = None
        self.started_at: str | None = None
        self.completed_at: str | None = None

    @classmethod
    def create(
        cls,
        invocation_id: str,
        *,
        zone_id: str,
        service_id: str,
        idempotency_key: str,
        sessions: Iterable[str],
        **members: Any,
    ) -> Self:
        """Begin an invocation; ``sessions`` are the agents named in it, with their ancestors.

        Raises:
            AlreadyInvoked: by its guard; the stored record is the answer.
        """
        return cls._begin(
            cls.Created,
            invocation_id,
            needs_zone(zone_id),
            needs_agent_service(service_id),
            *needs_active(sessions, agent_session_not_found()),
            Take(replay_key(zone_id, service_id, idempotency_key), invocation_id, AlreadyInvoked()),
            service_id=service_id,
            idempotency_key=idempotency_key,
            **members,
        )

    @property
    def max_attempts(self) -> int:
        """Return how often it may start."""
        return int(self.retry_policy["max_attempts"])

    def start(self, now: datetime) -> None:
        """Begin the next attempt.

        Raises:
            Conflict: 409 ``invocation_not_startable``.
        """
        again = self.status == "failed" and self.attempts < self.max_attempts
        if self.status != "pending" and not again:
            raise _refused("startable", self.status)
        deadline = now + timedelta(milliseconds=self.timeout_ms)
        self._move(self.Started, attempt=self.attempts + 1, deadline_at=clock.rfc3339(deadline))

    def cancel(self, reason: str | None = None) -> None:
        """Cancel what has not begun; ask what runs to stop.

        Raises:
            Conflict: 409 ``invocation_not_cancelable``.
        """
        if self.status == "pending":
            self._move(self.Canceled, reason=reason)
        elif self.status in _RUNNING:
            self._move(self.CancelRequested, reason=reason)
        else:
            raise _refused("cancelable", self.status)

    def complete(
        self, status: Completion, error: dict[str, Any] | None, metadata: dict[str, Any]
    ) -> None:
        """Note the outcome of the running attempt.

        Raises:
            Conflict: 409 ``invocation_not_completable``.
        """
        if self.status not in _RUNNING:
            raise _refused("completable", self.status)
        ended = self.Succeeded if status == "succeeded" else self.Failed
        self._move(ended, error=error, metadata=metadata, retryable=False)

    def _move(self, event: type[_Moved], **members: Any) -> None:
        self._record(event, service_id=self.service_id, **members)

    def enforce_deadline(self, now: datetime) -> None:
        """Note that the attempt took too long; before its deadline nothing happens."""
        if self.deadline_at is None or clock.parse(self.deadline_at) > now:
            return
        if self.status == "cancel_requested":
            self._move(self.Canceled, reason=None)
        elif self.status == "running":
            retryable = self.attempts < self.max_attempts
            ended = self.Failed if retryable else self.TimedOut
            error = {"reason": "deadline_exceeded"}
            self._move(ended, error=error, metadata={}, retryable=retryable)


_RUNNING = ("running", "cancel_requested")


def _note_cancel(invocation: Invocation, reason: str | None, moment: str) -> None:
    invocation.cancel_requested_at = moment
    if reason is not None:
        invocation.metadata = {**invocation.metadata, "cancel_reason": reason}


class AlreadyInvoked(Conflict):
    """The same invocation was made before."""

    def __init__(self) -> None:
        super().__init__("concurrent_update", "the same invocation is being made")


def replay_key(zone_id: str, service_id: str, idempotency_key: str) -> str:
    """Return the guard key of an invocation; its owner is the invocation's id."""
    return f"invocation_idempotency:{zone_id}:{service_id}:{idempotency_key}"


def invocation_not_found(invocation_id: str) -> NotFound:
    return NotFound("invocation_not_found", f"there is no invocation {invocation_id!r}")


def agent_session_not_found() -> NotFound:
    said = "a named agent session is not active within its time"
    return NotFound("agent_session_not_found", said)


def _refused(what: str, status: str) -> Conflict:
    return Conflict(f"invocation_not_{what}", f"the invocation is {status}")
