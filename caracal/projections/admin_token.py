"""Read model of admin tokens."""

from __future__ import annotations

from caracal.events.admin_token import AdminToken
from caracal.events.base import Fact
from caracal.projections.projection import Projection
from caracal.projections.table import End, Put, Table, end, put

ADMIN_TOKENS = Table(
    "admin_tokens",
    columns={
        "name": "text",
        "token_sha256": "text",
        "scope": "text",
        "zone_id": "text",
        "capability": "text",
        "created_by": "text",
        "created_at": "timestamptz",
        "revoked_at": "timestamptz",
    },
    final=("revoked_at",),
    indexes=("(token_sha256)",),
)

admin_tokens = Projection("admin_tokens", ADMIN_TOKENS)


@admin_tokens.on(AdminToken.Created)
def created(fact: Fact) -> Put:
    return put(ADMIN_TOKENS, fact, zone_id=fact.data["zone_id"], created_at=fact.occurred_at)


@admin_tokens.on(AdminToken.Revoked)
def revoked(fact: Fact) -> End:
    return end(ADMIN_TOKENS, [fact.aggregate_id], revoked_at=fact.occurred_at)
