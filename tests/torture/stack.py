"""Servers and processes under the driver's hands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import IO, Any

import psycopg
import redis

from caracal.embedded import EmbeddedServers
from caracal.projections.schema import prepare
from tests.torture.process import JOURNAL

LIMIT_SECONDS = 60.0
MAXLENS = (100_000, 20)


class Failed(AssertionError):
    """What must be true is not."""


class Child:
    """A process of :mod:`tests.torture.process`."""

    def __init__(self, kind: str, number: int, folder: Path, options: dict[str, Any]) -> None:
        self.kind, self.options, self.trials = kind, options, 0
        self.name = f"{kind}-{number}"
        self.counters = folder / f"{self.name}.json"
        if kind != "writer":
            options = {**options, "counters": str(self.counters)}
        self.log = folder / f"{self.name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.process", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if kind == "writer" else log,
                stderr=log,
                text=True,
            )
        self.send(json.dumps({**options, "parent": os.getpid()}))

    @property
    def alive(self) -> bool:
        """Say whether it runs (or is stopped)."""
        return self._process.poll() is None

    def send(self, line: str) -> None:
        """Write a line to its input."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write(f"{line}\n")
        stdin.flush()

    def answer(self) -> Any:
        """Return the next line of its output, decoded."""
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise Failed(f"{self.name} has ended: {self.log.read_text()[-2000:]}")
        return json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, by process id."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Stack:
    """Everything that runs: servers, two relays, two processes of runners, writers."""

    def __init__(self, servers: EmbeddedServers, folder: Path, chooser: Random) -> None:
        self.servers, self.folder, self.random = servers, folder, chooser
        self.children: list[Child] = []
        self.counted: Counter[str] = Counter()
        self._made = 0
        self._db: psycopg.Connection | None = None
        self.redis = redis.Redis.from_url(servers.redis_url)

    @classmethod
    @contextmanager
    def running(cls, servers: EmbeddedServers, folder: Path, chooser: Random) -> Iterator[Stack]:
        """Prepare the database, start all; end all."""
        prepare(servers.database_url)
        folder.mkdir(parents=True, exist_ok=True)
        stack = cls(servers, folder, chooser)
        for statement in JOURNAL.ddl():
            stack.db.execute(statement.encode())
        try:
            stack.repair()
            for _ in range(2):
                stack.start("writer", seed=chooser.randrange(2**32))
            yield stack
        finally:
            for child in list(stack.children):
                stack.end(child)
            stack.redis.close()
            stack.db.close()

    @property
    def db(self) -> psycopg.Connection:
        """The driver's own connection, a new one after a crash of the server."""
        if self._db is None or self._db.closed:
            self._db = psycopg.connect(self.servers.database_url, autocommit=True)
        return self._db

    def head(self, topic: str) -> str:
        """Return the last generated id of a topic; ``0-0`` of none."""
        try:
            return str(self.redis.xinfo_stream(topic)["last-generated-id"].decode())
        except redis.ResponseError:  # no such key
            return "0-0"

    def start(self, kind: str, **options: Any) -> Child:
        """Start a process."""
        self._made += 1
        options["database_url"] = self.servers.database_url
        if kind != "writer":
            options["redis_url"] = self.servers.redis_url
        child = Child(kind, self._made, self.folder, options)
        self.children.append(child)
        return child

    def start_unlocked(self, kind: str) -> Child:
        """Start one more relay, or one more process of runners, that asks for no lock."""
        maxlen = {"maxlen": self.random.choice(MAXLENS)} if kind == "relay" else {}
        return self.start(kind, locked=False, **maxlen)

    def end(self, child: Child) -> None:
        """Kill a process, and keep what it had counted."""
        child.kill()
        self.children.remove(child)
        self.count(child)

    def count(self, child: Child) -> None:
        """Add up what a process noted, a little less than what it did."""
        if child.counters.exists():
            counted = json.loads(child.counters.read_text())
            self.counted.update({name: n for name, n in counted.items() if name != "position"})

    def of(self, kind: str) -> list[Child]:
        """Return the processes of a kind."""
        return [child for child in self.children if child.kind == kind]

    def repair(self) -> None:
        """Have two of each: one leads, one stands by."""
        for kind in ("relay", "runners"):
            locked = [child for child in self.of(kind) if child.options["locked"]]
            for _ in range(2 - len(locked)):
                maxlen = {"maxlen": self.random.choice(MAXLENS)} if kind == "relay" else {}
                self.start(kind, locked=True, **maxlen)

    def check_children(self) -> None:
        """Nobody ends who was not killed."""
        for child in self.children:
            if not child.alive:
                raise Failed(f"{child.name} ended by itself: {child.log.read_text()[-2000:]}")


def until(condition: Callable[[], bool], what: Callable[[], str]) -> float:
    """Wait for a condition; return the seconds it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > LIMIT_SECONDS:
            raise Failed(f"not after {LIMIT_SECONDS:.0f} s: {what()}")
        time.sleep(0.02)
    return time.monotonic() - begun
