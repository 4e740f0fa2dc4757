"""Revoked anchors: the read model, and the map that every service holds in memory.

A mandate is refused when one of its anchors is in the map, so the end of a whole subtree is one
entry: the id of its root (contract: events, section 5). What no token can carry any longer is
forgotten: by the map as time goes by, by the read model two days later, with the next change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from caracal import clock
from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.events.delegation import Delegation
from caracal.events.grant import Grant
from caracal.events.resource import Resource
from caracal.events.session import Session
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.events.zone import Zone
from caracal.ids import log_key
from caracal.projections.projection import Projection
from caracal.projections.table import Mark, Merged, Operation, Outlived, Prune

LONGEST_TOKEN_SECONDS = 3600
CLOCK_SKEW_SECONDS = 60
_LONGEST_STALENESS_SECONDS = 3600  # that MAX_STALENESS may say
_LEAST_SECONDS = LONGEST_TOKEN_SECONDS + CLOCK_SKEW_SECONDS + _LONGEST_STALENESS_SECONDS
# In the read model, by the times of events. No token lives so long, and no agent: nothing is
# marked anew whose row has gone, so it does not matter which topic comes first.
_KEPT_SECONDS = 2 * 86_400
_SWEEP_SECONDS = 60
_OVER = "final OR resumed > stopped"

REVOCATIONS = Merged(
    "revocations",
    columns={
        "stopped": "bigint",  # position of the last end or suspension
        "resumed": "bigint",  # position of the last resumption
        "final": "boolean",
        "stopped_on": "bigint",  # Unix seconds, of the last of all these
    },
    indexes=(f"(stopped_on) WHERE {_OVER}", f"(id) WHERE NOT ({_OVER})"),
    outlived=Outlived(
        on="stopped_on",
        where=_OVER,
        holds=lambda row: row["final"] or row["resumed"] > row["stopped"],
        least=_LEAST_SECONDS,
    ),
)

revocations = Projection("revocations", REVOCATIONS, ignored=("session.started", "session.expired"))


@revocations.on(
    Zone.Archived,
    Application.Archived,
    Resource.Archived,
    TrustedIssuer.Archived,
    Grant.Revoked,
    Grant.Expired,
    Session.Revoked,
    Agent.Terminated,
    Delegation.Revoked,
)
def ended(fact: Fact) -> list[Operation]:
    return _marked(fact, [fact.aggregate_id, *_roots(fact)], stopped=fact.position, final=True)


@revocations.on(Agent.Suspended)
def suspended(fact: Fact) -> list[Operation]:
    return _marked(fact, [fact.aggregate_id, *_roots(fact)], stopped=fact.position)


@revocations.on(Agent.Resumed)
def resumed(fact: Fact) -> list[Operation]:
    return _marked(fact, [agent["id"] for agent in fact.data["agents"]], resumed=fact.position)


def _marked(fact: Fact, ids: Sequence[str], **columns: Any) -> list[Operation]:
    """Return the marks of a fact, and that what is much older than it may go."""
    on = int(clock.parse(fact.occurred_at).timestamp())
    return [
        Mark(REVOCATIONS, ids, {**columns, "stopped_on": on}),
        Prune(REVOCATIONS, on - _KEPT_SECONDS),
    ]


def _roots(fact: Fact) -> list[str]:
    return [root["id"] for root in fact.data.get("roots", [])]


Entry = tuple[int, int, bool, int]  # stopped, resumed, final, stopped_on
_NONE: Entry = (0, 0, False, 0)


class RevocationMap:
    """The ids that are revoked now, by 16 raw bytes each; a view of a tail.

    What has ended is forgotten when no token can be left that carries it: after the longest
    token's life, the clocks' difference, and ``max_staleness`` (seconds).
    """

    table = REVOCATIONS

    def __init__(self, max_staleness: float = 15.0) -> None:
        self._life = LONGEST_TOKEN_SECONDS + CLOCK_SKEW_SECONDS + max_staleness
        self._entries: dict[bytes, Entry] = {}
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def is_revoked(self, ids: Iterable[str]) -> bool:
        """Say whether one of ``ids`` has ended or is suspended."""
        entries = self._entries
        for anchor in ids:
            entry = entries.get(log_key(anchor).bytes)
            if entry is not None and (entry[2] or entry[0] > entry[1]):
                return True
        return False

    @property
    def since(self) -> int:
        """Return when an end counts as past, Unix seconds: a snapshot needs none from before."""
        return int(clock.now().timestamp() - self._life)

    @property
    def wanted(self) -> tuple[str, list[Any]]:
        """Return which rows a snapshot needs, as SQL: of years of ends, a token may carry few."""
        return f"NOT ({_OVER}) OR (({_OVER}) AND stopped_on >= %s)", [self.since]

    def load(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take the rows of a snapshot, in place of all there are."""
        self._entries = {log_key(row["id"]).bytes: _entry(row) for row in rows}
        self._sweep()

    def apply(self, position: int, operation: Mark | Prune) -> None:
        """Merge marks; in any order, any number of times. What is past goes by itself."""
        if isinstance(operation, Prune):
            return
        given = _entry(operation.columns)
        for anchor in operation.ids:
            key = log_key(anchor).bytes
            self._entries[key] = _merged(self._entries.get(key, _NONE), given)
        if clock.now().timestamp() >= self._next_sweep:
            self._sweep()

    def _sweep(self) -> None:
        self._next_sweep = clock.now().timestamp() + _SWEEP_SECONDS
        since = self.since
        self._entries = {
            key: entry for key, entry in self._entries.items() if not _is_past(entry, since)
        }


def _is_past(entry: Entry, since: int) -> bool:
    """Say whether no token can be left; what is suspended stays until it is resumed or ends."""
    stopped, resumed, final, stopped_on = entry
    return 0 < stopped_on < since and (final or resumed > stopped)


def _entry(columns: Mapping[str, Any]) -> Entry:
    return (
        columns.get("stopped", 0),
        columns.get("resumed", 0),
        columns.get("final", False),
        columns.get("stopped_on", 0),
    )


def _merged(one: Entry, other: Entry) -> Entry:
    return (
        max(one[0], other[0]),
        max(one[1], other[1]),
        one[2] or other[2],
        max(one[3], other[3]),
    )
