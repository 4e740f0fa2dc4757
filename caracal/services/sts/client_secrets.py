"""Client secrets: stored forms from the vault, hashes in a bounded pool, what is known already.

A form is read from the vault once: another secret has another ref. A secret once verified is
remembered, as a keyed digest, for as long as its application does not change.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b

from caracal import secret_hash
from caracal.events.store.vault import Unreadable, Vault
from caracal.projections.memory import Row
from caracal.services.connections import Pool
from caracal.services.fair_queue import FairQueue
from caracal.services.sts.refusals import too_many_failures

logger = logging.getLogger(__name__)
_MAX_KNOWN = 10_000
_UNREADABLE = ""


class ClientSecrets:
    """Verifies client secrets; ``close`` ends its threads."""

    def __init__(self, database: Pool, vault: Vault, *, parallel: int, queue_max: int) -> None:
        self._database, self._vault = database, vault
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="argon2")
        self._queue = FairQueue(parallel, queue_max, partial(too_many_failures, 0))
        self._key = secrets.token_bytes(32)
        self._forms: OrderedDict[str, str] = OrderedDict()
        self._known: OrderedDict[str, bytes] = OrderedDict()

    def close(self) -> None:
        """End the threads; waits for hashes under way."""
        self._threads.shutdown(cancel_futures=True)

    def is_known(self, application: Row, secret: str) -> bool:
        """Say whether this secret of this very state of the application was verified before."""
        known = self._known.get(application["id"])
        return known is not None and hmac.compare_digest(known, self._digest(application, secret))

    async def verify(self, application: Row, secret: str) -> bool:
        """Say whether ``secret`` is the application's.

        Raises:
            TooMany: 429 ``access_denied``, the queue of the hash pool is full.
            psycopg.OperationalError: the stored form is not in memory and cannot be read.
        """
        ref = application["client_secret_ref"]
        if ref is None:
            return False
        right = await self._matches(application, await self._form(ref), secret)
        if right:
            self._known[application["id"]] = self._digest(application, secret)
            self._known.move_to_end(application["id"])
            _shrink(self._known)
        return right

    async def _matches(self, application: Row, form: str, secret: str) -> bool:
        if not secret_hash.is_slow(form):
            return secret_hash.verify(form, secret)
        async with self._queue.turn(application["zone_id"], application["id"]):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, secret_hash.verify, form, secret)

    async def _form(self, ref: str) -> str:
        if (form := self._forms.get(ref)) is not None:
            return form
        form = await self._read(ref)
        if form != _UNREADABLE:
            self._forms[ref] = form
            _shrink(self._forms)
        return form

    async def _read(self, ref: str) -> str:
        try:
            async with self._database.connection() as connection:
                return (await self._vault.read(connection, ref)).decode()
        except (Unreadable, UnicodeDecodeError) as error:
            logger.warning("client secret cannot be read: %s", error)
            return _UNREADABLE

    def _digest(self, application: Row, secret: str) -> bytes:
        state = f"{application['id']}\n{application['position']}\n{secret}"
        return blake2b(state.encode(), key=self._key, digest_size=32).digest()


def _shrink(cache: OrderedDict[str, bytes] | OrderedDict[str, str]) -> None:
    if len(cache) > _MAX_KNOWN:
        cache.popitem(last=False)
