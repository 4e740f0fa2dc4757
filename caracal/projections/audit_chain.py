"""Verification of the ledger: has a row been changed, removed, moved, or cut off?"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection, DataError

from caracal.events.store.audit_entry import Keys
from caracal.projections.audit_cut import Cut, cuts_between
from caracal.projections.audit_ledger import alert
from caracal.projections.audit_row import COLUMNS, Row, chain_hmac

Db = AsyncConnection[Any]

_PAGE = 200  # rows hashed in one go: the loop has others to serve
_LINKS = "chain_seq, content_sha256, prev_content_sha256, chain_hmac"
_WALK = (
    f"SELECT {', '.join(COLUMNS)}, {_LINKS} FROM audit_events"
    " WHERE zone_id = %s AND chain_seq > %s ORDER BY chain_seq, id LIMIT %s"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written.

    ``kind``: ``content_mismatch``, ``chain_break``, ``chain_gap``, ``chain_hmac_mismatch`` or
    ``chain_end_mismatch``.
    """

    event_id: str
    zone_id: str
    kind: str
    detail: str


@dataclass(slots=True)
class ChainReport:
    """What a verification saw of one zone."""

    zone_id: str
    checked: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, event_id: str, kind: str, detail: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(event_id, self.zone_id, kind, detail))

    @property
    def ok(self) -> bool:
        """Whether the chain is whole."""
        return not self.findings


class Link(NamedTuple):
    """A row, and what it says of its place in the chain."""

    row: Row
    seq: int
    content_sha256: str
    prev_content_sha256: str | None
    chain_hmac: str


async def verify_chain(
    db: Db, zone_id: str, keys: Keys, *, since: datetime | None = None
) -> ChainReport:
    """Verify the chain of a zone, from the rows ingested at ``since`` on, to its end.

    The first row of a window is checked against its stored predecessor. Read-only; short
    statements, so it may run beside the writer.
    """
    head = await _head(db, zone_id)  # before the rows: what is appended meanwhile is beyond it
    walk = Walk(zone_id, keys, await _before(db, zone_id, since))
    try:
        async for link in _links(db, zone_id, walk.seq):
            await _pass_over_cuts(db, walk, link.seq)
            if not walk.is_cut(link.seq):
                walk.step(link)
            elif await _is_there(db, zone_id, link.row.id):
                detail = f"number {link.seq} is there, though dropped"
                walk.report.add(link.row.id, "chain_gap", detail)
    except (DataError, ValueError) as error:  # no writer of ours left that: do not stop at it
        detail = f"behind number {walk.seq} nothing can be read: {type(error).__name__}"
        walk.report.add("", "chain_break", detail)
        return walk.report
    if head is not None:
        await _pass_over_cuts(db, walk, head[0] + 1)
        walk.finish(*head)
    elif walk.seq and await _head(db, zone_id) is None:  # it has not just begun, either
        walk.report.add("", "chain_end_mismatch", f"ends at {walk.seq}, no end is recorded")
    return walk.report


async def zones(db: Db, *, since: datetime | None = None) -> list[str]:
    """Return the zones that have a chain; with ``since`` those whose chain has grown since."""
    if since is None:
        statement = "SELECT zone_id FROM audit_chain_heads UNION SELECT zone_id FROM audit_events"
    else:
        statement = "SELECT zone_id FROM audit_chain_heads WHERE moved_at >= %s"
    cursor = await db.execute(statement, () if since is None else (since,))
    return sorted(row[0] for row in await cursor.fetchall())


async def sweep(db: Db, keys: Keys, *, since: datetime | None = None) -> list[ChainReport]:
    """Verify every chain and record what is found in ``audit_ingest_alerts``."""
    grown = await zones(db, since=since)
    reports = [await verify_chain(db, zone, keys, since=since) for zone in grown]
    for report in reports:
        for found in report.findings:
            await alert(db, found.event_id, found.zone_id, found.kind, found.detail)
    return reports


class Walk:
    """Goes from row to row; pure."""

    def __init__(self, zone_id: str, keys: Keys, before: tuple[int, str | None]) -> None:
        self.report = ChainReport(zone_id)
        self.seq, self._content = before
        self._cut_to = 0
        self._keys = keys

    def step(self, link: Link) -> None:
        """Check one row against its content, its key, and the row before."""
        report = self.report
        for kind, detail in self._wrong(link):
            report.add(link.row.id, kind, detail)
        if report.first_seq is None:
            report.first_seq = link.seq
        report.checked, report.last_seq = report.checked + 1, link.seq
        self.seq, self._content = link.seq, link.content_sha256

    def pass_over(self, cut: Cut) -> None:
        """Go on behind what retention dropped."""
        if not cut.is_tied(self._keys):
            detail = f"numbers {cut.first_seq} to {cut.last_seq} are not ours to be missing"
            self.report.add("", "chain_hmac_mismatch", detail)
            return
        if cut.first_seq > self.seq + 1:
            detail = f"number {cut.first_seq}, dropped since, follows {self.seq}"
            self.report.add("", "chain_gap", detail)
        elif cut.first_seq == self.seq + 1 and cut.prev_content_sha256 != self._content:
            detail = f"number {cut.first_seq}, dropped since, follows another content"
            self.report.add("", "chain_break", detail)
        # One that begins before was made longer while we walked.
        self.seq, self._content = cut.last_seq, cut.content_sha256
        self._cut_to = cut.last_seq

    def is_cut(self, seq: int) -> bool:
        """Say whether what we have passed over reaches to ``seq`` or beyond."""
        return seq <= self._cut_to

    def _wrong(self, link: Link) -> Iterator[tuple[str, str]]:
        content, prev = link.row.content_sha256(), link.prev_content_sha256
        if content != link.content_sha256:
            yield "content_mismatch", f"is {content}, recorded {link.content_sha256}"
        if link.seq != self.seq + 1:
            yield "chain_gap", f"number {link.seq} follows {self.seq}"
        if prev != self._content:
            yield "chain_break", f"number {link.seq} follows {prev}, not {self._content}"
        if not self._tied(link):
            yield "chain_hmac_mismatch", f"number {link.seq} is tied by none of the keys"

    def _tied(self, link: Link) -> bool:
        content, prev = link.content_sha256, link.prev_content_sha256
        ties = [chain_hmac(key, content, prev) for key in self._keys]
        held = link.chain_hmac.encode()  # as text it would have to be ASCII
        return not ties or any(hmac.compare_digest(tie.encode(), held) for tie in ties)

    def finish(self, end: int, content: str) -> None:
        """Check that the chain reaches its recorded end."""
        if self.seq < end:
            detail = f"ends at {self.seq}, recorded end {end}"
            self.report.add("", "chain_end_mismatch", detail)
        elif self.seq == end and self._content != content:
            detail = f"number {end} is {self._content}, recorded end {content}"
            self.report.add("", "chain_end_mismatch", detail)


async def _pass_over_cuts(db: Db, walk: Walk, before: int) -> None:
    """Let what was dropped explain a gap. After the rows: they go when the cut comes."""
    if before > walk.seq + 1:
        for cut in await cuts_between(db, walk.report.zone_id, walk.seq, before):
            walk.pass_over(cut)


async def _is_there(db: Db, zone_id: str, event_id: str) -> bool:
    """Say whether a row is there now: one that was dropped after it was read is not."""
    cursor = await db.execute(
        "SELECT 1 FROM audit_events WHERE zone_id = %s AND id = %s", (zone_id, event_id)
    )
    return await cursor.fetchone() is not None


async def _head(db: Db, zone_id: str) -> tuple[int, str] | None:
    cursor = await db.execute(
        "SELECT chain_seq, content_sha256 FROM audit_chain_heads WHERE zone_id = %s", (zone_id,)
    )
    return await cursor.fetchone()


async def _before(db: Db, zone_id: str, since: datetime | None) -> tuple[int, str | None]:
    """Return number and content of the last row before the window; the chain's start without."""
    if since is None:
        return 0, None
    cursor = await db.execute(
        "SELECT chain_seq, content_sha256 FROM audit_events"
        " WHERE zone_id = %s AND ingested_at < %s ORDER BY chain_seq DESC LIMIT 1",
        (zone_id, since),
    )
    return await cursor.fetchone() or (0, None)


async def _links(db: Db, zone_id: str, after: int) -> AsyncIterator[Link]:
    while True:
        cursor = await db.execute(_WALK, (zone_id, after, _PAGE), prepare=True)
        rows = await cursor.fetchall()
        for row in rows:
            yield Link(Row(*row[: len(COLUMNS)]), *row[len(COLUMNS) :])
        if len(rows) < _PAGE:
            return
        after = rows[-1][len(COLUMNS)]
