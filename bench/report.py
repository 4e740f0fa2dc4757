"""Results: what a row measured, its bars, the table, the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Side = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Value:
    """One figure; with ``bar`` it is held against the design's."""

    label: str
    number: float
    unit: str
    bar: float | None = None
    side: Side = "at most"

    @property
    def met(self) -> bool | None:
        """Say whether the bar is reached; None without one."""
        if self.bar is None:
            return None
        return self.number >= self.bar if self.side == "at least" else self.number <= self.bar

    def shown(self) -> str:
        """Return figure and unit."""
        return f"{_short(self.number)} {self.unit}"

    def bar_shown(self) -> str:
        """Return the bar; empty without one."""
        if self.bar is None:
            return ""
        return f"{'≥' if self.side == 'at least' else '≤'} {_short(self.bar)} {self.unit}"


def at_least(label: str, number: float, unit: str, bar: float) -> Value:
    """Return a figure that shall not be lower than the bar."""
    return Value(label, number, unit, bar, "at least")


def at_most(label: str, number: float, unit: str, bar: float) -> Value:
    """Return a figure that shall not be higher than the bar."""
    return Value(label, number, unit, bar, "at most")


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of the design.

    Attributes:
        where: what ran in which process.
        cpu_ms: CPU time of one operation, by process.
        others: share of the machine's CPU time that others used meanwhile, 0 to 1.
    """

    measure: str
    where: str
    values: Sequence[Value]
    cpu_ms: Mapping[str, float] = field(default_factory=dict)
    others: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as it stands in the file."""
        return {
            "measure": self.measure,
            "where": self.where,
            "values": [
                {
                    "label": value.label,
                    "value": float(_short(value.number)),
                    "unit": value.unit,
                    "bar": value.bar_shown() or None,
                    "met": value.met,
                }
                for value in self.values
            ],
            "cpu_ms_per_operation": {name: round(ms, 3) for name, ms in self.cpu_ms.items()},
            "cpu_share_of_others": None if self.others is None else round(self.others, 2),
        }


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def show(console: Console, rows: Mapping[str, Row]) -> None:
    """Print the table of results and that of CPU time."""
    results = Table("measure", "figure", "result", "bar", "met", title="Results")
    for row in rows.values():
        for number, value in enumerate(row.values):
            met = {True: "yes", False: "[bold red]NO[/bold red]", None: ""}[value.met]
            measure = row.measure if number == 0 else ""
            results.add_row(measure, value.label, value.shown(), value.bar_shown(), met)
        results.add_section()
    console.print(results)
    used = Table("measure", "CPU ms an operation", "CPU used by others", title="CPU time")
    for row in rows.values():
        if row.cpu_ms:
            most_first = sorted(row.cpu_ms.items(), key=lambda item: -item[1])
            shares = ", ".join(f"{name} {ms:.2f}" for name, ms in most_first if ms >= 0.005)
            used.add_row(row.measure, shares, "" if row.others is None else f"{row.others:.0%}")
    console.print(used)
    for row in rows.values():
        console.print(f"[dim]{row.measure}: {row.where}[/dim]")


def write(file: Path, rows: Mapping[str, Row], machine: Mapping[str, Any], when: str) -> None:
    """Write the results as JSON; no names or paths of this machine are in it."""
    content = {
        "measured_at": when,
        "machine": machine,
        "rows": {name: row.as_json() for name, row in rows.items()},
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def summary(machine: Mapping[str, Any]) -> str:
    """Return machine and versions in one paragraph."""
    told = [f"{name} {value}" for name, value in machine.items() if name != "versions"]
    versions = [f"{name} {value}" for name, value in machine["versions"].items()]
    return "; ".join([", ".join(told), ", ".join(versions)])
