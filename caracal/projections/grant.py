"""Read model of grants; those revoked and expired stay to be seen."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from caracal.events.base import Fact
from caracal.events.grant import Grant
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, page, select
from caracal.projections.table import Change, End, Put, Table, end, put

GRANTS = Table(
    "grants",
    columns={
        "zone_id": "text",
        "application_id": "text",
        "resource_id": "text",
        "scopes": "jsonb",
        "user_id": "text",
        "expires_at": "timestamptz",
        "created_at": "timestamptz",
        "status": "text",
        "ended_on": "timestamptz",
        "access_token_ref": "text",
        "refresh_token_ref": "text",
        "token_expires_at": "timestamptz",
        "token_version": "integer",
        "token_provider_id": "text",
    },
    final=("status", "ended_on", "access_token_ref", "refresh_token_ref"),
    indexes=("(zone_id, created_at DESC, id DESC)",),
)

grants = Projection(
    "grants",
    GRANTS,
    ignored=(  # what is waited for is asked of the log: it is nobody's authority
        Grant.AuthorizationStarted.TOPIC,
        Grant.AuthorizationAnswered.TOPIC,
        Grant.AuthorizationFailed.TOPIC,
        Grant.AuthorizationExpired.TOPIC,
    ),
)

_FILTERS = {
    "application_id": "application_id = %s",
    "resource_id": "resource_id = %s",
    "user_id": "user_id = %s",
    "status": "status = %s",
    "scopes": "scopes @> %s",
    "provider_id": "resource_id IN (SELECT id FROM resources WHERE provider_id = %s)",
}


@grants.on(Grant.Created)
def created(fact: Fact) -> Put:
    return put(GRANTS, fact, created_at=fact.occurred_at, status="active")


@grants.on(Grant.CredentialStored, Grant.CredentialRefreshed)
def credential_stored(fact: Fact) -> Change:
    # Not by the names of the data: the grant has an expires_at of its own.
    data = fact.data
    tokens = {name: data[name] for name in ("access_token_ref", "refresh_token_ref")}
    version = {
        "token_expires_at": data["expires_at"],
        "token_version": data["token_version"],
        "token_provider_id": data.get("provider_id"),  # older facts do not say
    }
    return Change(GRANTS, fact.aggregate_id, tokens | version)


@grants.on(Grant.CredentialExpired)
def credential_expired(fact: Fact) -> Change:
    gone = dict.fromkeys(("access_token_ref", "refresh_token_ref", "token_expires_at"))
    return Change(GRANTS, fact.aggregate_id, gone)


@grants.on(Grant.Revoked)
def revoked(fact: Fact) -> End:
    return end(GRANTS, [fact.aggregate_id], status="revoked", ended_on=fact.occurred_at)


@grants.on(Grant.Expired)
def expired(fact: Fact) -> End:
    return end(GRANTS, [fact.aggregate_id], status="expired", ended_on=fact.occurred_at)


async def get_grant(db: Db, zone_id: str, grant_id: str) -> dict[str, Any] | None:
    """Return a grant of the zone, ended or not."""
    statement = "SELECT * FROM grants WHERE zone_id = %s AND id = %s AND NOT stub"
    rows = await select(db, statement, [zone_id, grant_id])
    return rows[0] if rows else None


async def list_grants(db: Db, zone_id: str, page_: Page, **equal: Any) -> list[dict[str, Any]]:
    """Return grants of any status, newest first, one more than the page holds.

    ``equal`` filters by ``application_id``, ``resource_id``, ``user_id``, ``status``,
    ``provider_id`` (of the resource) and ``scopes`` (a list, all must be there).
    """
    where = "AND zone_id = %s" + "".join(f" AND {_FILTERS[name]}" for name in equal)
    values = (Jsonb(value) if name == "scopes" else value for name, value in equal.items())
    return await page(db, GRANTS, page_, where=where, arguments=(zone_id, *values), ended_too=True)
