"""What must come to its end though its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from caracal.errors import CaracalError

T = TypeVar("T")


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Do the work to its end; a cancellation that came meanwhile is raised after it.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the work is done, or has failed.
    """
    task, cancelled = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen: the cancellation is what the caller is told
    raise cancelled


async def made(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
    """Make something; cancelled while it is made, it is made and undone.

    Raises:
        asyncio.CancelledError: the caller was cancelled; nothing is left, as far as one can tell.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await finished(_undone(task, undo))
        raise


async def _undone(task: asyncio.Task[T], undo: Callable[[T], Awaitable[None]]) -> None:
    await asyncio.wait([task])
    if task.cancelled() or task.exception() is not None:
        return
    with suppress(CaracalError):  # it ends by its time to live
        await undo(task.result())
