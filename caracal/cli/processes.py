"""Processes forked from one that has imported everything: started, watched, stopped, in order."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, NoReturn

from caracal.embedded.launch import die_with_parent
from caracal.errors import StartError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL = 0.05  # s


class StopRequested(BaseException):
    """SIGTERM, SIGHUP or Ctrl-C came."""


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise ``StopRequested`` at the first such signal; ignore all that follow."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        ignore_stop_signals()
        raise StopRequested

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def ignore_stop_signals() -> None:
    """From now on nothing interrupts: we are stopping already."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


class Children:
    """The forked processes of this one. None of them outlives it, not even its kill -9."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self.codes: dict[str, int] = {}

    def fork(self, name: str, work: Callable[[], int], log: IO[bytes] | None = None) -> None:
        """Run ``work`` in a new process and session; its result is the exit code.

        Call it while this process has neither threads nor an event loop.

        Args:
            log: where standard output and error go; else they stay as they are.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # Python ignores what a signal's handler raises within the hooks of a fork.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            _become(parent, work, log, before)
        self._names[pid] = name
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def pid(self, name: str) -> int | None:
        """Return the id of a process that, as far as is known, runs."""
        return next((pid for pid, known in self._names.items() if known == name), None)

    def kill(self, name: str) -> None:
        """End the named one at once."""
        self._signal({name}, signal.SIGKILL)

    def running(self) -> list[str]:
        """Return the names of those that still run; the codes of the others are in ``codes``."""
        for pid in list(self._names):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[self._names.pop(pid)] = os.waitstatus_to_exitcode(status)
        return list(self._names.values())

    def stop(self, names: Iterable[str], patience: float) -> list[str]:
        """End the named ones by SIGTERM, those that stay longer than ``patience`` s by SIGKILL.

        Returns:
            The names of those that were killed.
        """
        wanted, killed = set(names), set[str]()
        self._signal(wanted, signal.SIGTERM)
        limit = time.monotonic() + patience
        while late := wanted & set(self.running()):
            if time.monotonic() > limit:
                self._signal(late, signal.SIGKILL)
                killed |= late
            time.sleep(_POLL)
        return sorted(killed)

    def _signal(self, names: set[str], number: signal.Signals) -> None:
        self.running()
        for pid, name in self._names.items():
            if name in names:
                os.kill(pid, number)


def _become(
    parent: int, work: Callable[[], int], log: IO[bytes] | None, mask: Iterable[int]
) -> NoReturn:
    """Be the child: never return, so that no cleanup of the parent runs twice."""
    code = 1
    try:
        os.setsid()  # Ctrl-C reaches the parent alone, which knows the order
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        die_with_parent(signal.SIGKILL, parent)
        _redirect(log)
        code = work()
    except StartError as error:
        print(f"caracal: {error.description}", file=sys.stderr)  # noqa: T201
        code = 2
    except BaseException:  # noqa: BLE001  whatever it is, it is reported and ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: IO[bytes] | None) -> None:
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    if log is not None:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
