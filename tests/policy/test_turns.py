"""Who may run policies when."""

from __future__ import annotations

import asyncio

import pytest

from caracal.errors import TooMany, Unprocessable
from caracal.policy import turns
from caracal.policy.check import check_manifest
from caracal.policy.text import MAX_BYTES
from caracal.policy.turns import QUEUE_MAX, owned_by, turn
from tests.policy.test_check import HEAD


class Places:
    """Work that notes who had a turn, and holds it until it may go on."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.running = self.most = 0
        self.go = asyncio.Event()

    async def work(self, owner: str) -> None:
        with owned_by(owner):
            async with turn():
                self.order.append(owner)
                self.running += 1
                self.most = max(self.most, self.running)
                await self.go.wait()
                await asyncio.sleep(0)
                self.running -= 1


async def test_one_owner_has_one_place_and_others_are_served_in_between() -> None:
    places = Places()
    tasks = [asyncio.create_task(places.work("greedy")) for _ in range(QUEUE_MAX)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(places.work(f"zone-{number}")) for number in range(4)]
    await asyncio.sleep(0)
    assert places.order == ["greedy", "zone-0"]
    places.go.set()
    await asyncio.gather(*tasks)
    assert places.most == turns.PLACES
    last = max(index for index, owner in enumerate(places.order) if owner != "greedy")
    assert last <= 8  # not behind all of the greedy one


async def test_what_does_not_fit_into_an_owners_queue_is_refused() -> None:
    places = Places()
    tasks = [asyncio.create_task(places.work("greedy")) for _ in range(QUEUE_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(TooMany) as refusal:
        await places.work("greedy")
    assert refusal.value.code == "rate_limited"
    places.go.set()
    await asyncio.gather(*tasks, places.work("another"))
    await places.work("greedy")  # there is room again


async def test_who_gives_up_waiting_leaves_the_queue() -> None:
    places = Places()
    tasks = [asyncio.create_task(places.work("greedy")) for _ in range(QUEUE_MAX)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    places.go.set()
    await places.work("greedy")


async def test_a_long_manifest_does_not_stop_the_loop() -> None:
    head = f"{HEAD}result := 1\n"
    longest = head + "#\n" * ((MAX_BYTES - len(head)) // 2)
    slices = 0

    async def others() -> None:
        nonlocal slices
        while True:
            slices += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    with pytest.raises(Unprocessable) as refusal:
        await check_manifest([longest] * 6 + [f"{head}("])
    task.cancel()
    assert refusal.value.extras["detail"] == "unbalanced_delimiters"
    assert slices >= 6
