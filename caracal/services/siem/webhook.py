"""Sink: batches by HTTPS. JSON lines, or the HTTP Event Collector of Splunk."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence

import httpx

from caracal import clock
from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away, Refused

_ABOUT_THE_CALL = frozenset({401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429})
"""Refusals that no other record would change: a wrong token or URL, too many calls."""
_SHORT = 65_536
_LONGEST_WAIT = 300.0  # s, whatever the sink asks for


def _lines(records: Sequence[Record]) -> bytes:
    return b"".join(record.body + b"\n" for record in records)


def _collected(records: Sequence[Record]) -> bytes:
    return b"\n".join(
        b'{"time":%.3f,"source":"caracal","sourcetype":"caracal:ocsf","event":%s}'
        % (record.moment.timestamp(), record.body)
        for record in records
    )


_FORMS: Mapping[str, tuple[str, str, Callable[[Sequence[Record]], bytes]]] = {
    "jsonl": ("Bearer", "application/x-ndjson", _lines),
    "hec": ("Splunk", "application/json", _collected),
}


class Webhook:
    """Posts each batch to one URL; follows no redirect, believes nothing but the status."""

    def __init__(
        self, url: str, *, token: str, form: str, timeout: float, tls: ssl.SSLContext
    ) -> None:
        """``form``: ``jsonl`` or ``hec``; ``timeout`` in seconds, of one call."""
        for name in ("httpx", "httpcore"):  # they tell URLs, which may hold a key
            logging.getLogger(name).setLevel(logging.WARNING)
        scheme, content, self._body = _FORMS[form]
        self._url, self._timeout = url, timeout
        self._headers = {"Content-Type": content, "User-Agent": "caracal"}
        if token:
            self._headers["Authorization"] = f"{scheme} {token}"
        self._client = httpx.AsyncClient(verify=tls, timeout=timeout, follow_redirects=False)

    async def send(self, records: Sequence[Record]) -> None:
        """Post a batch."""
        body = self._body(records)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    "POST", self._url, content=body, headers=self._headers
                ) as answer,
            ):
                status, wait = answer.status_code, answer.headers.get("Retry-After", "")
                await _read_past(answer)
        except httpx.ConnectError as error:  # what the system or TLS said: no URL, no token
            raise Away(f"ConnectError: {error}") from error
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            raise Away(type(error).__name__) from error
        judge(status, wait)

    def reopen(self) -> None:
        """Do nothing: each call stands alone."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _read_past(answer: httpx.Response) -> None:
    """Read a short body, so that the connection may be used again."""
    size = 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > _SHORT:
            return


def judge(status: int, wait: str = "") -> None:
    """Say what a status means (RFC 9110, section 15); ``wait`` is its ``Retry-After``.

    Raises:
        Refused: it is about the records.
        Away: it is about the call, or the sink itself.
    """
    if 200 <= status < 300:
        return
    if 400 <= status < 500 and status not in _ABOUT_THE_CALL:
        raise Refused(f"sink_refused:{status}")
    raise Away(f"status {status}", seconds_of(wait))


def seconds_of(wait: str) -> float:
    """Return a ``Retry-After`` in seconds, a number or a date (RFC 9110, section 10.2.3)."""
    if wait.strip().isascii() and wait.strip().isdigit():
        return min(float(wait.strip()[:6]), _LONGEST_WAIT)
    try:
        moment = email.utils.parsedate_to_datetime(wait)
    except (ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        return 0.0
    return min(max(0.0, (moment - clock.now()).total_seconds()), _LONGEST_WAIT)
