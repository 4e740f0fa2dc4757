"""CPU time by process, from ``/proc``: the figure that other people's load disturbs least."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PPID, _UTIME, _STIME, _CUTIME, _CSTIME = 1, 11, 12, 13, 14  # after the name, from the state on


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    own: float
    ended_children: float


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(") ")[2].split()
    own = int(fields[_UTIME]) + int(fields[_STIME])
    ended = int(fields[_CUTIME]) + int(fields[_CSTIME])
    return _Stat(int(fields[_PPID]), own / _TICKS, ended / _TICKS)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    return [child for child, stat in _all().items() if stat.parent == pid]


def below(pid: int) -> list[int]:
    """Return a process and all below it."""
    known = _all()
    found = [pid] if pid in known else []
    for parent in found:  # grows meanwhile
        found += [child for child, stat in known.items() if stat.parent == parent]
    return found


def _all() -> dict[int, _Stat]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid: stat for pid in pids if (stat := _stat(pid)) is not None}


def tree_seconds(pid: int, known: Mapping[int, _Stat] | None = None) -> float:
    """Return the CPU seconds of a process and all below it, ended ones included."""
    known = known if known is not None else _all()
    stat = known.get(pid)
    if stat is None:
        return 0.0
    below = [child for child, other in known.items() if other.parent == pid]
    return stat.own + stat.ended_children + sum(tree_seconds(child, known) for child in below)


def name_of(pid: int) -> str:
    """Return the name of a process of a stack: its log's, else its program's."""
    with suppress(OSError):
        log = Path(f"/proc/{pid}/fd/1").readlink()
        if log.parent.name == "logs" and log.suffix == ".log":
            return log.stem
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "gone"


def by_name(pids: Mapping[str, int]) -> dict[str, float]:
    """Return CPU seconds by name."""
    known = _all()
    return {name: tree_seconds(pid, known) for name, pid in pids.items()}


def machine_busy() -> tuple[float, float]:
    """Return CPU seconds of the whole machine since its start: busy, all."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS, sum(fields) / _TICKS


class Meter:
    """CPU used by some processes, and by the rest of the machine, between two moments."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before, self._machine = by_name(pids), machine_busy()

    def used(self) -> dict[str, float]:
        """Return CPU seconds by process since the start."""
        now = by_name(self._pids)
        return {name: max(now[name] - before, 0.0) for name, before in self._before.items()}

    def machine(self) -> tuple[float, float]:
        """Return CPU seconds of the whole machine since the start: busy, all there were."""
        busy, total = machine_busy()
        return busy - self._machine[0], total - self._machine[1]
