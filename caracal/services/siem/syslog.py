"""Sink: syslog over TLS (RFC 5424 in the frames of RFC 5425, section 4.3: octet counting).

The protocol has no acknowledgement. So records count as handed over when the receiver's kernel has
acknowledged every byte; what it had not read when it died is lost there, as RFC 5425 says.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Sequence

from caracal import clock
from caracal.services.siem.blocking import BlockingSink
from caracal.services.siem.record import Record

PORT = 6514
_AUDIT = 13 * 8  # facility "log audit" (RFC 5424, section 6.2.1)
_WARNING, _INFORMATIONAL = 4, 6
_UNFIT = re.compile(r"[^!-~]")
_LOOK_SECONDS = 0.005
_READS = 16


def message(record: Record, host: str, process: int) -> bytes:
    """Return a record as a syslog message in its frame."""
    priority = _AUDIT + (_WARNING if record.denied else _INFORMATIONAL)
    head = (
        f"<{priority}>1 {clock.rfc3339(record.moment)} {_word(host, 255)} caracal {process}"
        f" {_word(record.kind, 32)} - "
    )
    line = head.encode() + record.body
    return b"%d %s" % (len(line), line)


def _word(text: str, size: int) -> str:
    """Return a text as a header's field has it: printable ASCII, no space."""
    return _UNFIT.sub("_", text)[:size] or "-"


class Syslog(BlockingSink):
    """Writes to one receiver, on a connection that is opened when it is needed."""

    def __init__(self, host: str, port: int, *, timeout: float, tls: ssl.SSLContext) -> None:
        """``timeout`` in seconds: to connect, and to write a batch."""
        super().__init__()
        self._host, self._port, self._timeout, self._tls = host, port, timeout, tls
        self._us = socket.gethostname()
        self._line: ssl.SSLSocket | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Write a batch, and wait until the receiver's kernel has it."""
        line = self._connected()
        line.sendall(b"".join(message(record, self._us, os.getpid()) for record in records))
        until = time.monotonic() + self._timeout
        while _unacknowledged(line):
            if time.monotonic() >= until:
                raise TimeoutError("the receiver does not take it")
            time.sleep(_LOOK_SECONDS)
        if self._has_gone(line):
            raise ConnectionResetError("the receiver has gone")

    def _connected(self) -> ssl.SSLSocket:
        if self._line is not None and self._has_gone(self._line):
            self.let_go()
        if self._line is None:
            plain = socket.create_connection((self._host, self._port), self._timeout)
            try:
                self._line = self._tls.wrap_socket(plain, server_hostname=self._host)
            except BaseException:
                plain.close()
                raise
        return self._line

    def _has_gone(self, line: ssl.SSLSocket) -> bool:
        """Say whether the receiver has closed: it would take what is written without a word.

        What it says otherwise (tickets of TLS 1.3) is read past.
        """
        line.setblocking(False)
        try:
            return any(not line.recv(4096) for _ in range(_READS))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            return True
        finally:
            line.settimeout(self._timeout)

    def let_go(self) -> None:
        """Drop the connection; the next batch opens one."""
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _unacknowledged(line: socket.socket) -> int:
    """Return how many bytes the receiver's kernel has not acknowledged."""
    if sys.platform != "linux":
        return 0  # no other system tells
    left = fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", left)[0])
