"""``python -m tests.torture [--seed N] [--trials N] [--seconds N] [--faults A,B]``"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from caracal.embedded import EmbeddedServers
from tests.torture.faults import FAULTS
from tests.torture.trials import Run, report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--trials", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most so long (600)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated kinds")
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
            run = Run(given.seed, given.trials, given.seconds, given.faults.split(","), _say)
            summary = run.go(servers, Path(folder) / "processes")
        finally:
            servers.stop()
    report(summary)
    return 1 if summary.failure else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
