"""Read model of signing keys."""

from __future__ import annotations

from caracal.events.base import Fact
from caracal.events.signing_key import SigningKey
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections.memory import RecentTable
from caracal.projections.projection import Projection
from caracal.projections.query import Db, ids_in_zones
from caracal.projections.table import End, Put, Table, end, put

SIGNING_KEYS = Table(
    "signing_keys",
    columns={
        "zone_id": "text",
        "version": "int",
        "alg": "text",
        "public_jwk": "jsonb",
        "private_key_ref": "text",
        "created_at": "timestamptz",
        "retired_at": "timestamptz",
        "reason": "text",
    },
    final=("retired_at", "reason"),
    indexes=("(zone_id, version DESC)",),
)

signing_keys = Projection("signing_keys", SIGNING_KEYS)


@signing_keys.on(SigningKey.Created)
def created(fact: Fact) -> Put:
    return put(SIGNING_KEYS, fact, created_at=fact.occurred_at)


@signing_keys.on(SigningKey.Retired)
def retired(fact: Fact) -> End:
    return end(
        SIGNING_KEYS,
        [fact.aggregate_id],
        retired_at=fact.occurred_at,
        reason=fact.data["reason"],
    )


def recent_keys() -> RecentTable:
    """Return the table as a process holds it: without those that were retired long ago."""
    born_on = FACT_TOPIC_OF[SigningKey.Created.TOPIC].name
    return RecentTable(SIGNING_KEYS, born_on=born_on, ended_on="retired_at")


async def superseded_keys(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return keys for which a newer one has signed for 24 h, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM signing_keys AS old WHERE ended_at IS NULL AND NOT stub"
        " AND EXISTS (SELECT FROM signing_keys AS new WHERE new.zone_id = old.zone_id"
        " AND new.version > old.version AND new.ended_at IS NULL AND NOT new.stub"
        " AND new.created_at <= now() - interval '24 hours')"
        " ORDER BY created_at LIMIT %s",
        limit,
    )
