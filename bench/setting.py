"""What the rows share: servers and processes started when first wanted, stopped at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from rich.console import Console

from bench.cpu import Meter
from bench.load import Load, Order, generate
from bench.report import Row, Value
from bench.stack import Stack
from bench.world import World, make_world
from caracal.embedded import EmbeddedServers
from caracal.projections.schema import prepare


class Setting:
    """The surroundings of one run. ``quick`` shortens all, to see that it works."""

    def __init__(self, folder: Path, console: Console, stopping: ExitStack, *, quick: bool) -> None:
        self.folder, self.console, self.quick = folder, console, quick
        self._stopping = stopping
        self._numbers = 0

    def seconds(self, full: float) -> float:
        """Return how long to load."""
        return max(full / 5, 1.0) if self.quick else full

    def times(self, full: int) -> int:
        """Return how often to try."""
        return max(full // 10, 5) if self.quick else full

    def say(self, text: str) -> None:
        """Show progress."""
        self.console.print(f"  [dim]{time.strftime('%X')}[/dim] {text}")

    @cached_property
    def database(self) -> EmbeddedServers:
        """A PostgreSQL alone, with the log's schema and no reader."""
        servers = EmbeddedServers(self.folder / "alone", valkey=False)
        servers.start()
        self._stopping.callback(servers.stop)
        prepare(servers.database_url)
        return servers

    @cached_property
    def stack(self) -> Stack:
        """The whole product."""
        stack = Stack(self.folder / "stack")
        self._stopping.callback(stack.stop)
        self.say(f"caracal up is ready after {stack.start():.2f} s")
        return stack

    @cached_property
    def world(self) -> World:
        """A zone with all that a governed call needs."""
        return make_world(self.stack.urls, self._upstream_port)

    @cached_property
    def _upstream_port(self) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.upstream"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._stopping.callback(_ended, process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    async def load(self, service: str, text: str, **how: float | None) -> Measured:
        """Load a service of the stack; ``how`` as in :class:`bench.load.Order`."""
        host, port = self.world.address(service)
        self._numbers += 1
        meter = Meter(self.stack.pids)
        done = await generate(
            Order(host, port, text, first_number=self._numbers << 32, **how)  # type: ignore[arg-type]
        )
        return Measured(done, meter)


class Measured:
    """A load and the CPU that it took."""

    def __init__(self, load: Load, meter: Meter) -> None:
        self.load = load
        used = meter.used()
        self.cpu_ms = {name: seconds / load.total * 1000 for name, seconds in used.items()}
        self.cpu_ms["load generator"] = load.cpu_seconds / load.total * 1000
        busy, total = meter.machine()
        ours = sum(used.values()) + load.cpu_seconds
        self.others = max(busy - ours, 0.0) / total

    def row(self, measure: str, where: str, *values: Value) -> Row:
        """Return a row with this load's CPU time."""
        wrong = sum(self.load.wrong.values())
        also = [Value("not as expected", wrong, "answers", 0)] if wrong else []
        return Row(measure, where, [*values, *also], self.cpu_ms, self.others)


def _ended(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
