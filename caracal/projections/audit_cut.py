"""Dropping what retention no longer keeps: whole months, and a tied note of what they held.

Rows of a month are not a prefix of their chain: what is late stands behind what follows. So a
drop leaves, for each unbroken run of a chain, a *cut*: its numbers, the hash before it and its
last one, tied by the ledger's key. The verification passes over cuts and over nothing else.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any

from psycopg import AsyncConnection

from caracal.events.store.audit_entry import Keys
from caracal.projections.admin_audit_event import forget_refused
from caracal.projections.audit_ledger import LOCK, next_month

Db = AsyncConnection[Any]

_NAME = re.compile(r"audit_events_y(\d{4})m(\d{2})")
_COLUMNS = "zone_id, first_seq, last_seq, prev_content_sha256, content_sha256"
_RUNS = """
WITH numbered AS (
    SELECT zone_id, chain_seq,
        chain_seq - row_number() OVER (PARTITION BY zone_id ORDER BY chain_seq) AS run
    FROM {month}
), runs AS (
    SELECT zone_id, min(chain_seq) AS first_seq, max(chain_seq) AS last_seq
    FROM numbered GROUP BY zone_id, run
)
SELECT r.zone_id, r.first_seq, r.last_seq, f.prev_content_sha256, l.content_sha256
FROM runs r
JOIN {month} f ON (f.zone_id, f.chain_seq) = (r.zone_id, r.first_seq)
JOIN {month} l ON (l.zone_id, l.chain_seq) = (r.zone_id, r.last_seq)
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """An unbroken run of a chain that was dropped."""

    zone_id: str
    first_seq: int
    last_seq: int
    prev_content_sha256: str | None
    content_sha256: str
    cut_hmac: str = ""

    def tied(self, keys: Keys) -> Cut:
        """Return the cut tied by the first key; untied without keys."""
        return replace(self, cut_hmac=self._tie(keys[0]) if keys else "")

    def is_tied(self, keys: Keys) -> bool:
        """Say whether one of the keys tied it; everything is well without keys."""
        held = self.cut_hmac.encode()  # as text it would have to be ASCII
        ties = [hmac.compare_digest(self._tie(key).encode(), held) for key in keys]
        return not ties or any(ties)

    def _tie(self, key: bytes) -> str:
        text = (
            f"cut|{self.zone_id}|{self.first_seq}|{self.last_seq}"
            f"|{self.prev_content_sha256 or ''}|{self.content_sha256}"
        )
        return hmac.digest(key, text.encode(), "sha256").hex()


def merged(cuts: Iterable[Cut]) -> list[Cut]:
    """Return cuts of one chain with those in one that meet."""
    done: list[Cut] = []
    for cut in sorted(cuts, key=lambda one: (one.first_seq, one.last_seq)):
        last = done[-1] if done else None
        if last and (last.last_seq + 1, last.content_sha256) == (
            cut.first_seq,
            cut.prev_content_sha256,
        ):
            done[-1] = replace(
                last, last_seq=cut.last_seq, content_sha256=cut.content_sha256, cut_hmac=""
            )
        else:
            done.append(cut)
    return done


async def cuts_between(db: Db, zone_id: str, after: int, before: int) -> list[Cut]:
    """Return the cuts that may explain why ``before`` follows ``after``, in order.

    One may go beyond ``before``: that row went with its month after it was read.
    """
    cursor = await db.execute(
        f"SELECT {_COLUMNS}, cut_hmac FROM audit_chain_cuts"
        " WHERE zone_id = %s AND last_seq > %s AND first_seq < %s ORDER BY first_seq",
        (zone_id, after, before),
    )
    return [Cut(*row) for row in await cursor.fetchall()]


EVERYTHING = datetime.max.replace(tzinfo=UTC)


async def drop_before(
    db: Db, moment: datetime, keys: Keys, *, exported: datetime = EVERYTHING
) -> list[str]:
    """Drop the months that lie wholly before ``moment``; return the names of their tables.

    A month with a row that came into the ledger at ``exported`` or later stays.

    Raises:
        psycopg.errors.LockNotAvailable: readers of the ledger do not let it happen just now; the
            months before that one are gone.
    """
    dropped = []
    for name, start, end in await _months(db):
        if end <= moment and await _drop(db, name, start, end, keys, exported):
            dropped.append(name)
    return dropped


async def _months(db: Db) -> list[tuple[str, datetime, datetime]]:
    cursor = await db.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'audit_events'::regclass ORDER BY 1"
    )
    found = [_NAME.fullmatch(name) for (name,) in await cursor.fetchall()]
    starts = {one[0]: datetime(int(one[1]), int(one[2]), 1, tzinfo=UTC) for one in found if one}
    return [(name, start, next_month(start)) for name, start in starts.items()]


async def _drop(
    db: Db, name: str, start: datetime, end: datetime, keys: Keys, exported: datetime
) -> bool:
    """Drop a month; its cuts, and what read models have only of it, in the same transaction."""
    async with db.transaction():
        await db.execute("SET LOCAL lock_timeout = '1s'")  # who waits, makes others wait
        await db.execute(f"SELECT {LOCK}")
        cursor = await db.execute(
            f"SELECT EXISTS (SELECT FROM {name} WHERE ingested_at >= %s)", (exported,)
        )
        if (await cursor.fetchone() or (True,))[0]:
            return False
        cursor = await db.execute(_RUNS.format(month=name))
        await _note(db, [Cut(*row) for row in await cursor.fetchall()], keys)
        await forget_refused(db, start, end)
        await db.execute(f"DROP TABLE {name}")
    return True


async def _note(db: Db, fresh: Sequence[Cut], keys: Keys) -> None:
    zones = sorted({cut.zone_id for cut in fresh})
    cursor = await db.execute(
        f"SELECT {_COLUMNS}, cut_hmac FROM audit_chain_cuts WHERE zone_id = ANY(%s)", (zones,)
    )
    # A cut that is not ours must not become part of one that is.
    ours = [cut for cut in (Cut(*row) for row in await cursor.fetchall()) if cut.is_tied(keys)]
    every = sorted([*ours, *fresh], key=attrgetter("zone_id"))
    whole = [
        cut.tied(keys)
        for _, of_zone in groupby(every, key=attrgetter("zone_id"))
        for cut in merged(of_zone)
    ]
    async with db.cursor() as batch:
        await batch.executemany(
            "DELETE FROM audit_chain_cuts WHERE zone_id = %s AND first_seq = %s",
            [(cut.zone_id, cut.first_seq) for cut in ours],
        )
        await batch.executemany(
            f"INSERT INTO audit_chain_cuts ({_COLUMNS}, cut_hmac)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [_values(cut) for cut in whole],
        )


_values = attrgetter(*Cut.__slots__)
