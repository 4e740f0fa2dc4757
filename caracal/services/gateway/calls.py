"""From a request to a call that may be made, or to the answer that refuses it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from caracal import telemetry
from caracal.services.gateway.answers import count, refusal_headers
from caracal.services.gateway.call_context import call_context
from caracal.services.gateway.checks import Checked, Checks, Known
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.credential import PROVIDER_MODES, credential_headers
from caracal.services.gateway.exchange import Exchange
from caracal.services.gateway.headers import Header, upstream_headers
from caracal.services.gateway.paths import upstream_url
from caracal.services.gateway.refusals import ClientGone
from caracal.services.gateway.streams import Stream
from caracal.services.http import Scope, Send, as_caracal_error, error_body, respond

logger = logging.getLogger(__name__)

_FORWARDED_PROTO = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Call:
    """One allowed call, ready to go."""

    scope: Scope
    request_id: str
    directive: Mapping[str, Any]
    mandate: str

    def url(self) -> URL:
        """Return where it goes.

        Raises:
            BadInput: 400, no URL can be made.
        """
        scope = self.scope
        return upstream_url(self.directive["url"], scope["raw_path"], scope["query_string"])

    def headers(self, url: URL) -> list[Header]:
        """Return what goes with it.

        Raises:
            Undeliverable: 502, the credential cannot be sent.
        """
        client = self.scope.get("client") or ("", 0)
        scheme: str = self.scope["scheme"]
        return upstream_headers(
            self.scope["headers"],
            credential=credential_headers(self.directive, self.mandate, url.raw_host or ""),
            provider_mode=self.directive.get("auth_mode") in PROVIDER_MODES,
            request_id=self.request_id,
            client_ip=client[0],
            scheme=_FORWARDED_PROTO.get(scheme, scheme),
        )


class Calls:
    """What calls of every kind have in common."""

    def __init__(
        self, *, checks: Checks, exchange: Exchange, counters: Counters, gateway_url: str
    ) -> None:
        self.check, self._exchange = checks, exchange
        self.counters, self._gateway_url = counters, gateway_url

    async def allowed(
        self,
        scope: Scope,
        request_id: str,
        checked: Checked,
        stream: Stream,
        body: bytes | None = b"",
    ) -> Call:
        """Exchange the bearer; whatever ends it or the mandate from now on ends the call.

        Args:
            scope: of the request.
            request_id: of the request.
            checked: rows 1-12 are behind it, but for revocation.
            stream: is to hang on all anchors.
            body: of an MCP call, as far as it is told to policy; None: too long to be read.

        Raises:
            CaracalError: what to answer.
            Ended: by a revocation.
        """
        stream.hang_on(checked.anchors)
        self.check.note_use(checked)
        telemetry.note(zone_id=checked.inbound.zone_id, resource_id=checked.resource["id"])
        mcp = checked.resource["protocol"] == "mcp"
        method, path, raw_path = scope.get("method", "GET"), scope["path"], scope["raw_path"]
        context = call_context(method, path, body, mcp=mcp, raw_path=raw_path)
        granted = await self._exchange(_form(checked, context), request_id, checked.position)
        stream.hang_on(granted.anchors)
        return Call(scope, request_id, granted.upstream, granted.mandate)

    async def refuse(
        self, error: Exception, scope: Scope, send: Send, request_id: str, known: Known
    ) -> None:
        """Answer what has failed: a body, not a trace; nothing to a client that has gone."""
        if isinstance(error, ClientGone):
            logger.info("request %s: client gone", request_id)
            return
        refusal = as_caracal_error(error)
        count(self.counters, refusal, known)
        headers = refusal_headers(scope, refusal, known, self._gateway_url)
        headers.append((b"x-request-id", request_id.encode()))
        await respond(send, refusal.status, error_body(refusal, request_id), headers)


def _form(checked: Checked, context: str) -> dict[str, str | None]:
    """Return the exchange's fields."""
    inbound = checked.inbound
    challenge_id, response = inbound.challenge or (None, None)
    return {
        "subject_token": inbound.token,
        "zone_id": inbound.zone_id,
        "application_id": checked.application_id,
        "resource": inbound.resource,
        "scope": inbound.scope,
        "agent_session_id": checked.acts_as.agent_session_id,
        "delegation_edge_id": checked.acts_as.delegation_edge_id,
        "challenge_id": challenge_id,
        "challenge_response": response,
        "call_context": context,
        "dpop_jkt": checked.jkt,
    }
