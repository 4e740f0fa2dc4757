"""Ends processes that a policy holds, and replaces those that died of one (ADR 11).

The processes note on a board what they evaluate (``caracal.policy.beat``). What held or killed one
is evaluated there no more: its name goes on the board's list, and the service evaluates it in a
process that may die. The parent that runs this has neither threads nor a loop, and forks quickly.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from caracal.cli.processes import Children
from caracal.policy.beat import EVERYTHING, MAX_NAMES, Beat, Board, Evaluation, become

POLL = 0.02  # s
MAX_GROWTH = 1 << 29  # bytes within one evaluation
ZONE_LOSSES, ZONE_SECONDS = 3, 3600.0
"""So many processes lost by one zone in this time: no policy of it is evaluated there."""

ALL_LOSSES, ALL_SECONDS = 10, 600.0
"""So many lost in this time, by whomever: no policy at all is evaluated there."""


@dataclass(frozen=True, slots=True)
class _Child:
    work: Callable[[], int]
    slot: int
    log: Path | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """An evaluation, and what its process had taken when the watchdog saw it first."""

    evaluation: Evaluation
    cpu_seconds: float
    memory: int


class Watchdog:
    """Watches some of the children of this process; ``limit`` in seconds for one evaluation."""

    def __init__(self, children: Children, limit: float) -> None:
        self._children, self._limit = children, limit
        self._board = Board()
        self._watched: dict[str, _Child] = {}
        self._seen: dict[str, _Seen] = {}
        self._ended: dict[str, Evaluation] = {}
        self._losses: deque[tuple[float, str]] = deque()
        self._lost = 0
        self._bundles: dict[str, None] = {}
        self._published: list[str] = []
        self._published_at = 0

    def fork(self, name: str, work: Callable[[], int], log: Path | None = None) -> None:
        """Start a process that is watched; it is started again when an evaluation ended it.

        Args:
            work: as in ``Children.fork``.
            log: to which its output is added.
        """
        self._watched[name] = _Child(work, len(self._watched), log)
        self._start(name)

    def look(self) -> None:
        """End what is stuck, replace what died of an evaluation; call it every ``POLL`` seconds.

        The codes of those that ended otherwise are left in ``Children.codes``.
        """
        for name, child in self._watched.items():
            self._look_at(name, self._board.evaluation(child.slot), self._children.pid(name))
        self._children.running()
        for name in self._watched.keys() & self._children.codes.keys():
            self._replace(name)
        self._publish()

    def _start(self, name: str) -> None:
        child = self._watched[name]
        self._board.clear(child.slot)
        beat = self._board.beat(child.slot)
        with nullcontext() if child.log is None else child.log.open("ab") as log:
            self._children.fork(name, lambda: _work(child, beat), log)

    def _look_at(self, name: str, evaluation: Evaluation | None, pid: int | None) -> None:
        """Kill a process that evaluates too long, or takes too much memory for it."""
        if evaluation is None or pid is None or name in self._ended:
            return
        cpu, memory = _taken(pid)
        seen = self._seen.get(name)
        if seen is None or seen.evaluation.started != evaluation.started:
            self._seen[name] = _Seen(evaluation, cpu, memory)
            return
        age = time.monotonic() - evaluation.started / 1e9
        # One that gets no processor, or is stopped, is not stuck in its evaluation.
        stuck = age > self._limit and cpu - seen.cpu_seconds > self._limit / 2
        if stuck or memory - seen.memory > MAX_GROWTH:
            # Told first: the other processes shall not begin with it while this one dies.
            if not self._is_forbidden(evaluation):
                self._ended[name] = evaluation
                self._keep_apart(evaluation)
            self._children.kill(name)

    def _keep_apart(self, evaluation: Evaluation) -> None:
        self._lost += 1
        self._losses.append((time.monotonic(), evaluation.zone_id))
        self._bundles.pop(evaluation.manifest_sha256, None)
        self._bundles[evaluation.manifest_sha256] = None
        self._publish()

    def _replace(self, name: str) -> None:
        if (evaluation := self._ended.pop(name, None)) is None:  # it died by itself
            evaluation = self._board.evaluation(self._watched[name].slot)
            if evaluation is None or self._is_forbidden(evaluation):
                return
            self._keep_apart(evaluation)
        code = self._children.codes.pop(name)
        typer.echo(
            f"caracal: {name} was lost (exit code {code}) in an evaluation of policies"
            f" {evaluation.manifest_sha256} of zone {evaluation.zone_id}: they are kept apart now",
            err=True,
        )
        self._start(name)

    def _is_forbidden(self, evaluation: Evaluation) -> bool:
        """Say whether it was begun although nothing is evaluated there: then more is wrong."""
        return EVERYTHING in self._published and evaluation.started > self._published_at

    def _publish(self) -> None:
        names = self._names()
        if names != self._published:
            self._published, self._published_at = names, time.monotonic_ns()
            self._board.publish(names, self._lost)

    def _names(self) -> list[str]:
        now = time.monotonic()
        while self._losses and now - self._losses[0][0] > ZONE_SECONDS:
            self._losses.popleft()
        zones = [zone_id for _, zone_id in self._losses]
        repeated = sorted({zone_id for zone_id in zones if zones.count(zone_id) >= ZONE_LOSSES})
        recent = sum(now - at < ALL_SECONDS for at, _ in self._losses)
        every = [EVERYTHING] if recent >= ALL_LOSSES else []
        return [*every, *repeated, *reversed(self._bundles)][:MAX_NAMES]


def _work(child: _Child, beat: Beat) -> int:
    become(beat)
    return child.work()


def _taken(pid: int) -> tuple[float, int]:
    """Return CPU time (s) and memory (bytes) of a process; elsewhere than on Linux wall time."""
    if sys.platform != "linux":
        return time.monotonic(), 0
    with suppress(OSError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        clock = ~pid << 3 | 2  # clock_getcpuclockid(3)
        return time.clock_gettime(clock), pages * os.sysconf("SC_PAGE_SIZE")
    return 0.0, 0  # it has just died
