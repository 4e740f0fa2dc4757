"""Connections and keys that services make from their settings."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from caracal.events.store.entries import Rings
from caracal.settings import Settings
from caracal.stream_signature import Keyring

Pool = AsyncConnectionPool[AsyncConnection[Any]]


def pool(settings: Settings) -> Pool:
    """Return the pool for queries, not yet open: use it as a context manager."""
    options = (
        f"-c statement_timeout={settings.db_statement_timeout_ms}"
        f" -c idle_in_transaction_session_timeout={settings.db_idle_in_tx_timeout_ms}"
    )
    return AsyncConnectionPool(
        settings.database_url,
        min_size=2,
        max_size=settings.db_pool_max,
        timeout=settings.db_connection_timeout_ms / 1000,
        max_idle=settings.db_idle_timeout_ms / 1000,
        # Attempts come twice as late each time: begin anew before they come a minute late.
        reconnect_timeout=settings.db_connection_timeout_ms / 1000,
        open=False,
        kwargs={"autocommit": True, "options": options},
    )


def rings(settings: Settings) -> Rings:
    """Return the key rings of facts and signals."""
    return Rings(Keyring(settings.facts_hmac_key), Keyring(settings.streams_hmac_key))
