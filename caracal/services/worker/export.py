"""Hourly export of the ledger as Parquet, on the worker that leads."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from caracal.projections.audit_export import due_hour, note_exported, rows_of_hour, seal
from caracal.projections.audit_parquet import Writer, library
from caracal.services.worker.export_store import Store, store_of
from caracal.services.worker.leading import Leading
from caracal.settings import Settings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
_LOCK = 0x4341524130303031  # the contract's: one in the deployment


class Export(Leading):
    """Exports each hour that is over, from the watermark on; ``is_on`` when it is to."""

    def __init__(self, settings: Settings) -> None:
        """Look for the libraries.

        Raises:
            StartError: export is on, and they are not installed.
        """
        super().__init__(settings.database_url, _LOCK, "export")
        self._store = store_of(settings)
        self.is_on = self._store is not None
        if self.is_on:
            library()
        self.events = self.errors = 0
        self.duration_ms = 0
        self.failing = False

    async def work(self, connection: AsyncConnection[Any]) -> float:
        """Export all hours that are over."""
        assert self._store is not None
        while (hour := await due_hour(connection)) is not None:
            begun = time.monotonic()
            await seal(connection)
            self.events += await _export(connection, hour, self._store)
            await note_exported(connection, hour)
            self.failing = False
            self.duration_ms = int((time.monotonic() - begun) * 1000)
        return LOOK_SECONDS

    def failed(self, error: Exception) -> None:
        """Count it: an export that does not get on is somebody's business."""
        self.errors += 1
        self.failing = True
        logger.warning("audit export: %s: %s", type(error).__name__, error)


async def _export(connection: AsyncConnection[Any], hour: datetime, store: Store) -> int:
    """Put an hour into the store, unless it is there; return how many rows it put."""
    key = key_of(hour)
    if await asyncio.to_thread(store.has, key):
        return 0
    writer: Writer | None = None
    part: Path | None = None
    try:
        async with aclosing(rows_of_hour(connection, hour)) as pages:
            async for rows in pages:
                if writer is None:
                    part = await asyncio.to_thread(store.place, key)
                    writer = await asyncio.to_thread(Writer, part)
                await asyncio.to_thread(writer.write, rows)
        if writer is None or part is None:
            return 0  # an empty hour
        await asyncio.to_thread(writer.close)
        if not await asyncio.to_thread(store.put, key, part):
            logger.info("%s was there already", key)
            return 0
    except BaseException:
        _remove(part)
        raise
    return writer.written


def _remove(part: Path | None) -> None:
    if part is not None:
        part.unlink(missing_ok=True)


def key_of(hour: datetime) -> str:
    """Return the name of an hour's file."""
    return f"audit/{hour:%Y/%m/%d/%Y-%m-%dT%H}.parquet"
