"""Opened private keys: read from the vault once, kept for a while (contract, section 16)."""

from __future__ import annotations

import logging
import time

from caracal.errors import InternalError
from caracal.events.base import Fact
from caracal.events.store.vault import Unreadable, Vault
from caracal.mandate import SigningKey, Typ
from caracal.projections.memory import Row
from caracal.services.connections import Pool

logger = logging.getLogger(__name__)
LIFE_SECONDS = 15 * 60.0


class SigningKeys:
    """Private keys by ``kid``, dropped when the zone's keys change.

    ``typ`` is what the headers of their tokens say: ``JWT``, or ``at+jwt`` (RFC 9068).
    """

    def __init__(self, database: Pool, vault: Vault, typ: Typ = "JWT") -> None:
        self._database, self._vault, self._typ = database, vault, typ
        self._opened: dict[str, tuple[str | None, float, SigningKey]] = {}

    def applied(self, fact: Fact) -> None:
        """Forget the keys of a zone; a listener of the tail."""
        if fact.name.startswith("signing_key."):
            self._opened = {
                kid: opened for kid, opened in self._opened.items() if opened[0] != fact.zone_id
            }

    async def opened(self, row: Row) -> SigningKey:
        """Return the private key of a row of ``signing_keys``.

        Raises:
            InternalError: the vault does not give it.
            psycopg.OperationalError: it is not in memory and the database cannot be reached.
        """
        known = self._opened.get(row["id"])
        if known is not None and time.monotonic() < known[1]:
            return known[2]
        key = await self._read(row)
        self._opened[row["id"]] = (row["zone_id"], time.monotonic() + LIFE_SECONDS, key)
        return key

    async def _read(self, row: Row) -> SigningKey:
        try:
            async with self._database.connection() as connection:
                pem = await self._vault.read(connection, row["private_key_ref"])
            return SigningKey.from_pem(row["id"], pem, self._typ)
        except (Unreadable, ValueError) as error:
            logger.error("signing key %s cannot be opened: %s", row["id"], error)
            raise InternalError from error
