"""What must end, ends, however often its caller is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from caracal.client.settled import finished, made
from caracal.errors import CaracalError


class Work:
    """Work that takes until it is let go, and then may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go, self.done = asyncio.Event(), asyncio.Event(), False
        self.undone: list[str] = []
        self._error = error

    async def __call__(self) -> str:
        self.begun.set()
        await self.go.wait()
        self.done = True
        if self._error is not None:
            raise self._error
        return "made"

    async def undo(self, what: str) -> None:
        self.undone.append(what)
        raise CaracalError("lost")


async def impatient(task: asyncio.Task[str], work: Work) -> None:
    """Cancel the task three times while the work is under way; then let that go on."""
    await work.begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [None, ValueError("failed")])
async def test_finished_in_spite_of_cancellations(error: Exception | None) -> None:
    work = Work(error)
    await impatient(asyncio.create_task(finished(work())), work)
    assert work.done


async def test_finished_answers_and_fails_as_the_work_does() -> None:
    fine, bad = Work(), Work(ValueError("failed"))
    fine.go.set()
    bad.go.set()
    assert await finished(fine()) == "made"
    with pytest.raises(ValueError, match="failed"):
        await finished(bad())


async def test_what_was_made_in_vain_is_undone() -> None:
    work = Work()
    await impatient(asyncio.create_task(made(work(), work.undo)), work)
    assert work.undone == ["made"]


async def test_what_was_never_made_is_not_undone() -> None:
    work = Work(ValueError("failed"))
    await impatient(asyncio.create_task(made(work(), work.undo)), work)
    assert (work.done, work.undone) == (True, [])
