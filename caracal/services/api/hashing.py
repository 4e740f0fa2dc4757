"""Hashes the secrets that callers chose: slow on purpose, hence in a bounded pool of threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from caracal import secret_hash
from caracal.errors import TooMany


class Hashing:
    """``threads`` derivations at once, ``queue`` more that wait; each takes 64 MiB."""

    def __init__(self, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._places = threads + queue

    async def stored(self, secret: str) -> str:
        """Return the form in which a chosen secret is stored.

        Raises:
            TooMany: 429 ``rate_limited``, the queue is full.
        """
        if not self._places:
            raise TooMany("rate_limited", "too many secrets are being set; try again")
        self._places -= 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, secret_hash.of_chosen, secret)
        finally:
            self._places += 1

    def stop(self) -> None:
        """End the threads; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)
