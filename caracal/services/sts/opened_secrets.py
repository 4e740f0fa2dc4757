"""Secrets of the vault, opened once and kept for as long as what they belong to does not change."""

from __future__ import annotations

from caracal.events.base import Fact
from caracal.events.store.vault import Vault
from caracal.services.connections import Pool
from caracal.services.remembered import Remembered

_MAX_OWNERS = 10_000
_TOPICS = ("provider.", "grant.")


class OpenedSecrets:
    """Opened secrets of providers and grants, by owner and ref."""

    def __init__(self, database: Pool, vault: Vault) -> None:
        self._database, self.vault = database, vault
        self._opened: Remembered[str, dict[str, bytes]] = Remembered(_MAX_OWNERS)

    def applied(self, fact: Fact) -> None:
        """Forget what a provider or grant had; a listener of the tail."""
        if fact.name.startswith(_TOPICS):
            self._opened.changed(fact.aggregate_id)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew, and facts may have been missed."""
        self._opened.forget_all()

    async def opened(self, owner: str, ref: str) -> bytes:
        """Return the secret.

        Raises:
            Unreadable: it is not there (any more), or does not open.
            psycopg.OperationalError: it is not in memory and the database cannot be reached.
        """
        if (known := (self._opened.get(owner) or {}).get(ref)) is not None:
            return known
        changes = self._opened.changes
        async with self._database.connection() as connection:
            secret = await self.vault.read(connection, ref)
        # If something has changed it may be erased already, and would be kept for ever.
        self._opened.keep(owner, {**(self._opened.get(owner) or {}), ref: secret}, changes)
        return secret
