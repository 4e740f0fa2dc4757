"""WebSockets through the Gateway: checked like any call, then relayed both ways (section 10)."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from caracal import telemetry
from caracal.services.gateway.calls import Call, Calls
from caracal.services.gateway.checks import Known
from caracal.services.gateway.forward import upstream_failure
from caracal.services.gateway.headers import Header, as_text, client_headers
from caracal.services.gateway.refusals import ClientGone, UpstreamFailed
from caracal.services.gateway.streams import GONE, REVOKED, Ended, Stream, Streams
from caracal.services.http import Message, Receive, Scope, Send, request_id_of
from caracal.services.upstream_guard import UpstreamGuard
from caracal.tasks import cancelled

MAX_MESSAGE = 16 * 1024 * 1024
_HANDSHAKE = b"sec-websocket-"  # key, version, extensions: each connection has its own
_HEARTBEAT = 20.0
_CLOSE_SECONDS = 2.0
# RFC 6455, section 7.4.1, and the registry it opened.
_POLICY_VIOLATION, _SERVICE_RESTART, _GOING_AWAY, _INTERNAL = 1008, 1012, 1001, 1011


class Declined(Exception):
    """The upstream answered the handshake with a status of its own."""

    def __init__(self, status: int, headers: list[Header]) -> None:
        super().__init__(status)
        self.status, self.headers = status, headers


class Dial:
    """Opens WebSockets to upstreams."""

    def __init__(
        self, session: aiohttp.ClientSession, guard: UpstreamGuard, timeout: float
    ) -> None:
        self._session, self._guard, self._timeout = session, guard, timeout

    async def __call__(self, call: Call) -> ClientWebSocketResponse:
        """Return an open WebSocket.

        Raises:
            CaracalError: what to answer.
            Declined: the upstream's own answer.
        """
        url = call.url()
        await self._guard.check(url)
        try:
            with telemetry.calling("GET", url.host or "", url.port):
                headers = [line for line in call.headers(url) if not line[0].startswith(_HANDSHAKE)]
                async with asyncio.timeout(self._timeout):
                    return await self._session.ws_connect(
                        url,
                        headers=as_text(headers),
                        protocols=call.scope["subprotocols"],
                        heartbeat=_HEARTBEAT,
                        max_msg_size=MAX_MESSAGE,
                        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                    )
        except aiohttp.WSServerHandshakeError as error:
            raise _declined(error) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise upstream_failure(error) from error


class WebSockets:
    """The ASGI app for every WebSocket handshake."""

    def __init__(self, *, calls: Calls, streams: Streams, dial: Dial) -> None:
        self._calls, self._streams, self._dial = calls, streams, dial

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope)
        self._calls.counters.add("requests_total")
        known = Known()
        try:
            await receive()  # "websocket.connect"
            await self._proxied(scope, receive, send, request_id, known)
        except Exception as error:  # noqa: BLE001 - the last net
            await self._calls.refuse(error, scope, _refusing(send), request_id, known)

    async def _proxied(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, known: Known
    ) -> None:
        checked = await self._calls.check(scope, request_id, known)
        expires_in = checked.inbound.expires_in(time.time())
        relay = _Relay(receive, send)
        with self._streams.under_way() as stream:
            stream.endless = True
            try:
                with stream:
                    # Of MCP no message will be told to policy: it is a call that cannot be read.
                    call = await self._calls.allowed(scope, request_id, checked, stream, None)
                    relay.upstream = await self._dial(call)
                    added = client_headers(
                        (), request_id=request_id, expires_in=expires_in, trails=False
                    )
                    await relay.run(stream, added)
            except Declined as declined:
                added = client_headers(
                    declined.headers, request_id=request_id, expires_in=expires_in, trails=False
                )
                await _decline(_refusing(send), declined.status, added)
            except Ended as ended:
                if not relay.accepted:
                    raise ended.refusal() from None
                await relay.end(ended.why)
            finally:
                await relay.leave()
        self._calls.counters.add("requests_allowed")


class _Relay:
    """Two directions between a client and an upstream."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.upstream: ClientWebSocketResponse | None = None
        self.accepted = False
        self._left = False  # the client has

    async def run(self, stream: Stream, headers: list[Header]) -> None:
        """Accept, and relay until one side closes."""
        assert self.upstream is not None
        accept = {"subprotocol": self.upstream.protocol, "headers": headers}
        await self._tell({"type": "websocket.accept", **accept})
        self.accepted = True
        upward = asyncio.create_task(self._upward(self.upstream, stream))
        try:
            await self._downward(self.upstream)
            if self._left:
                await upward
            else:
                await self._close(_sendable(self.upstream.close_code))
        finally:
            await cancelled(upward)

    async def end(self, why: str) -> None:
        """Close the client's side; authority has ended, or cannot be proven any more."""
        if why != GONE:
            await self._close(_POLICY_VIOLATION if why == REVOKED else _SERVICE_RESTART)

    async def leave(self) -> None:
        """Close the upstream's side, if that has not happened."""
        if self.upstream is not None:
            await self.upstream.close(code=_GOING_AWAY)

    async def _downward(self, upstream: ClientWebSocketResponse) -> None:
        async for message in upstream:
            if message.type is WSMsgType.TEXT:
                await self._tell({"type": "websocket.send", "text": message.data})
            elif message.type is WSMsgType.BINARY:
                await self._tell({"type": "websocket.send", "bytes": message.data})

    async def _upward(self, upstream: ClientWebSocketResponse, stream: Stream) -> None:
        while (message := await self._receive())["type"] == "websocket.receive":
            if stream.ended is not None:
                return
            text = message.get("text")
            if text is not None:
                await upstream.send_str(text)
            else:
                await upstream.send_bytes(message["bytes"])
        self._left = True
        await upstream.close(code=_sendable(message.get("code")))

    async def _close(self, code: int) -> None:
        await self._tell({"type": "websocket.close", "code": code})

    async def _tell(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:  # the server's way to say so
            raise ClientGone from error


def _refusing(send: Send) -> Send:
    """Answer a handshake by HTTP (ASGI extension ``websocket.http.response``)."""

    async def refuse(message: Message) -> None:
        try:
            await send({**message, "type": f"websocket.{message['type']}"})
        except OSError as error:
            raise ClientGone from error

    return refuse


async def _decline(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _declined(error: aiohttp.WSServerHandshakeError) -> Exception:
    """Pass on an upstream's own refusal; its body is lost, and with it what describes it."""
    if error.status < 400:
        return UpstreamFailed(502, "upstream unreachable")
    lines = [(k.encode(), v.encode()) for k, v in (error.headers or {}).items()]
    return Declined(error.status, [line for line in lines if line[0].lower()[:8] != b"content-"])


def _sendable(code: int | None) -> int:
    """RFC 6455, section 7.4.1: some codes only say what was not said."""
    if code is None or code == 1005:
        return 1000
    registered = 1000 <= code <= 1014 and code not in (1004, 1006)
    return code if registered or 3000 <= code < 5000 else _INTERNAL
