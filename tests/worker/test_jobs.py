"""Jobs of the worker that meet an error which they do not know."""

from __future__ import annotations

import asyncio

import pytest

from caracal.services.worker import jobs
from caracal.services.worker.jobs import Jobs
from tests.backbone import eventually


async def test_what_a_job_does_not_know_is_told_and_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0.0)
    begun: list[str] = []
    over = asyncio.Event()

    async def faulty() -> None:
        begun.append("faulty")
        if len(begun) == 2:
            return  # as wrong as an error
        if len(begun) < 4:
            raise RuntimeError("the handler is closed")
        over.set()
        await asyncio.Event().wait()

    async def sound() -> None:
        await asyncio.Event().wait()

    running = Jobs([faulty, sound])
    assert await running.stalled() is None
    await asyncio.wait_for(over.wait(), 30)
    assert begun == ["faulty"] * 4
    assert running.failures == 3
    assert await running.stalled() == "job_stalled"
    assert "the handler is closed" in caplog.text
    assert "has ended" in caplog.text

    async def shown_no_more() -> bool:
        return await running.stalled() is None

    monkeypatch.setattr(jobs, "_SHOWN_SECONDS", 0.01)
    await eventually(shown_no_more)
    before = asyncio.all_tasks()
    await running.stop()
    assert len(before - asyncio.all_tasks()) == 2
