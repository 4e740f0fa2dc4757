"""One server process: started by ``launch.py``, watched, stopped; and the user it runs as."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, Signals
from typing import IO

from caracal.embedded import launch
from caracal.errors import StartError

READY_LIMIT = 60.0  # s; a crashed server first replays its log
_POLL = 0.01  # s
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_REASON = "(?i)fatal|error"
_PRIVATE_UIDS = range(60321, 60400)


@dataclass(frozen=True)
class Account:
    """User and group ids of a server process."""

    uid: int
    gid: int

    def take(self, tree: Path) -> None:
        """Make this account the owner of ``tree`` and all in it, if we are root."""
        if os.geteuid() != 0:
            return
        os.chown(tree, self.uid, self.gid)
        for folder, folders, files in os.walk(tree):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def claim(self, data: Path) -> None:
        """Take ``data`` over if it has another owner: root may have restored it from a copy.

        Raises:
            StartError: it belongs to another user, and we are not root.
        """
        if data.stat().st_uid == self.uid:
            return
        if os.geteuid() != 0:
            raise StartError(f"{data} belongs to another user")
        self.take(data)


def own_account() -> Account:
    """Return the account of this process."""
    return Account(os.geteuid(), os.getegid())


def private_account(directory: Path) -> Account:
    """Return who runs the servers of ``directory``: us, or for root its data's owner, or a new uid.

    PostgreSQL refuses root. A uid without passwd entry is shared with no daemon of the machine.
    """
    if os.geteuid() != 0:
        return own_account()
    for data in directory.glob("*/data"):
        if (owner := data.stat()).st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    uid = next(uid for uid in _PRIVATE_UIDS if uid not in taken)
    return Account(uid, uid)


def named_account() -> Account:
    """Return us, or for root an account *with* a passwd entry: initdb looks its own name up."""
    if os.geteuid() != 0:
        return own_account()
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not entries:
        raise StartError("no user but root exists on this machine: set DATABASE_URL and REDIS_URL")
    entry = next((entry for entry in entries if entry.pw_name == "nobody"), entries[-1])
    return Account(entry.pw_uid, entry.pw_gid)


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    account: Account,
    die_by: Signals,
    log: IO[bytes],
    stdin: int = subprocess.DEVNULL,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``argv`` as ``account`` in ``cwd``, in its own session, so Ctrl-C does not reach it.

    Args:
        die_by: the signal the kernel sends it when this thread is gone.
        keep: file descriptors it inherits.
    """
    stub = (sys.executable, "-I", "-S", launch.__file__)
    terms = (os.getpid(), int(die_by), account.uid, account.gid, cwd)
    return subprocess.Popen(  # noqa: S603  our own binaries, by full path
        [str(word) for word in (*stub, *terms, *argv)],
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
        pass_fds=keep,
        start_new_session=True,
    )


def await_ready(
    name: str, process: subprocess.Popen[bytes], answers: Callable[[], bool], log: Path
) -> None:
    """Return once ``answers()`` is true.

    Raises:
        StartError: the process ended first, or ``READY_LIMIT`` has passed.
    """
    limit = time.monotonic() + READY_LIMIT
    while not answers():
        if process.poll() is not None:
            raise StartError(f"{name} did not start: {last_line(log, _REASON)}")
        if time.monotonic() > limit:
            raise StartError(f"{name} does not answer after {READY_LIMIT:.0f} s; see {log}")
        time.sleep(_POLL)


def end(process: subprocess.Popen[bytes], *signals: Signals, patience: float) -> None:
    """Send the signals one after the other, ``patience`` seconds each, at last SIGKILL; reap."""
    for signal in signals:
        if process.poll() is not None:
            return
        process.send_signal(signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.poll() is None:
        process.send_signal(SIGKILL)
        process.wait()


def last_line(log: Path, like: str = "") -> str:
    """Return the last line of ``log``, if possible one that matches pattern ``like``."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    chosen = [line for line in lines if re.search(like, line)] or lines
    return chosen[-1].strip() if chosen else "it left no message"
