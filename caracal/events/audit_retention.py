"""Audit retention: for how long the ledger is kept. One in the deployment."""

from __future__ import annotations

from typing import Any, Self

from eventsourcing.domain import AggregateEvent
from eventsourcing.utils import get_topic

from caracal.errors import BadInput
from caracal.events import base
from caracal.events.base import Aggregate

RETENTION_ID = "audit-retention"
"""The product's id of the only one."""


class AuditRetention(Aggregate):
    """changed+"""

    TOPIC = "audit_retention"
    PLURAL = "audit_retentions"

    class Changed(base.Created):
        TOPIC = "audit_retention.changed"
        retention_days: int

        def mutate(self, aggregate: Any) -> Any:
            """The first one begins the retention, each later one changes it."""
            if aggregate is None:
                return base.Created.mutate(self, None)
            return AggregateEvent.mutate(self, aggregate)

        def apply(self, aggregate: AuditRetention) -> None:
            base.Created.apply(self, aggregate)
            aggregate.retention_days = self.retention_days

    def __init__(self, retention_days: int) -> None:
        self.retention_days = retention_days

    @classmethod
    def begin(cls, retention_days: int, *, limit: int) -> Self:
        """Say for the first time how many days count, at most ``limit``.

        Raises:
            BadInput: 400 ``retention_above_limit``.
        """
        _check(retention_days, limit)
        return cls._begin(cls.Changed, RETENTION_ID, retention_days=retention_days)

    def change(self, retention_days: int, *, limit: int) -> None:
        """Say anew how many days count. Nothing different, nothing stored.

        Raises:
            BadInput: 400 ``retention_above_limit``.
        """
        _check(retention_days, limit)
        if retention_days != self.retention_days:
            topic = get_topic(type(self))
            self._record(self.Changed, originator_topic=topic, retention_days=retention_days)


def _check(retention_days: int, limit: int) -> None:
    if retention_days > limit:
        raise BadInput("retention_above_limit", f"this deployment keeps at most {limit} days")
