"""Both clients behind one face, so that each test is written once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Literal

import httpx

from caracal.client import AdminClient, AsyncAdminClient

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
Handler = Callable[[httpx.Request], httpx.Response]

API, COORDINATOR = "http://api", "http://coord"
CONFIGURED = {
    "api_url": API,
    "admin_token": "t",
    "coordinator_url": COORDINATOR,
    "coordinator_token": "c",
}


class Script:
    """A server that answers what it is told, in order, and keeps what it was asked."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]


class Client:
    """A client of either kind; what it gives is awaited, or run on a thread."""

    def __init__(self, kind: Kind, handler: Handler | None = None, **options: Any) -> None:
        self.kind = kind
        self.cancel: threading.Event | asyncio.Event
        options = {**CONFIGURED, **options}
        transport = httpx.MockTransport(handler) if handler else None
        if kind == "sync":
            self.cancel = threading.Event()
            http = httpx.Client(transport=transport) if transport else None
            self.client: Any = AdminClient(http_client=http, cancel=self.cancel, **options)
        else:
            self.cancel = asyncio.Event()
            later = httpx.AsyncClient(transport=transport) if transport else None
            self.client = AsyncAdminClient(http_client=later, cancel=self.cancel, **options)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the method; what ``iter`` gives is gathered."""
        method = attrgetter(name)(self.client)
        if name.endswith("iter"):
            if self.kind == "sync":
                return await asyncio.to_thread(lambda: list(method(*args, **kwargs)))
            return [item async for item in method(*args, **kwargs)]
        if self.kind == "sync":
            return await asyncio.to_thread(method, *args, **kwargs)
        return await method(*args, **kwargs)

    async def close(self) -> None:
        if self.kind == "sync":
            self.client.close()
        else:
            await self.client.aclose()


def ok(body: Any, **headers: str) -> httpx.Response:
    """An answer; ``Retry_After`` names the header ``Retry-After``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, json=body, headers=named)


def refused(status: int, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body or {"error": "no"}, headers=named)


def again(times: int, status: int = 503) -> Iterable[httpx.Response]:
    """Answers that ask to be tried again at once."""
    return (refused(status, Retry_After="0") for _ in range(times))
