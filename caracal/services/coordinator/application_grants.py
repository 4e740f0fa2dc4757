"""The grants of a zone's applications, in memory: what they may delegate of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from caracal.projections.grant import GRANTS
from caracal.projections.memory import MemoryTable, Row
from caracal.projections.table import End, Put


class ApplicationGrants(MemoryTable):
    """Grants that applications hold themselves. Those of users, of which there are many more,
    are passed over."""

    def __init__(self) -> None:
        super().__init__(GRANTS)
        self._of = self.index("zone_id", "application_id", "resource_id")

    def load(self, rows: Iterable[Row]) -> None:
        super().load(row for row in rows if row["user_id"] is None)

    def apply(self, position: int, operation: Any) -> None:
        if isinstance(operation, Put) and operation.columns["user_id"] is not None:
            return
        if isinstance(operation, End):  # only their own topic ends them: never before they begin
            operation = replace(operation, ids=[one for one in operation.ids if one in self.rows])
        super().apply(position, operation)

    def scopes(
        self, zone_id: str, application_id: str, resource_id: str, now: datetime
    ) -> frozenset[str] | None:
        """Return what an application holds of a resource; None without an active grant."""
        found = [
            row["scopes"]
            for row in self._of(zone_id, application_id, resource_id)
            if row["expires_at"] is None or row["expires_at"] > now
        ]
        return frozenset().union(*found) if found else None
