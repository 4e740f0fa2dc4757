"""Sink: syslog over TLS (RFC 5424 in the frames of RFC 5425, section 4.3: octet counting).

The protocol has no acknowledgement. So records count as handed over when the receiver's kernel has
acknowledged every byte; what it had not read when it died is lost there, as RFC 5425 says.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Sequence

from caracal import clock
from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away

PORT = 6514
_AUDIT = 13 * 8  # facility "log audit" (RFC 5424, section 6.2.1)
_WARNING, _INFORMATIONAL = 4, 6
_UNFIT = re.compile(r"[^!-~]")
_LOOK_SECONDS = 0.01


def message(record: Record, host: str, process: int) -> bytes:
    """Return a record as a syslog message in its frame."""
    severity = _WARNING if record.denied else _INFORMATIONAL
    name, kind = (
        _UNFIT.sub("_", text)[:size] or "-" for text, size in ((host, 255), (record.kind, 32))
    )
    head = (
        f"<{_AUDIT + severity}>1 {clock.rfc3339(record.moment)} {name} caracal {process} {kind} - "
    )
    line = head.encode() + record.body
    return b"%d %s" % (len(line), line)


class Syslog:
    """Writes to one receiver, on a connection that is opened when it is needed."""

    def __init__(self, host: str, port: int, *, timeout: float, tls: ssl.SSLContext) -> None:
        """``timeout`` in seconds: for the connection, and for a batch."""
        self._host, self._port, self._timeout, self._tls = host, port, timeout, tls
        self._us = socket.gethostname()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Write a batch, and wait until the receiver's kernel has it."""
        frames = b"".join(message(record, self._us, os.getpid()) for record in records)
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await self._connected()
                writer.write(frames)
                await writer.drain()
                await _received(reader, writer)
        except (OSError, TimeoutError) as error:
            self.reopen()
            raise Away(type(error).__name__) from error

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and self._streams[0].at_eof():
            self.reopen()  # a receiver that has gone takes what is written without a word
        if self._streams is None:
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            writer.transport.set_write_buffer_limits(0)  # so that drain means: the kernel has it
            self._streams = reader, writer
        return self._streams

    def reopen(self) -> None:
        """Drop the connection; the next batch opens one."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def close(self) -> None:
        """Drop the connection."""
        self.reopen()


async def _received(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until nothing that was written is unacknowledged.

    Raises:
        ConnectionError: the receiver has closed the connection meanwhile.
    """
    while True:
        if reader.at_eof() or writer.is_closing():
            raise ConnectionResetError("the receiver has gone")
        if not _unacknowledged(writer):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    if sys.platform != "linux":
        return 0  # no other system tells
    left = fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", left)[0])
