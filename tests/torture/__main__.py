"""``python -m tests.torture [--seed N] [--trials N] [--seconds N] [--faults A,B] [--authority]``"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from caracal.embedded import EmbeddedServers
from tests.torture import authority
from tests.torture.faults import FAULTS
from tests.torture.trials import Run, report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--trials", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most so long (600)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated kinds")
    parser.add_argument(
        "--authority", action="store_true", help="zones of agents in play, on the whole product"
    )
    given = parser.parse_args()
    if unknown := set(given.faults.split(",")) - FAULTS.keys():
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    return given


def main() -> int:
    """Run, print the summary; 0 when all held."""
    given = _arguments()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        servers = EmbeddedServers(Path(folder) / "servers")
        servers.start()
        try:
            return _run(given, servers, Path(folder) / "processes")
        finally:
            servers.stop()


def _run(given: argparse.Namespace, servers: EmbeddedServers, folder: Path) -> int:
    if given.authority:
        kills = authority.chosen(given.seed, given.trials, given.seconds)
        played = authority.torture(servers, folder, kills, given.seed)
        authority.report(played)
        return 1 if played.failure else 0
    run = Run(given.seed, given.trials, given.seconds, given.faults.split(","), _say)
    summary = run.go(servers, folder)
    report(summary)
    return 1 if summary.failure else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
