"""The SIEM process, killed in the middle of batches, and a sink that is away for a while."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.events.topics import AUDIT
from tests.audit.trail import decided
from tests.backbone import eventually
from tests.flow.conftest import Making
from tests.flow.product import AUDIT_KEY, Product
from tests.siem.receiver import Receiver, receiver

__all__ = ["receiver"]

pytestmark = [pytest.mark.flow, pytest.mark.chaos]


@pytest.fixture
def product(making: Making, receiver: Receiver) -> Product:
    return making(
        SIEM_SINK_URL=f"{receiver.url}?key=hush7Qx",
        SIEM_SINK_TOKEN="t0ken",
        SIEM_SINK_CA_FILE=str(receiver.folder / "server.pem"),
        SIEM_BATCH_MAX="20",
        SIEM_CLAIM_IDLE_SECS="1",
    )


async def put(product: Product, count: int) -> list[AuditEvent]:
    """Add entries as the STS does."""
    events = [decided() for _ in range(count)]
    async with Redis.from_url(product.servers.redis_url) as redis:
        for event in events:
            await redis.xadd(AUDIT, encode(event, (AUDIT_KEY,)))  # type: ignore[arg-type]
    return events


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
