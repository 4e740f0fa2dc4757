"""Forked processes and the signals that stop their parent."""

from __future__ import annotations

import subprocess
import sys

SIGNALLED_WITHIN_THE_FORK = """
import os, signal, time
from caracal.cli.processes import Children, StopRequested, stop_signals

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
children = Children()
with stop_signals():
    try:
        children.fork("sleeper", lambda: time.sleep(60) or 0)
        print("lost")
    except StopRequested:
        print("stopped", children.stop(["sleeper"], 30))
"""


def test_a_signal_that_comes_within_a_fork_stops_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WITHIN_THE_FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("stopped []\n", "")
