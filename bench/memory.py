"""Memory by process, from ``/proc``: what it has alone, and its share of what it shares (PSS)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bench.cpu import below
from caracal.tasks import cancelled

_EVERY_SECONDS = 0.25


def mebibytes(pid: int) -> float:
    """Return the PSS of a process and all below it, in MiB."""
    return sum(_kibibytes(one) for one in below(pid)) / 1024


def processes(*arguments: str) -> list[int]:
    """Return the processes that were started with these arguments, one after the other."""
    wanted, found = "\0".join(arguments).encode(), []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def by_size(pids: list[int]) -> list[float]:
    """Return the PSS of each process that is there, in MiB, the largest first."""
    return sorted((size / 1024 for size in map(_kibibytes, pids) if size), reverse=True)


def _kibibytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has ended
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


@asynccontextmanager
async def watched(pids: Mapping[str, int]) -> AsyncIterator[dict[str, float]]:
    """Yield the most that each process has had since the context began, in MiB, by name."""
    most = {name: mebibytes(pid) for name, pid in pids.items()}

    async def watch() -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            for name, pid in pids.items():
                most[name] = max(most[name], mebibytes(pid))

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        await cancelled(watching)
