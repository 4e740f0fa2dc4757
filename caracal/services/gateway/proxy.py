"""A proxied request from its door to its end."""

from __future__ import annotations

import logging
import time

from caracal.errors import MethodNotAllowed
from caracal.services.gateway.call_context import MAX_MCP_BODY, is_plain
from caracal.services.gateway.calls import Calls
from caracal.services.gateway.checks import Known
from caracal.services.gateway.forward import Forwarder
from caracal.services.gateway.reply import Reply
from caracal.services.gateway.streams import GONE, Ended, Streams
from caracal.services.gateway.upload import Upload
from caracal.services.http import Receive, Scope, Send, request_id_of
from caracal.services.response_cycle import CutConnection

logger = logging.getLogger(__name__)


class Proxy:
    """The ASGI app for every HTTP request that is not the Gateway's own."""

    def __init__(
        self, *, calls: Calls, streams: Streams, forward: Forwarder, max_request_bytes: int
    ) -> None:
        self._calls, self._streams, self._forward = calls, streams, forward
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        self._calls.counters.add("requests_total")
        known = Known()
        try:
            await self._proxied(scope, receive, send, request_id, known)
        except CutConnection:
            raise
        except Exception as error:  # noqa: BLE001 - the last net
            await self._calls.refuse(error, scope, send, request_id, known)

    async def _proxied(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, known: Known
    ) -> None:
        if scope["method"] == "TRACE":  # it hands back what it got: the mandate (RFC 9110, 9.3.8)
            raise MethodNotAllowed("method_not_allowed", "TRACE is not passed on")
        checked = await self._calls.check(scope, request_id, known)
        upload = Upload(scope, receive, self._max_request_bytes)
        reply = Reply(scope, send, request_id, checked.inbound.expires_in(time.time()))
        with self._streams.under_way() as stream, upload.watched(lambda: stream.end(GONE)):
            try:
                with stream:
                    mcp = checked.resource["protocol"] == "mcp"
                    body = await upload.whole(MAX_MCP_BODY) if mcp else b""
                    if mcp and not is_plain(scope["headers"]):
                        body = None
                    call = await self._calls.allowed(scope, request_id, checked, stream, body)
                    await self._forward(call, upload, stream, reply)
                    await reply.finish()
            except Ended as ended:
                if not reply.started:
                    raise ended.refusal() from None
                await reply.finish(ended.why)
            except CutConnection:
                self._calls.counters.add("upstream_errors")
                raise
            except Exception as error:
                if reply.started:  # too late for another answer
                    logger.exception("request %s cut", request_id)
                    raise CutConnection from error
                raise
        self._calls.counters.add("requests_allowed")
