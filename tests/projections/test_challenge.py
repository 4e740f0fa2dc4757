from __future__ import annotations

from datetime import timedelta

from caracal import clock
from caracal.projections.challenge import challenges
from tests.making import ZONE, consume, in_zone, new_challenge, reduced, store_with


async def test_rows() -> None:
    now = clock.now()
    waiting, satisfied, consumed = (new_challenge(now=now) for _ in range(3))
    with in_zone():
        for one in (satisfied, consumed):
            one.satisfy("grace", now)
    consume(consumed, now)
    rows = reduced(challenges, await store_with(waiting, satisfied, consumed))["challenges"]
    row = rows[waiting.aggregate_id]
    assert row == {
        "id": waiting.aggregate_id,
        "position": 1,
        "stub": False,
        "zone_id": ZONE,
        "session_id": "sid-1",
        "challenge_type": "human_approval",
        "metadata": {"resource": "resource://one", "call": None},
        "created_at": row["created_at"],
        "expires_at": now + timedelta(minutes=5),
    }
    told = [set(rows[one.aggregate_id]) - set(row) for one in (satisfied, consumed)]
    assert told == [{"satisfied_at"}, {"satisfied_at", "consumed_at"}]
