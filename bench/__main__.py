"""``python -m bench [--only NAME] [--quick] [--out FILE]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop
from rich.console import Console

from bench import report
from bench.machine import machine, server_versions
from bench.report import Row
from bench.rows import ROWS
from bench.setting import Setting
from caracal import clock

_LATEST = Path(__file__).parent / "latest.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return 0 unless a row could not be measured."""
    given = _parsed(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    began, when = time.monotonic(), clock.rfc3339(clock.now())
    with (
        tempfile.TemporaryDirectory(prefix="caracal-bench-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stopping,
    ):
        about = machine(Path(folder))
        setting = Setting(Path(folder), console, stopping, quick=given.quick)
        rows, failed = _measured(setting, given.only or list(ROWS))
        if "stack" in vars(setting):
            urls = setting.stack.urls
            about["versions"] |= server_versions(urls["database_url"], urls["redis_url"])
    report.show(console, rows)
    console.print(f"[dim]{report.summary(about)}; took {time.monotonic() - began:.0f} s[/dim]")
    file = given.out or (None if given.quick or given.only or failed else _LATEST)
    if file is not None:
        report.write(file, rows, about, when)
    return 1 if failed else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join(ROWS)
    parser.add_argument(
        "--only", action="append", choices=ROWS, metavar="NAME", help=f"one of {names}; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="short, to see that it works")
    parser.add_argument(
        "--out", type=Path, help="write JSON there (a whole run writes bench/latest.json)"
    )
    return parser.parse_args(arguments)


def _measured(setting: Setting, names: Sequence[str]) -> tuple[dict[str, Row], list[str]]:
    rows: dict[str, Row] = {}
    failed: list[str] = []
    for name in (name for name in ROWS if name in names):
        setting.console.print(f"[bold]{name}[/bold]")
        try:
            rows[name] = uvloop.run(ROWS[name](setting))
        except Exception:  # noqa: BLE001 - the other rows are worth having
            setting.console.print_exception()
            failed.append(name)
            continue
        for value in rows[name].values:
            setting.say(f"{value.label} {value.shown()}")
    return rows, failed


if __name__ == "__main__":
    sys.exit(main())
