"""One streaming tool call over a bare socket, to see what HTTP clients hide: the trailers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

_READ = 65536  # bytes


def tool_call(tool: str, arguments: dict[str, Any], *, progress: bool = False) -> dict[str, Any]:
    """Return the message that calls ``tool`` and, with ``progress``, asks to be told of it."""
    params = {"name": tool, "arguments": arguments}
    if progress:
        params["_meta"] = {"progressToken": 1}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@dataclass
class Stream:
    """A response as it came over the wire, so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended_at: float = 0.0
    """``time.perf_counter`` when its last byte was read."""
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def notifications(self) -> int:
        """How many progress notifications have come."""
        return self.body.count(b"notifications/progress")

    def take(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        """Note what ``event`` brings."""
        match event:
            case h11.Response():
                self.status, self.headers = event.status_code, _text(event.headers)
            case h11.Data():
                self.body += bytes(event.data)
                self.flowing.set()
            case h11.EndOfMessage():
                self.trailers, self.ended_at = _text(event.headers), time.perf_counter()


async def read_stream(
    stream: Stream, url: str, headers: dict[str, str], message: dict[str, Any]
) -> None:
    """POST ``message`` to the http ``url`` and read the answer into ``stream`` until it ends.

    Raises:
        h11.RemoteProtocolError: the connection was cut without an end of the body.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        connection = h11.Connection(h11.CLIENT)
        writer.write(_request(connection, parts.netloc, parts.path, headers, message))
        await _read(connection, reader, stream)
    finally:
        writer.close()


def _request(
    connection: h11.Connection,
    host: str,
    path: str,
    headers: dict[str, str],
    message: dict[str, Any],
) -> bytes:
    body = json.dumps(message).encode()
    sent = {
        "Host": host,
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    request = h11.Request(method="POST", target=path, headers=list(sent.items()))
    parts = (request, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(connection.send(part) or b"" for part in parts)


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, stream: Stream) -> None:
    while connection.their_state not in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        else:
            stream.take(event)


def _text(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers}
