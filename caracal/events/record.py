"""An event as the log keeps it, and the fact that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from caracal.events.base import Fact
from caracal.events.catalogue import data_of


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the log."""

    position: int
    version: int
    name: str
    state: dict[str, Any]

    @classmethod
    def read(cls, position: int, version: int, name: str, state: bytes) -> Record:
        """Return the record of a row."""
        return cls(position, version, name, orjson.loads(state))

    def fact(self) -> Fact:
        """Return the fact; the same as the one read from the topic."""
        meta = self.state["meta"]
        return Fact(
            position=self.position,
            name=self.name,
            zone_id=meta.get("zone_id"),
            aggregate_id=self.state["aggregate_id"],
            version=self.version,
            data=data_of(self.name, self.state),
            metadata={**meta, "occurred_at": self.state["timestamp"]},
        )
