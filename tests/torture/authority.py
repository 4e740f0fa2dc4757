"""Zones of agents in play (tests.model) while what serves them is killed, again and again.

``python -m tests.torture --authority``: real processes, two Coordinators and two STSs among them.
Every zone is compared with the model after each step; a command whose answer was lost must have
been done wholly or not at all.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psycopg
from psycopg import AsyncConnection
from rich.console import Console
from rich.table import Table

from caracal.embedded import EmbeddedServers
from caracal.projections.schema import prepare
from tests.backbone import eventually, opened_log
from tests.flow.nursery import Nursery
from tests.flow.oracle import check_rebuilt
from tests.flow.product import Product
from tests.gateway.doubles import Upstream
from tests.model.play import BEGINNING, OFTEN, Play
from tests.model.scene import Ports, Scene, client, new_scene
from tests.model.zone import Limits
from tests.sts.world import KEK, serving

SERVICES = ("worker", "sts", "sts2", "gateway", "coordinator", "coordinator2")
KILLED = ("coordinator", "coordinator2", "worker", "redis", "postgres")
LIMITS = Limits()
SETTINGS = {
    "ZONE_KEK": KEK.hex(),
    "MAX_DEPTH": str(LIMITS.depth),
    "MAX_CHILDREN": str(LIMITS.children),
    "MAX_PER_ZONE": str(LIMITS.zone),
    "MAX_PER_APP": str(LIMITS.application),
    "TTL_SWEEP_INTERVAL_MS": "200",
    "RETENTION_CLEANUP_INTERVAL_MS": "200",
    "DB_CONNECTION_TIMEOUT_MS": "1000",
}
_OVERDUE = (
    "SELECT (SELECT count(*) FROM agents WHERE zone_id = %s AND ended_at IS NULL"
    " AND spawned_at + make_interval(secs => ttl_seconds) < now())"
    " + (SELECT count(*) FROM delegations WHERE zone_id = %s AND ended_at IS NULL"
    " AND expires_at < now())"
)


@dataclass(frozen=True)
class RealTime:
    """Time as it goes by; the worker sweeps by itself."""

    database_url: str
    margin: float = 0.8
    lives: tuple[int, int, int] = (120, 600, 3000)

    def now(self) -> float:
        """Return the time, Unix seconds."""
        return time.time()

    async def forward(self, seconds: float) -> None:
        """Wait, not too long."""
        await asyncio.sleep(min(seconds, 1.0))

    async def swept(self, zone_id: str) -> None:
        """Wait until the worker has written down every end that has come."""
        await eventually(partial(self._is_swept, zone_id), seconds=60, what="a sweep")

    async def _is_swept(self, zone_id: str) -> bool:
        try:
            async with await AsyncConnection.connect(self.database_url) as db:
                row = await (await db.execute(_OVERDUE, (zone_id, zone_id))).fetchone()
                return row == (0,)
        except psycopg.Error:
            return False


@dataclass
class Summary:
    """What a run came to."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failure: str | None = None

    @property
    def unclear(self) -> int:
        """Return how many commands had no answer."""
        return sum(n for name, n in self.outcomes.items() if name.startswith("unclear"))

    def table(self) -> Table:
        """Return it for people."""
        table = Table("", "", title=f"authority, seed {self.seed}", show_header=False)
        table.add_row("killed", ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items())))
        for name, number in sorted(self.outcomes.items()):
            table.add_row(name, str(number))
        table.add_row("time", f"{self.seconds:.0f} s")
        result = self.failure or "as the model has it; nothing done by half"
        table.add_row("result", result, style="bold red" if self.failure else "bold green")
        return table


class Killing:
    """Kills by the dice; ``whole`` is set while everything is at work."""

    def __init__(self, product: Product, dice: random.Random, kills: Counter[str]) -> None:
        self._product, self._dice, self._kills = product, dice, kills
        self.players: list[Player] = []
        self.whole = asyncio.Event()
        self.whole.set()

    async def strike(self, name: str) -> None:
        """Kill one in the middle of a command, start it again, and wait until all are ready."""
        await asyncio.sleep(self._dice.uniform(0.2, 1.0))
        await eventually(self._busy, what="a command")
        await asyncio.sleep(self._dice.uniform(0.0, 0.005))
        self.whole.clear()
        self._kills[name] += 1
        kill, mend = self._ways(name)
        await asyncio.to_thread(kill)
        await asyncio.sleep(self._dice.uniform(0.0, 0.4))
        await asyncio.to_thread(mend)
        await self._product.ready()
        self.whole.set()

    async def _busy(self) -> bool:
        return any(player.play.asking for player in self.players)

    def _ways(self, name: str) -> tuple[Callable[[], object], Callable[[], object]]:
        product = self._product
        if name == "redis":
            return product.kill_redis, product.servers.restart_valkey
        if name == "postgres":
            return product.kill_postgres, product.servers.restart_postgres
        return partial(product.kill, name), partial(product.start, name)


class Player:
    """Plays one zone until told to stop."""

    def __init__(self, play: Play, dice: random.Random, killing: Killing) -> None:
        self.play, self._dice, self._killing = play, dice, killing
        self.stopping = False

    async def run(self) -> None:
        """Go on: one command, then a look at everything."""
        try:
            for name in BEGINNING:
                await self._step(name)
            while not self.stopping:
                await self._step(self._dice.choice(OFTEN))
                await self.play.check()
            await self._killing.whole.wait()
            while self.play.zone.unclear(time.time(), 5.0) is not None:  # the sweeper is to rest
                await asyncio.sleep(0.5)
            await eventually(lambda: self.play.check(everywhere=True), seconds=30)
        except AssertionError as error:
            error.add_note("\n".join(self.play.trail[-60:]))
            raise

    async def _step(self, name: str) -> None:
        await self.play.do(name, self._dice.choice, self._killing.whole.wait)


async def run(
    product: Product,
    seed: int,
    kills: Iterable[str],
    *,
    zones: int = 4,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Play zones on a product that is ready, while ``kills`` are done one after the other.

    Raises:
        AssertionError: something is not as the model has it.
    """
    summary, began = Summary(seed), time.monotonic()
    killing = Killing(product, random.Random(seed), summary.kills)
    async with staged(product) as on_stage:
        players = [
            Player(Play(scene, LIMITS), random.Random(f"{seed} {n}"), killing)
            for n, scene in enumerate([await on_stage() for _ in range(zones)])
        ]
        killing.players = players
        try:
            await _played(players, _killed(killing, kills, say))
        finally:
            for player in players:
                summary.outcomes.update(player.play.outcomes)
            summary.seconds = time.monotonic() - began
        product.assert_alive()
        url = product.servers.database_url
        async with await AsyncConnection.connect(url, autocommit=True) as db:
            await check_rebuilt(url, db)
    return summary


@asynccontextmanager
async def staged(product: Product) -> AsyncIterator[Callable[[], Awaitable[Scene]]]:
    """Yield what makes a zone that the product serves."""
    url = product.servers.database_url
    ports = Ports(
        (product.url("coordinator"), product.url("coordinator2")),
        (product.url("sts"), product.url("sts2")),
        product.url("gateway"),
        url,
    )
    async with serving(Upstream()) as upstream, client() as http:

        async def make() -> Scene:
            async with opened_log(url) as log:
                made = await new_scene(log, http, ports, RealTime(url), upstream)
            return replace(made, steady=False)

        yield make


async def _played(players: list[Player], killed: Awaitable[None]) -> None:
    async with asyncio.TaskGroup() as group:
        for player in players:
            group.create_task(player.run())
        await killed
        for player in players:
            player.stopping = True


async def _killed(killing: Killing, kills: Iterable[str], say: Callable[[str], None]) -> None:
    for name in kills:
        say(f"kill {name}")
        await killing.strike(name)
    await asyncio.sleep(0.5)  # of play when nothing is killed any more


def chosen(seed: int, trials: int, seconds: float) -> Iterable[str]:
    """Yield whom to kill: each once before any comes twice; until trials or seconds are over."""
    dice, ends, left = random.Random(f"kills {seed}"), time.monotonic() + seconds, list[str]()
    for _ in range(trials):
        if time.monotonic() > ends:
            return
        left = left or dice.sample(KILLED, len(KILLED))
        yield left.pop()


def torture(servers: EmbeddedServers, folder: Path, kills: Iterable[str], seed: int) -> Summary:
    """Start everything, and run; a failure is told in the summary."""
    prepare(servers.database_url)
    folder.mkdir(parents=True)
    nursery = Nursery()
    product = Product(servers, nursery, folder, **SETTINGS)
    try:
        product.start(*SERVICES)
        return asyncio.run(_tortured(product, seed, kills))
    finally:
        product.kill(*product.running)
        nursery.close()


async def _tortured(product: Product, seed: int, kills: Iterable[str]) -> Summary:
    await product.ready()
    try:
        return await run(product, seed, kills, say=lambda line: print(line, flush=True))
    except BaseExceptionGroup as group:
        failed = group.subgroup(AssertionError)
        if failed is None:
            raise
        return Summary(seed, failure="\n".join(_told(failed)))


def _told(group: BaseExceptionGroup[AssertionError]) -> Iterable[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _told(error)
        else:
            yield "\n".join((str(error), *getattr(error, "__notes__", ())))


def report(summary: Summary) -> None:
    """Print a summary."""
    Console(width=100).print(summary.table())
