"""Secrets of the vault, opened once and kept for as long as what they belong to does not change."""

from __future__ import annotations

from collections import OrderedDict

from caracal.events.base import Fact
from caracal.events.store.vault import Vault
from caracal.services.connections import Pool

_MAX_OWNERS = 10_000
_TOPICS = ("provider.", "grant.")


class OpenedSecrets:
    """Opened secrets of providers and grants, by owner and ref."""

    def __init__(self, database: Pool, vault: Vault) -> None:
        self._database, self.vault = database, vault
        self._opened: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._changes = 0

    def applied(self, fact: Fact) -> None:
        """Forget what a provider or grant had; a listener of the tail."""
        if fact.name.startswith(_TOPICS):
            self._changes += 1
            self._opened.pop(fact.aggregate_id, None)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew, and facts may have been missed."""
        self._changes += 1
        self._opened.clear()

    async def opened(self, owner: str, ref: str) -> bytes:
        """Return the secret.

        Raises:
            Unreadable: it is not there (any more), or does not open.
            psycopg.OperationalError: it is not in memory and the database cannot be reached.
        """
        if (known := self._opened.get(owner, {}).get(ref)) is not None:
            self._opened.move_to_end(owner)
            return known
        changes = self._changes
        async with self._database.connection() as connection:
            secret = await self.vault.read(connection, ref)
        if changes == self._changes:  # else it may be erased already, and would be kept for ever
            self._keep(owner, ref, secret)
        return secret

    def _keep(self, owner: str, ref: str, secret: bytes) -> None:
        self._opened.setdefault(owner, {})[ref] = secret
        self._opened.move_to_end(owner)
        if len(self._opened) > _MAX_OWNERS:
            self._opened.popitem(last=False)
