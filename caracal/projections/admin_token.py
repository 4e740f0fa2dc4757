"""Read model of admin tokens, and when each was used: telemetry, not rebuilt."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from caracal.events.admin_token import AdminToken
from caracal.events.base import Fact
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, page, select
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


async def list_admin_tokens(db: Db, page_: Page) -> list[dict[str, Any]]:
    """Return tokens, revoked ones too, newest first, one more than the page holds."""
    rows = await page(db, ADMIN_TOKENS, page_, ended_too=True)
    statement = "SELECT token_id, last_used_at FROM admin_token_uses WHERE token_id = ANY(%s)"
    uses = await select(db, statement, [[row["id"] for row in rows]])
    last = {use["token_id"]: use["last_used_at"] for use in uses}
    return [row | {"last_used_at": last.get(row["id"])} for row in rows]


async def note_uses(db: Db, token_ids: Collection[str], moment: datetime) -> None:
    """Note that tokens were used at ``moment``; at most once a token and minute, all replicas."""
    await db.execute(
        "INSERT INTO admin_token_uses AS u SELECT unnest(%s::text[]), %s"
        " ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at"
        " WHERE u.last_used_at <= excluded.last_used_at - interval '60 s'",
        (list(token_ids), moment),
    )
