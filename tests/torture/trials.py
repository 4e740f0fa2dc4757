"""Trial after trial: write, break something, wait until it has settled, check everything."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from caracal.embedded import EmbeddedServers
from tests.torture.faults import FAULTS
from tests.torture.oracle import Oracle
from tests.torture.stack import Failed, Stack

_EXTRA_LIFE = 3  # trials that an unlocked process lives


@dataclass
class Summary:
    """What a run came to."""

    seed: int
    trials: int = 0
    events: int = 0
    applied: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    failure: str | None = None

    def table(self) -> Table:
        """Return it for people."""
        table = Table("", "", title=f"torture, seed {self.seed}", show_header=False)
        table.add_row("trials", str(self.trials))
        table.add_row("faults", _listed(self.faults))
        table.add_row("callers were told", _listed(self.told))
        table.add_row("events in the log", str(self.events))
        table.add_row("entries applied", str(self.applied))
        table.add_row("relays and runners counted, at least", _listed(self.counted))
        table.add_row("time", f"{self.seconds:.0f} s; slowest to settle {self.slowest:.1f} s")
        result = self.failure or "exactly once, in order, equal to the log"
        table.add_row("result", result, style="bold red" if self.failure else "bold green")
        return table


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


@dataclass
class Run:
    """What to do: until ``trials`` or ``seconds`` are over, whichever comes first."""

    seed: int
    trials: int = 10**9
    seconds: float = 600.0
    faults: Sequence[str] = tuple(FAULTS)
    say: Callable[[str], None] = lambda line: None

    def go(self, servers: EmbeddedServers, folder: Path) -> Summary:
        """Carry it out; a failure is told in the summary, never raised."""
        chooser, begun = Random(self.seed), time.monotonic()
        summary = Summary(self.seed)
        with Stack.running(servers, folder, chooser) as stack:
            oracle = Oracle(stack)
            try:
                oracle.settle()
                while summary.trials < self.trials and time.monotonic() - begun < self.seconds:
                    _Trial(stack, oracle, summary).go(self._choice(chooser, summary.trials))
                    if summary.trials % 20 == 0:
                        self.say(_progress(summary, oracle, time.monotonic() - begun))
                oracle.check_afresh()
            except Failed as failure:
                summary.failure = f"FAILED in trial {summary.trials}: {failure}"
            for child in stack.children:
                stack.count(child)
        summary.events, summary.applied = oracle.events, oracle.applied
        summary.seconds, summary.counted = time.monotonic() - begun, stack.counted
        return summary

    def _choice(self, chooser: Random, number: int) -> list[str]:
        """Each kind once before any comes twice; now and then two in one trial."""
        kinds = sorted(self.faults)
        Random(f"{self.seed} {number // len(kinds)}").shuffle(kinds)
        second = [chooser.choice(kinds)] if chooser.random() < 0.25 else []
        return [kinds[number % len(kinds)], *second]


class _Trial:
    def __init__(self, stack: Stack, oracle: Oracle, summary: Summary) -> None:
        self._stack, self._oracle, self._summary = stack, oracle, summary
        self._random = stack.random

    def go(self, kinds: Sequence[str]) -> None:
        """Let the writers write, and break things meanwhile."""
        self._summary.trials += 1
        writers = self._stack.of("writer")
        for writer in writers:
            writer.send(str(self._random.randint(3, 30)))
        for kind in kinds:
            time.sleep(self._random.uniform(0, 0.1))
            FAULTS[kind](self._stack)
            self._summary.faults[kind] += 1
        for told in [writer.answer() for writer in writers]:
            self._oracle.acknowledged([(position, name) for position, name in told["acked"]])
            acked = {"saved": len(told.pop("acked"))}
            self._summary.told.update(told | acked)
        self._stack.repair()
        self._summary.slowest = max(self._summary.slowest, self._oracle.settle())
        self._end_extra()

    def _end_extra(self) -> None:
        """Unlocked processes live for some trials, in the middle of other faults."""
        for child in list(self._stack.children):
            if child.options.get("locked") is False:
                child.trials += 1
                if child.trials > _EXTRA_LIFE:
                    self._stack.end(child)


def _progress(summary: Summary, oracle: Oracle, seconds: float) -> str:
    return (
        f"{seconds:5.0f} s  {summary.trials} trials, {sum(summary.faults.values())} faults,"
        f" {oracle.events} events, slowest to settle {summary.slowest:.1f} s"
    )


def report(summary: Summary) -> None:
    """Print a summary."""
    Console(width=100).print(summary.table())
