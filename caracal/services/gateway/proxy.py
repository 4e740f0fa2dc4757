"""A proxied request from its door to its end."""

from __future__ import annotations

import logging
import time

from caracal.services.gateway.answers import count, refusal_headers
from caracal.services.gateway.call_context import MAX_MCP_BODY, call_context
from caracal.services.gateway.checks import Checked, Checks, Known
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.exchange import Exchange
from caracal.services.gateway.forward import Call, Forwarder
from caracal.services.gateway.refusals import ClientGone
from caracal.services.gateway.reply import Reply
from caracal.services.gateway.streams import GONE, Ended, Stream, Streams
from caracal.services.gateway.upload import Upload
from caracal.services.http import (
    Receive,
    Scope,
    Send,
    as_caracal_error,
    error_body,
    request_id_of,
    respond,
)
from caracal.services.response_cycle import CutConnection

logger = logging.getLogger(__name__)


class Proxy:
    """The ASGI app for every path that is not the Gateway's own."""

    def __init__(
        self,
        *,
        checks: Checks,
        exchange: Exchange,
        streams: Streams,
        forward: Forwarder,
        counters: Counters,
        gateway_url: str,
        max_request_bytes: int,
    ) -> None:
        self._checks, self._exchange, self._streams = checks, exchange, streams
        self._forward, self._counters = forward, counters
        self._gateway_url, self._max_request_bytes = gateway_url, max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        self._counters.add("requests_total")
        known = Known()
        try:
            await self._proxied(scope, receive, send, request_id, known)
        except CutConnection:
            raise
        except ClientGone:
            logger.info("request %s: client gone", request_id)
        except Exception as error:  # noqa: BLE001 - the last net: a body, not a trace
            refusal = as_caracal_error(error)
            count(self._counters, refusal, known)
            headers = refusal_headers(scope, refusal, known, self._gateway_url)
            headers.append((b"x-request-id", request_id.encode()))
            await respond(send, refusal.status, error_body(refusal, request_id), headers)

    async def _proxied(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, known: Known
    ) -> None:
        checked = await self._checks(scope, request_id, known)
        upload = Upload(scope, receive, self._max_request_bytes)
        reply = Reply(scope, send, request_id, checked.inbound.expires_in(time.time()))
        with self._streams.under_way() as stream, upload.watched(lambda: stream.end(GONE)):
            try:
                with stream:
                    call = await self._allowed(scope, request_id, checked, upload, stream)
                    await self._forward(call, upload, stream, reply)
                    await reply.finish()
            except Ended as ended:
                if not reply.started:
                    raise ended.refusal() from None
                await reply.finish(ended.why)
            except CutConnection:
                self._counters.add("upstream_errors")
                raise
            except Exception as error:
                if reply.started:  # too late for another answer
                    logger.exception("request %s cut", request_id)
                    raise CutConnection from error
                raise
        self._counters.add("requests_allowed")

    async def _allowed(
        self, scope: Scope, request_id: str, checked: Checked, upload: Upload, stream: Stream
    ) -> Call:
        """Exchange the bearer; whatever ends it or the mandate from now on ends the call."""
        stream.hang_on(checked.anchors)
        mcp = checked.resource["protocol"] == "mcp"
        body = await upload.whole(MAX_MCP_BODY) if mcp else None
        context = call_context(scope["method"], scope["path"], body, mcp=mcp)
        granted = await self._exchange(exchange_form(checked, context), request_id)
        stream.hang_on(granted.anchors)
        return Call(scope, request_id, granted.upstream, granted.mandate)


def exchange_form(checked: Checked, context: str) -> dict[str, str | None]:
    """Return the exchange's fields; hints of ``baggage`` name no agent that we know yet."""
    inbound = checked.inbound
    challenge_id, response = inbound.challenge or (None, None)
    return {
        "subject_token": inbound.token,
        "zone_id": inbound.zone_id,
        "application_id": checked.application_id,
        "resource": inbound.resource,
        "scope": inbound.scope,
        "challenge_id": challenge_id,
        "challenge_response": response,
        "call_context": context,
    }
