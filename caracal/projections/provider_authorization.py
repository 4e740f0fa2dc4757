"""Read model of authorizations that wait for a user; for the sweeper alone.

What is asked about one is asked of the log: it is nobody's authority.
"""

from __future__ import annotations

from caracal.events.base import Fact
from caracal.events.grant import Grant
from caracal.projections.projection import Projection
from caracal.projections.query import Db, ids_in_zones
from caracal.projections.table import Operation, Remove, Table, change, put

PROVIDER_AUTHORIZATIONS = Table(
    "provider_authorizations",
    columns={"zone_id": "text", "expires_at": "timestamptz"},
    indexes=("(expires_at)",),
)

provider_authorizations = Projection(
    "provider_authorizations",
    PROVIDER_AUTHORIZATIONS,
    ignored=(
        Grant.Created.TOPIC,
        Grant.CredentialStored.TOPIC,
        Grant.CredentialRefreshed.TOPIC,
        Grant.CredentialExpired.TOPIC,
        Grant.AuthorizationFailed.TOPIC,  # after an answer
    ),
)


@provider_authorizations.on(Grant.AuthorizationStarted)
def started(fact: Fact) -> list[Operation]:
    # A new one is put, or takes the place of the one before: one of the two does nothing.
    return [put(PROVIDER_AUTHORIZATIONS, fact), change(PROVIDER_AUTHORIZATIONS, fact)]


@provider_authorizations.on(
    Grant.AuthorizationAnswered, Grant.AuthorizationExpired, Grant.Revoked, Grant.Expired
)
def over(fact: Fact) -> Remove:
    return Remove(PROVIDER_AUTHORIZATIONS, fact.aggregate_id)


async def overdue_authorizations(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return grants that nobody has answered for in time, longest overdue first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM provider_authorizations WHERE expires_at < now()"
        " ORDER BY expires_at LIMIT %s",
        limit,
    )
