from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from caracal.events.base import Fall
from caracal.projections import sql
from caracal.projections.query import Page
from caracal.projections.revocation import revocations
from caracal.projections.session import sessions
from caracal.projections.trusted_issuer import (
    get_trusted_issuer,
    list_trusted_issuers,
    trusted_issuers,
)
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_application,
    new_session,
    new_trusted_issuer,
    reduced,
    store_with,
)


async def test_rows() -> None:
    made, archived = new_trusted_issuer(issuer="https://a.example"), new_trusted_issuer()
    with in_zone():
        made.change({"audiences": ["b"], "jwks_uri": "https://a.example/keys"})
        archived.archive(Fall())
    rows = reduced(trusted_issuers, await store_with(made, archived))["trusted_issuers"]
    row = rows[made.aggregate_id]
    assert (
        row.items()
        >= {
            "zone_id": ZONE,
            "name": "login",
            "issuer": "https://a.example",
            "audiences": ["b"],
            "algorithms": ["RS256", "PS256", "ES256"],
            "jwks_uri": "https://a.example/keys",
            "subject_claim": "sub",
            "required_claims": {},
            "max_age_seconds": 3600,
            "session_seconds": 3600,
            "single_use": True,
        }.items()
    )
    assert row["created_at"] < row["updated_at"]
    assert "archived_at" in rows[archived.aggregate_id]


async def test_what_it_began_ends_with_it() -> None:
    made, app = new_trusted_issuer(), new_application()
    session = new_session(app.aggregate_id, trusted_issuer_id=made.aggregate_id)
    other = new_session(app.aggregate_id)
    store = await store_with(made, app, session, other)
    with in_zone():
        made.archive(Fall.of_sessions([session.aggregate_id]))
    await store.save(made)
    rows = reduced(sessions, store)["sessions"]
    assert rows[session.aggregate_id]["status"] == "revoked"
    assert rows[session.aggregate_id]["trusted_issuer_id"] == made.aggregate_id
    assert rows[other.aggregate_id]["status"] == "active"
    assert "trusted_issuer_id" not in rows[other.aggregate_id]
    ended = reduced(revocations, store)["revocations"]
    assert ended.keys() == {made.aggregate_id, session.aggregate_id}


async def test_queries(db: AsyncConnection[Any]) -> None:
    one, other, gone = new_trusted_issuer(), new_trusted_issuer(), new_trusted_issuer()
    with in_zone():
        gone.archive(Fall())
    store = await store_with(one, other, gone)
    await sql.apply(db, [op for fact in facts(store) for op in trusted_issuers.reduce(fact)])
    found = await get_trusted_issuer(db, ZONE, one.aggregate_id)
    assert found is not None
    assert (found["audiences"], found["required_claims"]) == (["client"], {})
    assert await get_trusted_issuer(db, "another", one.aggregate_id) is None
    assert await get_trusted_issuer(db, ZONE, gone.aggregate_id) is None
    listed = await list_trusted_issuers(db, ZONE, Page(2))
    assert [row["id"] for row in listed] == [other.aggregate_id, one.aggregate_id]
