"""Becomes a server that dies with its parent.

Run as a script (``python -I -S launch.py PARENT SIGNAL UID GID DIRECTORY PROGRAM …``) it does in a
fresh process what a ``preexec_fn`` would have to do in a fork of one that may have threads. It
imports nothing but a few standard modules, so it costs ~20 ms.
"""

from __future__ import annotations

import ctypes
import os
import sys
from signal import SIG_SETMASK, pthread_sigmask

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux only


def die_with_parent(signal: int, parent: int) -> None:
    """Have the kernel send ``signal`` to this process when process ``parent`` is gone.

    Call it after any change of user, which resets it. "Parent" is, to Linux, the *thread* that
    started this process: start servers from a thread that lives on. Elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _main(parent: str, signal: str, uid: str, gid: str, directory: str, *argv: str) -> None:
    os.umask(0o077)
    pthread_sigmask(SIG_SETMASK, ())  # a blocked signal would be inherited
    os.chdir(directory)  # before the drop: its parents may be closed to the other user
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    die_with_parent(int(signal), int(parent))
    os.execv(argv[0], argv)  # noqa: S606  the program is one of our own binaries, by full path


if __name__ == "__main__":
    _main(*sys.argv[1:])
