"""A leader that dies, or stands still: real processes, and a standby beside them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from caracal.embedded import EmbeddedServers
from tests.torture.oracle import Oracle
from tests.torture.process import APPLIED
from tests.torture.stack import Child, Stack, until

pytestmark = pytest.mark.chaos

KINDS = ["relay", "runners"]


@pytest.fixture
def stack(own_servers: EmbeddedServers, tmp_path: Path) -> Iterator[Stack]:
    with Stack.running(own_servers, tmp_path / "processes", Random(7)) as stack:
        yield stack


def write(stack: Stack, oracle: Oracle) -> None:
    """Have something written, without waiting for anything else."""
    for writer in stack.of("writer"):
        writer.send("10")
        told = writer.answer()
        oracle.acknowledged([(position, name) for position, name in told["acked"]])


def leader_of(stack: Stack, oracle: Oracle, kind: str) -> Child:
    """Return the process that leads; another stands by."""
    leader, other = stack.of(kind)
    stack.end(other)
    write(stack, oracle)
    oracle.settle()
    stack.repair()
    until(lambda: waiting(stack) == len(APPLIED) + 1, lambda: "not all stand by")
    return leader


def waiting(stack: Stack) -> int:
    """Return how many wait for the lock of a leader."""
    statement = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    row = stack.db.execute(statement).fetchone()
    return int(row[0]) if row else 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_standby_takes_over_when_the_leader_is_killed(stack: Stack, kind: str) -> None:
    oracle = Oracle(stack)
    stack.end(leader_of(stack, oracle, kind))
    write(stack, oracle)
    oracle.settle()
    assert len(stack.of(kind)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_standby_passes_a_leader_that_stands_still(stack: Stack, kind: str) -> None:
    """It holds its lock and does nothing; when it goes on, nothing is doubled."""
    oracle = Oracle(stack)
    stopped = leader_of(stack, oracle, kind)
    stopped.signal(signal.SIGSTOP)
    write(stack, oracle)
    oracle.settle()
    stopped.signal(signal.SIGCONT)
    for _ in range(5):
        write(stack, oracle)
        oracle.settle()
    oracle.check_afresh()
