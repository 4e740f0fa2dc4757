"""A load generator, a process of its own: ``python -m bench.load`` (orders in, figures out, JSON).

Closed loop: each connection sends its next request when it has its answer. Fixed rate: requests
are due at fixed times, and a late one counts from when it was due, so a slow server cannot hide
by slowing the load.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from bench.wire import Connection

NUMBER = b"@@@@@@@@@@@@"
"""In a request: replaced by a number that no other request of the bench has."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where; ``rate`` is requests/s, None: closed loop."""

    host: str
    port: int
    request: str
    connections: int
    seconds: float
    expect: int = 200
    rate: float | None = None
    warm_up: float = 0.5
    first_number: int = 0


@dataclass(slots=True)
class Load:
    """What came of it. Latencies in ms, of the ``count`` asked and answered after the warm-up;
    ``total`` were asked."""

    count: int
    total: int
    seconds: float
    p50: float
    p99: float
    longest: float
    wrong: dict[str, int]
    cpu_seconds: float
    sample: str = ""

    @property
    def rate(self) -> float:
        """Return answers/s."""
        return self.count / self.seconds


def percentile(ordered: Any, share: float) -> float:
    """Return the nearest-rank percentile of sorted values; NaN of none."""
    if not ordered:
        return float("nan")
    return float(ordered[min(int(len(ordered) * share), len(ordered) - 1)])


@dataclass(slots=True)
class _Run:
    order: Order
    begins: float
    ends: float
    sent: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    wrong: Counter[int] = field(default_factory=Counter)
    sample: bytes = b""
    busy: int = 0
    idle: deque[Connection] = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)

    def send(self, connection: Connection, due: float) -> None:
        raw = self.order.request.encode("latin-1")
        if NUMBER in raw:
            number = self.order.first_number + self.sent
            raw = raw.replace(NUMBER, b"%012x" % number)
        self.sent += 1
        self.busy += 1

        def done(status: int, body: bytes) -> None:
            self.busy -= 1
            self._note(status, body, due)
            self._next(connection, broken=status == 0)

        connection.ask(raw, done)

    def _note(self, status: int, body: bytes, due: float) -> None:
        now = time.perf_counter()
        if status != self.order.expect:
            self.wrong[status] += 1
            self.sample = self.sample or body[:300]
        elif due >= self.begins and now <= self.ends:
            self.latencies.append(now - due)

    def _next(self, connection: Connection, *, broken: bool) -> None:
        now = time.perf_counter()
        if broken or now >= self.ends:
            return
        if self.order.rate is None:
            self.send(connection, now)
        elif self.due:
            self.send(connection, self.due.popleft())
        else:
            self.idle.append(connection)

    def arrive(self, due: float) -> None:
        """A request of the fixed rate is due."""
        if self.idle:
            self.send(self.idle.popleft(), due)
        else:
            self.due.append(due)


async def run(order: Order) -> Load:
    """Carry out an order."""
    links = [await Connection.to(order.host, order.port) for _ in range(order.connections)]
    began = time.perf_counter() + order.warm_up
    work = _Run(order, began, began + order.seconds)
    if order.rate is None:
        for link in links:
            work.send(link, time.perf_counter())
    else:
        work.idle.extend(links)
        await _arrivals(work, order.rate)
    await asyncio.sleep(max(work.ends - time.perf_counter(), 0))
    for _ in range(200):  # what is under way may come to its end
        if not work.busy:
            break
        await asyncio.sleep(0.01)
    for link in links:
        link.close()
    return _load(work)


async def _arrivals(work: _Run, rate: float) -> None:
    start, number = time.perf_counter(), 0
    while (due := start + number / rate) < work.ends:
        if (pause := due - time.perf_counter()) > 0.0005:
            await asyncio.sleep(pause)
        work.arrive(due)
        number += 1


def _load(work: _Run) -> Load:
    ordered = sorted(work.latencies)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Load(
        count=len(ordered),
        total=work.sent,
        seconds=work.order.seconds,
        p50=percentile(ordered, 0.5) * 1000,
        p99=percentile(ordered, 0.99) * 1000,
        longest=percentile(ordered, 1.0) * 1000,
        wrong={str(status): count for status, count in work.wrong.items()},
        cpu_seconds=used.ru_utime + used.ru_stime,
        sample=work.sample.decode("latin-1"),
    )


async def generate(order: Order) -> Load:
    """Carry out an order in another process.

    Raises:
        RuntimeError: nothing was answered as expected.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        answer, _ = await process.communicate(json.dumps(asdict(order)).encode())
    finally:
        if process.returncode is None:
            process.kill()
    load = Load(**json.loads(answer))
    if not load.count:
        raise RuntimeError(f"no answer {order.expect}: {load.wrong} {load.sample}")
    return load


def main() -> None:
    order = Order(**json.load(sys.stdin))
    json.dump(asdict(uvloop.run(run(order))), sys.stdout)


if __name__ == "__main__":
    main()
