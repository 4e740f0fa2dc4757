"""Tasks end when told to."""

from __future__ import annotations

import asyncio

from caracal.tasks import cancelled


async def forever() -> None:
    await asyncio.Event().wait()


async def deaf_once() -> None:
    try:
        await forever()
    except asyncio.CancelledError:
        await forever()


async def failing() -> None:
    try:
        await forever()
    finally:
        raise OSError("in the end")


async def test_a_task_has_ended() -> None:
    for work in (forever, deaf_once, failing):
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        await cancelled(task)
        assert task.done()


async def test_many_are_told_at_once() -> None:
    tasks = [asyncio.create_task(work()) for work in (deaf_once, failing, deaf_once) for _ in "ab"]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await cancelled(*tasks)
    assert all(task.done() for task in tasks)
    assert asyncio.get_running_loop().time() - began < 4 * 0.5  # of the deaf ones alone: one wait


async def test_one_that_never_ran() -> None:
    task = asyncio.create_task(forever())
    await cancelled(task)
    assert task.cancelled()
