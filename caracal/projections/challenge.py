"""Read model of step-up challenges: what may be shown of them. The digests stay in the log."""

from __future__ import annotations

from typing import Any

from caracal.events.base import Fact
from caracal.events.challenge import Challenge
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page
from caracal.projections.table import Change, Put, Table, change, put

CHALLENGES = Table(
    "challenges",
    columns={
        "zone_id": "text",
        "session_id": "text",
        "challenge_type": "text",
        "metadata": "jsonb",
        "created_at": "timestamptz",
        "expires_at": "timestamptz",
        "satisfied_at": "timestamptz",
        "consumed_at": "timestamptz",
    },
    indexes=("(zone_id, created_at DESC, id DESC)",),
)

challenges = Projection("challenges", CHALLENGES)


@challenges.on(Challenge.Issued)
def issued(fact: Fact) -> Put:
    return put(CHALLENGES, fact, created_at=fact.occurred_at)


@challenges.on(Challenge.Satisfied)
def satisfied(fact: Fact) -> Change:
    return change(CHALLENGES, fact, satisfied_at=fact.occurred_at)


@challenges.on(Challenge.Consumed)
def consumed(fact: Fact) -> Change:
    return change(CHALLENGES, fact, consumed_at=fact.occurred_at)


async def get_challenge(db: Db, zone_id: str, challenge_id: str) -> dict[str, Any] | None:
    """Return a challenge of the zone, whatever has become of it."""
    return await one(db, CHALLENGES, zone_id=zone_id, id=challenge_id)


async def list_challenges(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return challenges, whatever has become of them, newest first, one more than asked for."""
    return await page(db, CHALLENGES, page_, where="AND zone_id = %s", arguments=(zone_id,))
