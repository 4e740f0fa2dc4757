from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from caracal.projections import sql
from caracal.projections.provider import get_provider, list_providers, providers
from caracal.projections.query import Page
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_provider,
    reduced,
    sealed_config,
    store_with,
)


async def test_rows() -> None:
    provider = new_provider(identifier="a", config={"issuer": "x"}, client_id="c")
    archived = new_provider(secrets=["token"])
    with in_zone():
        provider.change({"client_id": None}, sealed_config("api_key", "token"))
        archived.archive()
    rows = reduced(providers, await store_with(provider, archived))["providers"]
    row = rows[provider.aggregate_id]
    assert (
        row.items()
        >= {
            "zone_id": ZONE,
            "identifier": "a",
            "name": "provider",
            "kind": "oauth2",
            "owner_type": "customer",
            "config": {"issuer": "x"},
            "secret_config_ref": "provider/1",
            "secret_config_keys": ["api_key", "token"],
        }.items()
    )
    assert "client_id" not in row
    assert row["created_at"] < row["updated_at"]
    assert "archived_at" in rows[archived.aggregate_id]


async def test_queries(db: AsyncConnection[Any]) -> None:
    one, other, gone = new_provider(config={"a": [1, {"b": None}]}), new_provider(), new_provider()
    with in_zone():
        gone.archive()
    store = await store_with(one, other, gone)
    await sql.apply(db, [op for fact in facts(store) for op in providers.reduce(fact)])
    found = await get_provider(db, ZONE, one.aggregate_id)
    assert found is not None
    assert (found["config"], found["secret_config_keys"]) == ({"a": [1, {"b": None}]}, [])
    assert await get_provider(db, "another", one.aggregate_id) is None
    assert await get_provider(db, ZONE, gone.aggregate_id) is None
    listed = await list_providers(db, ZONE, Page(2))
    assert [row["id"] for row in listed] == [other.aggregate_id, one.aggregate_id]
