"""The call to the upstream and its answer back, unbuffered."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from yarl import URL

from caracal import telemetry
from caracal.errors import BadInput, CaracalError
from caracal.services.gateway.calls import Call
from caracal.services.gateway.headers import as_text
from caracal.services.gateway.refusals import ClientGone, UpstreamFailed
from caracal.services.gateway.reply import Reply
from caracal.services.gateway.streams import Stream
from caracal.services.gateway.upload import Upload, body_too_large
from caracal.services.response_cycle import CutConnection
from caracal.services.upstream_guard import NotAllowed, UpstreamGuard

logger = logging.getLogger(__name__)

_UNWANTED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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
        self, session: aiohttp.ClientSession, guard: UpstreamGuard, timeout: float
    ) -> None:
        self._session, self._guard, self._timeout = session, guard, timeout

    async def __call__(self, call: Call, upload: Upload, stream: Stream, reply: Reply) -> None:
        """Call the upstream and relay its answer but for its end.

        Raises:
            CaracalError: nothing was sent to the client yet, and this is what to answer.
            ClientGone: nobody is left to answer.
            CutConnection: the answer broke off after its head was sent.
        """
        url = call.url()
        await self._guard.check(url)
        upload.check()
        with telemetry.calling(call.scope["method"], url.host or "", url.port) as span:
            answer = await self._answer(call, url, upload)
            span.answered(answer.status, fails_at=400)
        try:
            stream.endless = answer.content_type == "text/event-stream"
            await _relay(answer, reply)
        except (aiohttp.ClientError, OSError) as error:
            logger.info("request %s: upstream broke off: %s", call.request_id, error)
            raise CutConnection from error
        finally:
            _let_go(answer, upload)

    async def _answer(self, call: Call, url: URL, upload: Upload) -> aiohttp.ClientResponse:
        headers = as_text(call.headers(url))
        data = await upload.data()
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                upload.progress = lambda: self._reschedule(deadline)
                answer = await self._session.request(
                    call.scope["method"], url, headers=headers, data=data, allow_redirects=False
                )
        except (aiohttp.InvalidURL, ValueError):
            raise BadInput("internal_error", "upstream request build failed") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _blame(error, upload) from error
        finally:
            upload.progress = None
        if answer.status < 200:  # 101 to a call that asked for no other protocol
            answer.close()
            raise UpstreamFailed(502, "upstream unreachable")
        return answer

    def _reschedule(self, deadline: asyncio.Timeout) -> None:
        """Let the wait for the answer count from the last piece of the body."""
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + self._timeout)


async def _relay(answer: aiohttp.ClientResponse, reply: Reply) -> None:
    """Relay the head, and the body as it comes."""
    await reply.start(answer.status, answer.raw_headers)
    while chunk := await answer.content.readany():
        await reply.body(chunk)


def _let_go(answer: aiohttp.ClientResponse, upload: Upload) -> None:
    """Keep the connection for other calls if this one is over in both directions."""
    if answer.content.at_eof() and upload.finished:
        answer.release()
    else:
        answer.close()


def _blame(error: BaseException, upload: Upload) -> Exception:
    if upload.too_large:
        return body_too_large()
    return ClientGone() if upload.client_gone else upstream_failure(error)


def upstream_failure(error: BaseException) -> CaracalError:
    """Return what to answer when the upstream could not be called, or did not answer."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, PermissionError) or isinstance(cause, PermissionError | NotAllowed):
        return NotAllowed("refused at the dial")
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFailed(504, "upstream timeout")
    logger.info("upstream unreachable: %s", error)
    return UpstreamFailed(502, "upstream unreachable")
