"""The data directory: one user at a time, its log files, and its short-lived runtime directory.

DIR/lock        flock; inherited by the servers, so it is free only when they too are gone
DIR/runtime     names the runtime directory, so that one left by a crash is found and removed
DIR/logs/       NAME.log of this run, NAME.log.1 of the run before
DIR/postgres/, DIR/valkey/    engine, password, data/
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from caracal.errors import StartError

_PREFIX = "caracal-"
_SOCKET_PATH_MAX = 103  # bytes; sun_path has 108 on Linux, 104 on macOS, with the final NUL
_LONGEST_SOCKET = ".s.PGSQL.5432.lock"
_ENDING_LIMIT = 10.0  # s that the servers of a killed owner get to end
_POLL = 0.02  # s


class DataDir:
    """A locked data directory. Close it to let the next one in."""

    def __init__(self, path: Path) -> None:
        """Make ``path`` if need be and lock it.

        Raises:
            StartError: it cannot be written, or another process has it.
        """
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
            self.lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartError(
                f"data directory {self.path} cannot be used: {error.strerror}"
            ) from error
        try:
            self._take_lock()
        except BaseException:
            os.close(self.lock)
            raise

    def _take_lock(self) -> None:
        limit = time.monotonic() + _ENDING_LIMIT
        while not _flock(self.lock):
            owner = os.pread(self.lock, 20, 0).decode().strip()
            if _is_alive(owner) or time.monotonic() > limit:
                raise StartError(f"data directory {self.path} is in use by process {owner or '?'}")
            time.sleep(_POLL)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, str(os.getpid()).encode(), 0)

    def open_log(self, name: str) -> IO[bytes]:
        """Open ``logs/NAME.log`` for writing; what was there becomes ``NAME.log.1``."""
        log = self.log_path(name)
        with suppress(FileNotFoundError):
            log.replace(log.with_name(f"{name}.log.1"))
        return log.open("ab")

    def log_path(self, name: str) -> Path:
        """Return where the log of server ``name`` is."""
        return self.path / "logs" / f"{name}.log"

    def make_runtime(self) -> Path:
        """Make a private directory with a path short enough for sockets; remove the one before."""
        self.remove_runtime()
        runtime = _temp_root() / f"{_PREFIX}{secrets.token_hex(5)}"
        self._record.write_text(str(runtime))  # first, so that no crash leaves it behind
        runtime.mkdir(mode=0o700)
        return runtime

    def remove_runtime(self) -> None:
        """Remove the runtime directory of this or of an earlier, crashed run."""
        with suppress(FileNotFoundError):
            runtime = Path(self._record.read_text())
            if runtime.name.startswith(_PREFIX) and not runtime.is_symlink():
                shutil.rmtree(runtime)
        self._record.unlink(missing_ok=True)

    @property
    def _record(self) -> Path:
        return self.path / "runtime"

    def close(self) -> None:
        """Unlock. Processes that inherited the lock hold it until they end."""
        os.close(self.lock)


def _flock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _temp_root() -> Path:
    root = Path(tempfile.gettempdir())
    longest = root / (_PREFIX + "0" * 10) / _LONGEST_SOCKET
    return root if len(os.fsencode(longest)) <= _SOCKET_PATH_MAX else Path("/tmp")  # noqa: S108
