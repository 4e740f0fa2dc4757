"""The audit trail on its way out, by processes that are killed: no record lost, no half file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.events.topics import AUDIT
from caracal.projections.audit_ledger import Ledger
from caracal.projections.audit_parquet import verify_files
from caracal.projections.audit_row import read_entry
from tests.audit.trail import decided, well_within_the_hour
from tests.backbone import eventually
from tests.flow.conftest import Making
from tests.flow.product import AUDIT_KEY, Product
from tests.siem.receiver import Receiver, receiver

__all__ = ["receiver"]

pytestmark = [pytest.mark.flow, pytest.mark.chaos]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files go."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def product(making: Making, folder: Path) -> Product:
    return making(AUDIT_EXPORT_DIR=str(folder))


# --- SIEM ------------------------------------------------------------------------------------


@pytest.fixture
def sending(product: Product, receiver: Receiver) -> None:
    """Two SIEM processes have somewhere to send to."""
    for name in ("siem", "siem2"):
        product.own[name] = {
            "SIEM_SINK_URL": f"{receiver.url}?key=hush7Qx",
            "SIEM_SINK_TOKEN": "t0ken",
            "SIEM_SINK_CA_FILE": str(receiver.folder / "server.pem"),
            "SIEM_BATCH_MAX": "20",
            "SIEM_CLAIM_IDLE_SECS": "1",
        }


async def put(product: Product, count: int) -> list[AuditEvent]:
    """Add entries as the STS does."""
    events = [decided() for _ in range(count)]
    async with Redis.from_url(product.servers.redis_url) as redis:
        for event in events:
            await redis.xadd(AUDIT, encode(event, (AUDIT_KEY,)))  # type: ignore[arg-type]
    return events


@pytest.mark.usefixtures("sending")
async def test_no_record_is_lost_whatever_dies(product: Product, receiver: Receiver) -> None:
    """Each third batch: taken by the sink, and the process killed before it hears of it."""
    kills = 0

    def kill_now_and_then(body: bytes) -> None:
        nonlocal kills
        if len(receiver.calls) % 3 == 0 and kills < 4:
            kills += 1
            product.kill("siem")
            product.start("siem")

    receiver.answer = kill_now_and_then
    product.start("siem")
    await product.ready("siem")
    events = await put(product, 300)
    await receiver.has(*(event.id for event in events))
    product.start("siem2")
    await receiver.stop()
    events += await put(product, 100)
    await product.ready("siem", "siem2")

    async def noticed() -> bool:
        _, body = await product.readiness("siem")
        return bool(body.get("degraded"))

    await eventually(noticed)
    product.kill("siem2")
    await receiver.start()
    await receiver.has(*(event.id for event in events))

    async def all_acknowledged() -> bool:
        status, body = await product.readiness("siem")
        return status == 200 and body.get("lag") == 0 and not body.get("degraded")

    await eventually(all_acknowledged, seconds=30)
    assert kills == 4
    assert len(receiver.ids) > len(events)  # what was taken before a kill came again
    assert set(receiver.ids) == {event.id for event in events}
    headers = [headers for headers, _ in receiver.calls]
    assert {each["Authorization"] for each in headers} == {"Bearer t0ken"}
    log = "".join(file.read_text() for file in product.directory.glob("siem*.log"))
    assert "t0ken" not in log
    assert "hush7Qx" not in log
    assert "Traceback" not in log
    product.kill("siem")


# --- files -----------------------------------------------------------------------------------

ROWS, BATCH = 2_000, 500
KEYS = (AUDIT_KEY,)
LONG = os.urandom(3_000).hex()  # so that some rows fill a group of a file


async def fill(product: Product) -> None:
    """Write a long hour into the ledger; it is over."""
    async with await AsyncConnection.connect(
        product.servers.database_url, autocommit=True
    ) as connection:
        await well_within_the_hour(connection)
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


async def test_a_killed_worker_leaves_no_half_file(product: Product, folder: Path) -> None:
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
