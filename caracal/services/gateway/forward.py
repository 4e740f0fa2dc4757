"""The call to the upstream and its answer back: unbuffered, and raced by revocation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from caracal.errors import BadInput, CaracalError
from caracal.services.gateway.bearer import session_revoked
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.credential import PROVIDER_MODES, credential_headers
from caracal.services.gateway.headers import as_text, client_headers, may_trail, upstream_headers
from caracal.services.gateway.paths import upstream_url
from caracal.services.gateway.streams import STOPPED, Stream
from caracal.services.gateway.upload import Upload, body_too_large
from caracal.services.http import Receive, Scope, Send
from caracal.services.response_cycle import CutConnection
from caracal.services.upstream_guard import NotAllowed, UpstreamGuard
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

_UNWANTED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class UpstreamFailed(CaracalError):
    """502 or 504: the call was allowed, and the upstream did not answer it."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__("internal_error", description)
        self.status = status


class ClientGone(Exception):
    """499: nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One allowed call, ready to go."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    upload: Upload
    stream: Stream
    directive: Mapping[str, Any]
    mandate: str
    expires_in: int

    @property
    def method(self) -> str:
        """Return the request's method."""
        return str(self.scope["method"])


def upstream_session(guard: UpstreamGuard) -> aiohttp.ClientSession:
    """Return the client for upstreams: checked addresses, nothing added, nothing followed."""
    return aiohttp.ClientSession(
        connector=guard.connector(limit=0, limit_per_host=200, keepalive_timeout=90),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_UNWANTED,
        trust_env=False,
        max_line_size=16_384,
        max_field_size=32_768,
    )


class Forwarder:
    """Sends allowed calls on."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        guard: UpstreamGuard,
        counters: Counters,
        timeout: float,
    ) -> None:
        self._session, self._guard = session, guard
        self._counters, self._timeout = counters, timeout

    async def __call__(self, call: Call) -> None:
        """Call the upstream and relay its answer.

        Raises:
            CaracalError: nothing was sent to the client yet, and this is what to answer.
            ClientGone: nobody is left to answer.
            CutConnection: the answer broke off after its head was sent.
        """
        url = upstream_url(
            call.directive["url"], call.scope["raw_path"], call.scope["query_string"]
        )
        await self._guard.check(url)
        call.upload.check()
        answer = await self._answer(call, url)
        call.stream.on_end(answer.close)
        try:
            if call.stream.ended is not None:
                raise session_revoked()
            await self._relay(call, answer)
        finally:
            answer.close() if not answer.content.at_eof() else answer.release()

    async def _answer(self, call: Call, url: URL) -> aiohttp.ClientResponse:
        try:
            data = await call.upload.data()
            headers = as_text(_headers(call, url))
            async with asyncio.timeout(self._timeout) as deadline:
                call.upload.keep_alive(deadline, self._timeout)
                return await self._session.request(
                    call.method, url, headers=headers, data=data, allow_redirects=False
                )
        except TimeoutError:
            raise UpstreamFailed(504, "upstream timeout") from None
        except ConnectionError:
            raise ClientGone from None
        except aiohttp.InvalidURL:
            raise BadInput("internal_error", "upstream request build failed") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error, call.upload) from error

    async def _relay(self, call: Call, answer: aiohttp.ClientResponse) -> None:
        trails = may_trail(call.method, answer.status, call.scope["http_version"])
        headers = client_headers(
            answer.raw_headers,
            request_id=call.request_id,
            expires_in=call.expires_in,
            trails=trails,
        )
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await call.send({**start, "trailers": trails})
        await _body(call, answer)
        if call.stream.ended == STOPPED or (call.stream.ended and not trails):
            raise CutConnection
        await call.send({"type": "http.response.body", "body": b"", "more_body": False})
        if trails:
            ended = call.stream.ended
            why = [(ended, b"true")] if ended else []
            await call.send({"type": "http.response.trailers", "headers": why})
        self._counters.add("requests_allowed")


async def _body(call: Call, answer: aiohttp.ClientResponse) -> None:
    """Relay the body as it comes, until its end or the call's."""
    watching: asyncio.Task[None] | None = None
    try:
        while True:
            chunk = await answer.content.readany()
            if call.stream.ended is not None or not chunk:
                return
            await call.send({"type": "http.response.body", "body": chunk, "more_body": True})
            if watching is None and call.upload.finished and not answer.content.at_eof():
                watching = asyncio.create_task(_close_when_gone(call, answer))
    except (aiohttp.ClientError, OSError) as error:
        if call.stream.ended is None:
            logger.info("request %s: upstream broke off: %s", call.request_id, error)
            raise CutConnection from error
    finally:
        if watching is not None:
            await cancelled(watching)


async def _close_when_gone(call: Call, answer: aiohttp.ClientResponse) -> None:
    """An idle upstream would not tell that nobody listens any more."""
    with suppress(asyncio.CancelledError):
        while (await call.receive())["type"] != "http.disconnect":
            pass
        answer.close()


def _headers(call: Call, url: URL) -> list[tuple[bytes, bytes]]:
    mode = call.directive.get("auth_mode")
    client = call.scope.get("client") or ("", 0)
    return upstream_headers(
        call.scope["headers"],
        credential=credential_headers(call.directive, call.mandate, url.raw_host or ""),
        provider_mode=mode in PROVIDER_MODES,
        request_id=call.request_id,
        client_ip=client[0],
        scheme=call.scope["scheme"],
    )


def _failure(error: BaseException, upload: Upload) -> Exception:
    if upload.too_large:
        return body_too_large()
    if upload.client_gone:
        return ClientGone()
    cause = error.__cause__ or error.__context__
    if isinstance(error, PermissionError) or isinstance(cause, PermissionError | NotAllowed):
        return NotAllowed("refused at the dial")
    logger.info("upstream unreachable: %s", error)
    return UpstreamFailed(502, "upstream unreachable")
