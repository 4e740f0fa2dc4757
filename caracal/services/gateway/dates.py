"""The ``Date`` of answers that have none (RFC 9110, section 6.6.1): our own, and forwarded ones."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache

from caracal.services.http import App, Message, Receive, Scope, Send


def dated(app: App) -> App:
    """Return ``app`` with a date on each answer; the upstream's own stays as it is."""

    async def with_dates(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if not any(name == b"date" for name, _ in headers):
                    message = {**message, "headers": [*headers, (b"date", _date(int(time.time())))]}
            await send(message)

        await app(scope, receive, send_dated if scope["type"] == "http" else send)

    return with_dates


@lru_cache(maxsize=1)
def _date(unix: int) -> bytes:
    return formatdate(unix, usegmt=True).encode()
