"""Sink: JSON lines in a file, which may be moved aside at any time, or on standard output."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away

_MODE = 0o640  # who ships it is of the group
_STDOUT = 1


class Lines:
    """Appends; a batch is on the disk when ``send`` returns.

    A file that was moved or removed (logrotate) is begun anew with the next batch, and at SIGHUP.
    A line that was cut off (killed in the middle) is ended before the next one; its record comes
    again, whole.
    """

    def __init__(self, path: Path | None) -> None:
        """``path`` None: standard output."""
        self._path = path
        self._file: int | None = None
        self._outdated = False
        self._writing: asyncio.Future[None] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Append a batch."""
        text = b"".join(record.body + b"\n" for record in records)
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._append, text))
        try:
            await asyncio.shield(self._writing)  # no one can stop a thread
        except OSError as error:
            raise Away(type(error).__name__) from error

    def _append(self, text: bytes) -> None:
        try:
            file = self._opened()
            while text:
                text = text[os.write(file, text) :]
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.fsync(file)
        except OSError:
            self._close()  # what was cut off is ended when it is opened
            raise

    def _opened(self) -> int:
        if self._path is None:
            return _STDOUT
        if self._file is not None and (self._outdated or not self._is_in_place(self._file)):
            self._close()
        if self._file is None:
            self._outdated = False
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
            _end_line(self._file)
        return self._file

    def _is_in_place(self, file: int) -> bool:
        assert self._path is not None
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def reopen(self) -> None:
        """Open the file by its name for the next batch; a thread may be writing this one."""
        self._outdated = True

    async def close(self) -> None:
        """Close the file, after what is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._close()


def _end_line(file: int) -> None:
    """End what was cut off; a pipe or a device has no end to look at."""
    status = os.fstat(file)
    cut_off = stat.S_ISREG(status.st_mode) and status.st_size
    if cut_off and os.pread(file, 1, status.st_size - 1) != b"\n":
        os.write(file, b"\n")
