"""What sinks have in common that write by calls that block: one thread at a time does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away


class BlockingSink:
    """Base of such sinks.

    Attributes:
        outdated: what is open is to be opened anew before the next records.
    """

    def __init__(self) -> None:
        self.outdated = False
        self._writing: asyncio.Future[None] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Write a batch in a thread.

        Raises:
            Away: it could not be written, or not all of it.
        """
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, records))
        try:
            await asyncio.shield(self._writing)  # no one can stop a thread
        except OSError as error:
            what = f": {error.strerror}" if error.strerror else ""
            raise Away(f"{type(error).__name__}{what}") from error

    def reopen(self) -> None:
        """Open anew for the next batch; a thread may be writing this one."""
        self.outdated = True

    async def close(self) -> None:
        """Let go of what is open, after what is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.let_go()

    def write(self, records: Sequence[Record]) -> None:
        """Write a batch; return when the sink has it.

        Raises:
            OSError: it has not.
        """
        raise NotImplementedError

    def let_go(self) -> None:
        """Close what is open."""
        raise NotImplementedError

    def _write(self, records: Sequence[Record]) -> None:
        if self.outdated:
            self.outdated = False
            self.let_go()
        try:
            self.write(records)
        except OSError:
            self.let_go()
            raise
