"""The ledger's table: one writer, a chain for each zone, a partition for each month."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import (
    DataError,
    DuplicateTable,
    InsufficientPrivilege,
    InvalidParameterValue,
    ProgrammingError,
    UniqueViolation,
)

from caracal import clock
from caracal.events.store.audit_entry import Keys
from caracal.events.store.audit_topic import LEDGER_GROUP
from caracal.events.store.entries import EntryId
from caracal.projections import PROJECTIONS, sql
from caracal.projections.audit_row import COLUMNS, Evidence, chain_hmac

logger = logging.getLogger(__name__)

Db = AsyncConnection[Any]

LOCK = "pg_advisory_xact_lock(hashtextextended('audit-ingestor-batch', 0))"
"""What a transaction takes in which the ledger must not grow."""

MONTHS_AHEAD = 3
_ROLE = "caracal_audit"
_CHAIN = ("chain_seq", "content_sha256", "prev_content_sha256", "chain_hmac", "ingest_signature")
_members = attrgetter(*COLUMNS)

_types = ["timestamptz" if name == "occurred_at" else "text" for name in COLUMNS]
_arrays = ", ".join(f"%b::{kind}[]" for kind in (*_types, "bigint", *["text"] * 4))
# The time at which a row came is taken under the lock: what is behind it is complete.
_INSERT = (
    f"INSERT INTO audit_events ({', '.join((*COLUMNS, *_CHAIN))}, ingested_at)"
    f" SELECT *, statement_timestamp() FROM unnest({_arrays})"
)


@dataclass(frozen=True, slots=True)
class Tampered:
    """Evidence whose event the ledger has already, with another content."""

    evidence: Evidence
    recorded_sha256: str

    @property
    def detail(self) -> str:
        """Return both sides."""
        return f"recorded {self.recorded_sha256}, came again as {self.evidence.content_sha256}"


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch was: new rows, known ones, and those that contradict the ledger."""

    inserted: int = 0
    duplicates: int = 0
    tampered: tuple[Tampered, ...] = ()

    def __add__(self, other: Written) -> Written:
        return Written(
            self.inserted + other.inserted,
            self.duplicates + other.duplicates,
            self.tampered + other.tampered,
        )


class Ledger:
    """Writes on one connection of its owner's; each batch is one transaction."""

    def __init__(self, connection: Db, keys: Keys) -> None:
        self._db, self._key = connection, keys[0] if keys else None
        self._role = "none"
        self._months: set[str] = set()
        self.partitions_made = 0

    async def open(self) -> None:
        """Take the writer's role, if there is one, and make the partitions of the near months."""
        try:
            await self._db.execute(f"SET ROLE {_ROLE}")
            self._role = _ROLE
        except (InsufficientPrivilege, InvalidParameterValue):
            self._role = "none"  # the database's owner allows no roles: write as ourselves
        await self._db.execute("RESET ROLE")
        await self.prepare_months()

    async def prepare_months(self) -> None:
        """Make the partitions of the current month and of those that follow soon."""
        month = _month(clock.now())
        for _ in range(MONTHS_AHEAD + 1):
            await self._prepare(month)
            month = next_month(month)

    async def write(self, batch: Sequence[Evidence], upto: EntryId | None) -> Written:
        """Append a batch to the chains and move the watermark, all or nothing.

        ``upto`` is None when the watermark stays.

        Raises:
            psycopg.Error: nothing was written.
        """
        for month in {_month(evidence.row.occurred_at) for evidence in batch}:
            await self._prepare(month)
        async with self._db.transaction():
            # The second lock makes writers wait for each other even when one goes ahead of a
            # leader that has fallen silent.
            await self._db.execute(
                f"SELECT set_config('role', %s, true), {LOCK}",
                (self._role,),
                prepare=True,
            )
            written, fresh = _sorted_out(batch, await self._recorded(batch))
            await self._append(fresh)
            await self._alert(written.tampered)
            if upto is not None:
                await self._move_watermark(upto)
            await self._project(fresh)
        return written

    def forget_months(self) -> None:
        """Look again which partitions there are: retention may have dropped one."""
        self._months.clear()

    async def _prepare(self, first: datetime) -> None:
        name = f"audit_events_y{first:%Y}m{first:%m}"
        if name in self._months:
            return
        cursor = await self._db.execute("SELECT to_regclass(%s) IS NULL", (name,))
        row = await cursor.fetchone()
        if row and row[0]:
            await self._make(name, first)
        self._months.add(name)

    async def _make(self, name: str, first: datetime) -> None:
        bounds = f"FROM ('{first.isoformat()}') TO ('{next_month(first).isoformat()}')"
        try:
            await self._db.execute(
                f"CREATE TABLE {name} PARTITION OF audit_events FOR VALUES {bounds}"
            )
            self.partitions_made += 1
        except (DuplicateTable, UniqueViolation):
            return  # another writer was faster

    async def _recorded(self, batch: Iterable[Evidence]) -> dict[str, str]:
        cursor = await self._db.execute(
            "SELECT id, content_sha256 FROM audit_events WHERE id = ANY(%s)",
            ([evidence.row.id for evidence in batch],),
            prepare=False,  # a plan made for a young month would walk all of it ever after
        )
        return dict(await cursor.fetchall())

    async def _append(self, fresh: Sequence[Evidence]) -> None:
        if not fresh:
            return
        heads = await self._heads({evidence.row.zone_id for evidence in fresh})
        rows = []
        for evidence in fresh:
            number, prev = heads.get(evidence.row.zone_id, (0, None))
            content = evidence.content_sha256
            tie = chain_hmac(self._key, content, prev)
            rows.append(
                (*_members(evidence.row), number + 1, content, prev, tie, evidence.signature)
            )
            heads[evidence.row.zone_id] = (number + 1, content)
        await self._db.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])
        await self._move_heads(heads)

    async def _heads(self, zones: Iterable[str]) -> dict[str, tuple[int, str | None]]:
        cursor = await self._db.execute(
            "SELECT zone_id, chain_seq, content_sha256 FROM audit_chain_heads"
            " WHERE zone_id = ANY(%s)",
            (list(zones),),
            prepare=True,
        )
        return {zone: (number, content) for zone, number, content in await cursor.fetchall()}

    async def _move_heads(self, heads: dict[str, tuple[int, str | None]]) -> None:
        numbers, contents = zip(*heads.values(), strict=True)
        await self._db.execute(
            "INSERT INTO audit_chain_heads (zone_id, chain_seq, content_sha256)"
            " SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[])"
            " ON CONFLICT (zone_id) DO UPDATE SET chain_seq = excluded.chain_seq,"
            " content_sha256 = excluded.content_sha256, moved_at = now()",
            (list(heads), list(numbers), list(contents)),
            prepare=True,
        )

    async def _project(self, fresh: Sequence[Evidence]) -> None:
        """Apply what read models make of these decisions; the ledger itself never waits for it."""
        operations = [
            operation
            for projection in PROJECTIONS
            for evidence in fresh
            for operation in projection.reduce_decision(evidence.row)
        ]
        if not operations:
            return
        try:
            async with self._db.transaction():
                await self._db.execute("SELECT set_config('role', 'none', true)")
                await sql.apply(self._db, operations)
        except (ProgrammingError, DataError) as error:  # a rebuild reads them from the ledger
            logger.error("decisions are missing in a read model: %s", error)

    async def _alert(self, tampered: Iterable[Tampered]) -> None:
        for one in tampered:
            row = one.evidence.row
            await alert(self._db, row.id, row.zone_id, "content_mismatch_on_replay", one.detail)

    async def _move_watermark(self, upto: EntryId) -> None:
        await self._db.execute(
            "INSERT INTO audit_watermarks AS w (name, position, n) VALUES (%s, %s, %s)"
            " ON CONFLICT (name) DO UPDATE SET position = excluded.position, n = excluded.n,"
            " moved_at = now()",
            (LEDGER_GROUP, *upto),
            prepare=True,
        )


async def alert(db: Db, event_id: str, zone_id: str, kind: str, detail: str) -> None:
    """Record a finding, once."""
    await db.execute(
        "INSERT INTO audit_ingest_alerts (event_id, zone_id, kind, detail)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (event_id, zone_id, kind, detail),
    )


def _sorted_out(
    batch: Sequence[Evidence], recorded: dict[str, str]
) -> tuple[Written, list[Evidence]]:
    """Tell what is new from what the ledger, or the batch itself, has already."""
    fresh: list[Evidence] = []
    tampered: list[Tampered] = []
    for evidence in batch:
        known = recorded.setdefault(evidence.row.id, "")
        if not known:
            recorded[evidence.row.id] = evidence.content_sha256
            fresh.append(evidence)
        elif known != evidence.content_sha256:
            tampered.append(Tampered(evidence, known))
    duplicates = len(batch) - len(fresh) - len(tampered)
    return Written(len(fresh), duplicates, tuple(tampered)), fresh


def _month(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, 1, tzinfo=UTC)


def next_month(first: datetime) -> datetime:
    """Return the first moment of the month after the one that begins at ``first``."""
    return _month(first + timedelta(days=31))
