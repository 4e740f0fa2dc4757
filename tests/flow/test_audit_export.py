"""The worker, killed while it writes an hour's file: nobody ever sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from caracal.events.store.audit_entry import encode
from caracal.projections.audit_ledger import Ledger
from caracal.projections.audit_parquet import verify_files
from caracal.projections.audit_row import read_entry
from tests.audit.trail import decided
from tests.backbone import eventually
from tests.flow.conftest import Making
from tests.flow.product import AUDIT_KEY, Product

pytestmark = [pytest.mark.flow, pytest.mark.chaos]

ROWS, BATCH = 4_000, 1_000
KEYS = (AUDIT_KEY,)
LONG = os.urandom(3_000).hex()  # so that some rows fill a group of a file


async def fill(product: Product) -> None:
    """Write a long hour into the ledger; it is over."""
    async with await AsyncConnection.connect(
        product.servers.database_url, autocommit=True
    ) as connection:
        ledger = Ledger(connection, KEYS)
        await ledger.open()
        for start in range(0, ROWS, BATCH):
            events = [
                decided(metadata_json={"n": f"{n}-{LONG}"}) for n in range(start, start + BATCH)
            ]
            entries = [encode(event, KEYS) for event in events]
            fields = [{k.encode(): value for k, value in entry.items()} for entry in entries]
            await ledger.write([read_entry(each, KEYS) for each in fields], None)
        await connection.execute(
            "UPDATE audit_events SET ingested_at = date_trunc('hour', now()) - interval '1 minute'"
        )


async def forget(product: Product) -> None:
    async with await AsyncConnection.connect(
        product.servers.database_url, autocommit=True
    ) as connection:
        await connection.execute("DELETE FROM audit_watermarks WHERE name = 'parquet-hourly'")


async def test_a_killed_worker_leaves_no_half_file(making: Making, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    product = making(AUDIT_EXPORT_DIR=str(folder))
    await fill(product)

    def files() -> list[Path]:
        return list(folder.rglob("*.parquet"))

    def parts() -> list[Path]:
        return list(folder.rglob(".*.part"))

    async def begun() -> bool:
        return bool(files()) or any(part.stat().st_size > 4 for part in parts())

    for _ in range(10):  # until it was killed in the middle
        await forget(product)
        product.start("worker")
        await eventually(begun, seconds=60)
        product.kill("worker")
        if not files():
            break
        for file in files():
            file.unlink()
    assert (len(files()), len(parts())) == (0, 1)
    product.start("worker")

    async def done() -> bool:
        return bool(files()) and not parts()

    await eventually(done, seconds=60)
    (report,) = verify_files(files(), KEYS)
    assert (report.checked, report.ok) == (ROWS, True)
