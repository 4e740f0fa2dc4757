"""What processes that evaluate policies and their parent tell each other, in memory they share.

An evaluation holds its process and cannot be interrupted. So each process notes before one which
policies it is about to evaluate, and since when; the parent (``caracal.cli.watchdog``) ends the
one that is stuck, or finds what it was about when it died, and writes what must not be evaluated
in these processes any more. The memory is the parent's: it outlives every child.

========  =====================================================================================
Header    generation of the list (odd while it is written), length of the list, processes lost
List      names: of a bundle, of a zone, or ``*``; the parent alone writes it
Slots     one a process: since when it evaluates (0: it does not), zone and bundle
========  =====================================================================================
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Collection
from dataclasses import dataclass

MAX_NAMES = 512
MAX_SLOTS = 64
EVERYTHING = "*"
"""In the list: no bundle at all is evaluated here."""

_NAME = 64  # bytes: a SHA-256 in hex; a zone's id is shorter
_HEADER = 24
_SLOT = 8 + 2 * _NAME
_LIST_AT = _HEADER
_SLOTS_AT = _LIST_AT + MAX_NAMES * _NAME
_SIZE = _SLOTS_AT + MAX_SLOTS * _SLOT


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a process is evaluating; ``started`` by ``time.monotonic_ns``."""

    started: int
    zone_id: str
    manifest_sha256: str


class Board:
    """The memory, made by the parent before it forks."""

    def __init__(self) -> None:
        self._view = memoryview(mmap.mmap(-1, _SIZE))
        self.header = self._view[:_HEADER].cast("Q")

    def beat(self, slot: int) -> Beat:
        """Return what the process of a slot (from 0) writes and reads."""
        return Beat(self, slot)

    def evaluation(self, slot: int) -> Evaluation | None:
        """Return what the process of a slot is evaluating, if it is."""
        part = self._slot(slot)
        since = part[:8].cast("Q")
        started = since[0]
        zone_id, sha = _text(part[8 : 8 + _NAME]), _text(part[8 + _NAME :])
        same = started == since[0]  # else these may be the names of the next one
        return Evaluation(started, zone_id, sha) if started and same else None

    def clear(self, slot: int) -> None:
        """Make a slot that of a new process, which evaluates nothing yet."""
        self._slot(slot)[:8].cast("Q")[0] = 0

    def publish(self, names: Collection[str], lost: int) -> None:
        """Write the list anew, at most ``MAX_NAMES``, and how many processes were lost so far."""
        self.header[0] += 1
        for index, name in enumerate(names):
            at = _LIST_AT + index * _NAME
            self._view[at : at + _NAME] = _padded(name)
        self.header[1], self.header[2] = len(names), lost
        self.header[0] += 1

    @property
    def lost(self) -> int:
        """Return how many processes were lost by evaluations."""
        return self.header[2]

    def names(self) -> frozenset[str]:
        """Return the list."""
        ends = (_LIST_AT + index * _NAME for index in range(self.header[1]))
        return frozenset(_text(self._view[at : at + _NAME]) for at in ends)

    def _slot(self, slot: int) -> memoryview:
        at = _SLOTS_AT + slot * _SLOT
        return self._view[at : at + _SLOT]


class Beat:
    """One process's part of a board. Writing costs 0.2 µs an evaluation."""

    def __init__(self, board: Board, slot: int) -> None:
        part = board._slot(slot)  # noqa: SLF001 - the two classes are one thing
        self._board, self._header = board, board.header
        self._since, self._what = part[:8].cast("Q"), part[8:]
        self._generation, self._names = -1, frozenset[str]()

    def begin(self, label: bytes) -> int:
        """Note that an evaluation begins; return the time, of ``time.monotonic_ns``.

        Args:
            label: of ``label(zone_id, manifest_sha256)``.
        """
        self._what[:] = label
        now = self._since[0] = time.monotonic_ns()
        return now

    def end(self) -> None:
        """Note that it has ended."""
        self._since[0] = 0

    def apart(self) -> frozenset[str]:
        """Return what the parent says must not be evaluated in this process."""
        generation = self._header[0]
        if generation != self._generation:
            self._names = self._board.names()
            # Read while it was written: read again the next time.
            same = generation == self._header[0] and generation % 2 == 0
            self._generation = generation if same else -1
        return self._names

    @property
    def lost(self) -> int:
        """Return how many processes were lost by evaluations."""
        return self._board.lost


def label(zone_id: str, manifest_sha256: str) -> bytes:
    """Return what ``begin`` takes: made once per bundle, written at each evaluation."""
    return _padded(zone_id) + _padded(manifest_sha256)


def _padded(name: str) -> bytes:
    return name.encode()[:_NAME].ljust(_NAME, b"\0")


def _text(part: memoryview) -> str:
    return bytes(part).rstrip(b"\0").decode(errors="replace")


_mine: list[Beat] = []


def become(beat: Beat) -> None:
    """Make a beat that of this process: right after the fork, before its service is made."""
    _mine[:] = [beat]


def mine() -> Beat:
    """Return the beat of this process; one that nobody watches if it has no such parent."""
    return _mine[0] if _mine else Board().beat(0)
