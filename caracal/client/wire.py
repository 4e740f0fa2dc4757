"""Between the core's values and httpx: what both drivers need of it."""

from __future__ import annotations

import httpx

from caracal.client.answer import Answer, Failed
from caracal.client.core import Attempt

MAX_ANSWER_BYTES = 64 << 20
"""A longer body is not read to its end, and is no usable answer."""


def built(
    http: httpx.Client | httpx.AsyncClient, attempt: Attempt, seconds: float
) -> httpx.Request:
    """Return the request of an attempt; a client that the caller gave adds headers of its own."""
    return http.build_request(
        attempt.method,
        attempt.url,
        headers=dict(attempt.headers),
        content=attempt.content,
        timeout=seconds,
    )


def wanted(response: httpx.Response, attempt: Attempt) -> bool:
    """Tell whether the body is read: every refusal's is, a success's when it means something.

    A 204 has none (RFC 9110, section 15.3.5): reading to its end lets the connection live on.
    """
    return attempt.reads or not response.is_success or response.status_code == 204


class Body:
    """A body as it comes in, of bounded size."""

    def __init__(self) -> None:
        self.complete = True
        self._parts: list[bytes] = []
        self._left = MAX_ANSWER_BYTES

    def add(self, part: bytes) -> bool:
        """Take the next part; False when there is no room for more."""
        self._parts.append(part[: self._left])
        self._left -= len(part)
        self.complete = self._left >= 0
        return self.complete

    def answer(self, response: httpx.Response) -> Answer:
        """Return what came back as the core knows it."""
        return Answer(
            response.status_code,
            response.reason_phrase,
            response.headers,
            b"".join(self._parts),
            self.complete,
        )


def failed(error: httpx.RequestError) -> Failed:
    """Return a transport error as the core knows it."""
    return Failed(error, timed_out=isinstance(error, httpx.TimeoutException))
