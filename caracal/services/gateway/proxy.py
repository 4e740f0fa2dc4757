"""A proxied call from its door to its end: the checks of the contract, section 4, in order."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from caracal.errors import CaracalError
from caracal.mandate import Claims
from caracal.projections.memory import Row
from caracal.services.consistency import lagging, min_position
from caracal.services.gateway.admission import Inbound, admit
from caracal.services.gateway.bearer import Bearers, session_revoked, stale
from caracal.services.gateway.call_context import MAX_MCP_BODY, call_context
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.exchange import Exchange, ExchangeRefused
from caracal.services.gateway.forward import Call, ClientGone, Forwarder
from caracal.services.gateway.metadata import base_url, metadata_url
from caracal.services.gateway.paths import check_path
from caracal.services.gateway.refusals import Denied, Undeliverable
from caracal.services.gateway.streams import Streams
from caracal.services.gateway.upload import Upload
from caracal.services.gateway.view import GatewayView
from caracal.services.http import (
    Header,
    Receive,
    Scope,
    Send,
    as_caracal_error,
    request_id_of,
    respond_error,
)
from caracal.services.response_cycle import CutConnection

logger = logging.getLogger(__name__)

_MIN_POSITION_SECONDS = 2.0


@dataclass(slots=True)
class _Known:
    """What is known of a call so far, for the answer of a refusal."""

    zone_id: str | None = None
    resource: str | None = None
    exchanged: bool = False


class Proxy:
    """The ASGI app for every path that is not the Gateway's own."""

    def __init__(
        self,
        *,
        view: GatewayView,
        bearers: Bearers,
        exchange: Exchange,
        streams: Streams,
        forward: Forwarder,
        counters: Counters,
        gateway_url: str,
        max_request_bytes: int,
    ) -> None:
        self._view, self._bearers, self._exchange = view, bearers, exchange
        self._streams, self._forward, self._counters = streams, forward, counters
        self._gateway_url, self._max_request_bytes = gateway_url, max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        self._counters.add("requests_total")
        known = _Known()
        try:
            await self._proxied(scope, receive, send, request_id, known)
        except CutConnection:
            self._counters.add("upstream_errors")
            raise
        except (ClientGone, ConnectionError):
            logger.info("request %s: client gone", request_id)
        except Exception as error:  # noqa: BLE001 - the last net: a body, not a trace
            refusal = as_caracal_error(error)
            self._count(refusal, known)
            await respond_error(send, refusal, request_id, self._extra(scope, refusal, known))

    async def _proxied(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, known: _Known
    ) -> None:
        inbound = admit(scope["headers"], time.time())
        known.zone_id, known.resource = inbound.zone_id, inbound.resource
        if (position := min_position(scope)) is not None:
            await self._reach(position)
        resource = await self._routable(inbound)
        check_path(scope["raw_path"])
        claims, anchors = await self._bearers.check(inbound, resource["identifier"], request_id)
        upload = Upload(scope, receive, self._max_request_bytes)
        form = await self._form(scope, inbound, resource, claims, upload)
        granted = await self._exchange(form, request_id)
        known.exchanged = True
        with self._streams.under_way(anchors.union(granted.anchors)) as stream:
            if stream.ended is not None:
                raise session_revoked()
            await self._forward(
                Call(
                    scope=scope,
                    receive=receive,
                    send=send,
                    request_id=request_id,
                    upload=upload,
                    stream=stream,
                    directive=granted.upstream,
                    mandate=granted.mandate,
                    expires_in=inbound.expires_in(time.time()),
                )
            )

    async def _reach(self, position: int) -> None:
        if not await self._view.following.reach(position, _MIN_POSITION_SECONDS):
            raise lagging()

    async def _routable(self, inbound: Inbound) -> Row:
        """Return the resource; unknown is a refusal only at the log's head."""
        row = self._view.routable(inbound.zone_id, inbound.resource)
        if row is None and await self._view.following.probe():
            row = self._view.routable(inbound.zone_id, inbound.resource)
        if row is None and self._view.stale:
            raise stale()
        if row is None:
            raise Denied(403, "access_denied", "resource not configured", "denials_binding")
        return row

    async def _form(
        self, scope: Scope, inbound: Inbound, resource: Row, claims: Claims, upload: Upload
    ) -> dict[str, str | None]:
        """Return the exchange's fields; hints of ``baggage`` name no agent that we know yet."""
        body = await upload.whole(MAX_MCP_BODY) if resource["protocol"] == "mcp" else None
        challenge_id, response = inbound.challenge or (None, None)
        path = scope["raw_path"].decode("latin-1")
        return {
            "subject_token": inbound.token,
            "zone_id": inbound.zone_id,
            "application_id": resource["gateway_application_id"] or str(claims.get("client_id")),
            "resource": inbound.resource,
            "scope": inbound.scope,
            "challenge_id": challenge_id,
            "challenge_response": response,
            "call_context": call_context(scope["method"], path, body or None),
        }

    def _count(self, refusal: CaracalError, known: _Known) -> None:
        if isinstance(refusal, Denied):
            self._counters.add(refusal.counter)
        elif isinstance(refusal, ExchangeRefused) or refusal.code == "sts_unavailable":
            self._counters.add("sts_exchange_errors")
        elif known.exchanged:
            self._counters.add("upstream_errors")
            if isinstance(refusal, Undeliverable):
                logger.warning("not delivered: %s", refusal.reason)
        else:
            self._counters.add("requests_denied")

    def _extra(self, scope: Scope, refusal: CaracalError, known: _Known) -> list[Header]:
        headers: list[Header] = []
        if isinstance(refusal, ExchangeRefused) and refusal.retry_after is not None:
            headers.append((b"retry-after", refusal.retry_after.encode("latin-1")))
        if refusal.status == 401:
            base = base_url(scope, self._gateway_url)
            headers.append((b"www-authenticate", _challenge(refusal, base, known)))
        return headers


def _challenge(refusal: CaracalError, base: str, known: _Known) -> bytes:
    """Return how to authenticate (RFC 6750, section 3; RFC 9728, section 5.1)."""
    url = metadata_url(base, known.zone_id, known.resource)
    parts = [f'Bearer resource_metadata="{url}"']
    if refusal.code == "interaction_required":
        parts.append('error="interaction_required"')
    return ", ".join(parts).encode("latin-1", "replace")
