"""Who has the next turn, and who is sent away when too many wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.errors import TooMany
from caracal.services.fair_queue import FairQueue


@dataclass
class Working:
    """Work in a queue that is done only when the test says so."""

    queue: FairQueue
    began: list[str] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    going: dict[str, asyncio.Event] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=count)

    async def add(self, zone: str, application: str = "app") -> str:
        name = f"{zone}/{application}/{next(self.numbers)}"
        self.going[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name, zone, application))
        await settled()
        return name

    async def _work(self, name: str, zone: str, application: str) -> None:
        async with self.queue.turn(zone, application):
            self.began.append(name)
            await self.going[name].wait()

    async def finish(self, name: str) -> None:
        self.going[name].set()
        await self.tasks[name]
        await settled()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])
        await settled()

    async def run_out(self) -> None:
        """Let all that have a turn finish, one after the other, until nobody has one."""
        while busy := [name for name in self.began if not self.tasks[name].done()]:
            await self.finish(busy[0])

    def refused(self) -> list[str]:
        done = [name for name, task in self.tasks.items() if task.done() and not task.cancelled()]
        return [name for name in done if isinstance(self.tasks[name].exception(), TooMany)]


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def zones_of(names: list[str]) -> list[str]:
    return [name.split("/")[0] for name in names]


async def test_zones_take_turns_and_applications_within_a_zone() -> None:
    working = Working(FairQueue(parallel=1, queue_max=20))
    for zone, application in [("a", "x")] * 4 + [("a", "y")] * 2 + [("b", "z")] * 2 + [("c", "w")]:
        await working.add(zone, application)
    await working.run_out()
    order = ["/".join(name.split("/")[:2]) for name in working.began]
    assert order == ["a/x", "a/x", "b/z", "c/w", "a/y", "b/z", "a/x", "a/y", "a/x"]


async def test_a_flood_takes_no_other_zones_place() -> None:
    working = Working(FairQueue(parallel=2, queue_max=4))
    flood = [await working.add("flood") for _ in range(10)]
    assert working.refused() == flood[6:]
    other = await working.add("other")
    assert working.refused() == [*flood[5:6], *flood[6:]]  # the newest that waited, not the new one
    await working.finish(flood[0])
    assert zones_of(working.began) == ["flood", "flood", "flood"]
    await working.finish(flood[1])
    assert working.began[-1] == other
    await working.run_out()


async def test_a_flood_of_one_application_takes_no_others_place_in_its_zone() -> None:
    working = Working(FairQueue(parallel=1, queue_max=3))
    flood = [await working.add("zone", "flood") for _ in range(6)]
    other = await working.add("zone", "other")
    assert other not in working.refused()
    assert len(working.refused()) == 3
    await working.finish(flood[0])
    await working.finish(flood[1])
    assert working.began[-1] == other
    await working.run_out()


async def test_of_equals_the_one_that_comes_is_sent_away() -> None:
    working = Working(FairQueue(parallel=1, queue_max=2))
    for zone in ("a", "a", "b"):
        await working.add(zone)
    late = await working.add("b")
    assert working.refused() == [late]
    await working.run_out()


async def test_who_goes_away_leaves_its_place_and_passes_its_turn_on() -> None:
    working = Working(FairQueue(parallel=1, queue_max=2))
    first, second, third = [await working.add("a") for _ in range(3)]
    await working.cancel(second)
    fourth = await working.add("a")
    assert working.refused() == []
    # The turn comes and the task goes in the same moment.
    working.going[first].set()
    await asyncio.sleep(0)
    await working.cancel(third)
    assert working.began == [first, fourth]
    await working.cancel(fourth)
    fifth = await working.add("a")
    assert working.began[-1] == fifth
    await working.run_out()


async def test_who_is_sent_away_and_goes_in_the_same_moment_had_no_turn_to_pass_on() -> None:
    working = Working(FairQueue(parallel=1, queue_max=2))
    first, second, third = [await working.add("a") for _ in range(3)]
    late = asyncio.create_task(working.add("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # in its turn the new one has sent the third away, who does not know yet
    await working.cancel(third)
    other = await late
    assert working.tasks[third].cancelled()
    assert working.began == [first]
    await working.finish(first)
    assert working.began == [first, second]
    await working.finish(second)
    assert working.began == [first, second, other]
    await working.run_out()


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "finish", "cancel"]), st.integers(0, 3), st.integers(0, 1)),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_no_place_is_lost_and_none_too_many_taken(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_happens(steps))


async def _happens(steps: list[tuple[str, int, int]]) -> None:
    working = Working(FairQueue(parallel=2, queue_max=3))
    for what, number, application in steps:
        if what == "add":
            await working.add(f"zone{number}", f"app{application}")
        elif open_ := [name for name, task in working.tasks.items() if not task.done()]:
            name = open_[number % len(open_)]
            has_turn = name in working.began
            await (working.finish(name) if what == "finish" and has_turn else working.cancel(name))
        open_ = [name for name, task in working.tasks.items() if not task.done()]
        having = [name for name in open_ if name in working.began]
        assert len(having) == min(2, len(open_))
        assert len(open_) <= 5
    await working.run_out()
    assert all(task.done() for task in working.tasks.values())
    for number in range(2):  # both places are there
        await working.add("last", str(number))
    assert len([name for name in working.began if name.startswith("last")]) == 2
    await working.run_out()


@pytest.mark.parametrize("queue_max", [1, 2, 7])
async def test_never_more_wait_than_may(queue_max: int) -> None:
    working = Working(FairQueue(parallel=1, queue_max=queue_max))
    for number in range(20):
        await working.add(f"zone{number % 5}")
    assert len(working.refused()) == 20 - 1 - queue_max
    await working.run_out()
