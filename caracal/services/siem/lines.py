"""Sink: JSON lines in a file, which may be moved aside at any time, or on standard output."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from caracal.services.siem.blocking import BlockingSink
from caracal.services.siem.record import Record

_MODE = 0o640  # who ships it is of the group
_STDOUT = 1


class Lines(BlockingSink):
    """Appends; a batch is on the disk when ``send`` returns.

    A file that was moved or removed (logrotate) is begun anew with the next batch, and at SIGHUP.
    A line that was cut off (killed in the middle, disk full) is ended before the next one; its
    record comes again, whole.
    """

    def __init__(self, path: Path | None) -> None:
        """``path`` None: standard output."""
        super().__init__()
        self._path = path
        self._file: int | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Append a batch."""
        text = b"".join(record.body + b"\n" for record in records)
        file = self._opened()
        while text:
            text = text[os.write(file, text) :]
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.fsync(file)

    def _opened(self) -> int:
        if self._path is None:
            return _STDOUT
        if self._file is not None and not _is_at(self._path, self._file):
            self.let_go()
        if self._file is None:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
            _end_line(self._file)
        return self._file

    def let_go(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _end_line(file: int) -> None:
    """End what was cut off; a pipe or a device has no end to look at."""
    status = os.fstat(file)
    cut_off = stat.S_ISREG(status.st_mode) and status.st_size
    if cut_off and os.pread(file, 1, status.st_size - 1) != b"\n":
        os.write(file, b"\n")
