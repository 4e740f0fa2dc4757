"""``httpx`` transports that take calls of bound upstreams through the Gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx

from caracal.client.dpop import Known, Prover, challenge_of
from caracal.client.envelope import envelope_headers
from caracal.client.link import origin
from caracal.client.options import check_url
from caracal.client.plan import Walk

_REPLACED = frozenset(
    {
        b"authorization",
        b"baggage",
        b"dpop",
        b"host",
        b"traceparent",
        b"tracestate",
        b"x-caracal-client-id",
        b"x-caracal-resource",
    }
)


@dataclass(frozen=True, slots=True)
class Binding:
    """An upstream as callers know it, and the resource that stands for it.

    Raises:
        ValueError: the prefix is no http or https URL, or the resource no header value.
    """

    prefix: str
    resource: str

    def __post_init__(self) -> None:
        check_url("an upstream prefix", self.prefix)
        sound = self.resource.isascii() and self.resource.isprintable() and self.resource.strip()
        if not sound:
            raise ValueError("a resource must be printable ASCII")

    def rest(self, url: httpx.URL) -> bytes | None:
        """Return path and query of ``url`` below the prefix, as sent; None: it lies elsewhere."""
        if origin(str(url.copy_with(userinfo=b""))) != origin(self.prefix):
            return None
        path, mark, query = url.raw_path.partition(b"?")
        base = httpx.URL(self.prefix).raw_path.rstrip(b"/")
        if not path.startswith(base) or path[len(base) : len(base) + 1] not in (b"", b"/"):
            return None
        return (path[len(base) :] or b"/") + mark + query


class _Need(Enum):
    MANDATE = 1


@dataclass(frozen=True, slots=True)
class _Close:
    answer: httpx.Response


_Passage = Generator[_Need | _Close | httpx.Request, Any, httpx.Response]


class Gate:
    """Where calls of bound upstreams go, and what they carry there. Without I/O.

    The longest prefix counts, at whole path segments. A call that is taken gets the ambient
    mandate, the resource and the envelope, and loses an ``Authorization`` of its own. Others get
    nothing: no token leaves for a host that is not bound.

    Args:
        gateway_url: base of the Gateway.
        bindings: upstream prefix to resource identifier.
        prover: shows the key that the mandate is bound to, for each attempt anew.

    Raises:
        ValueError: a URL or a resource that cannot work.
    """

    def __init__(
        self, gateway_url: str, bindings: Mapping[str, str], prover: Prover | None = None
    ) -> None:
        check_url("gateway_url", gateway_url)
        self._gateway = httpx.URL(gateway_url)
        made = [Binding(prefix.rstrip("/"), resource) for prefix, resource in bindings.items()]
        self._bindings = sorted(made, key=lambda binding: len(binding.prefix), reverse=True)
        self._prover = Prover() if prover is None else prover

    def passage(self, request: httpx.Request) -> _Passage:
        """Yield what is needed and sent for one request; return the answer."""
        for binding in self._bindings:
            rest = binding.rest(request.url)
            if rest is not None:
                return (yield from self._governed(request, binding.resource, rest))
        answer: httpx.Response = yield request
        return answer

    def _governed(self, request: httpx.Request, resource: str, rest: bytes) -> _Passage:
        url = self._gateway.copy_with(raw_path=self._gateway.raw_path.rstrip(b"/") + rest)
        token: str = yield _Need.MANDATE
        used = self._prover.known(str(url))
        answer: httpx.Response = yield self._sent(request, url, resource, token)
        if self._wants_another(answer, used, str(url)) and _is_kept(request):
            yield _Close(answer)
            answer = yield self._sent(request, url, resource, token)
            self._prover.learn(str(url), answer.headers)
        return answer

    def _wants_another(self, answer: httpx.Response, used: Known, url: str) -> bool:
        """Learn from an answer; say whether the call may succeed with another proof."""
        self._prover.learn(url, answer.headers)  # its Date is the upstream's
        return answer.status_code == 401 and self._prover.can_do_better(
            used, url, challenge_of(answer.headers)
        )

    def _sent(
        self, request: httpx.Request, url: httpx.URL, resource: str, token: str
    ) -> httpx.Request:
        headers = {
            **self._prover.shown(request.method, str(url), token),
            "X-Caracal-Resource": resource,
            **envelope_headers(request.headers.raw),
        }
        kept = [pair for pair in request.headers.raw if pair[0].lower() not in _REPLACED]
        ours = [(name.encode(), value.encode()) for name, value in headers.items()]
        return httpx.Request(
            request.method,
            url,
            headers=[(b"Host", url.netloc), *kept, *ours],
            stream=request.stream,
            extensions=request.extensions,
        )


def _is_kept(request: httpx.Request) -> bool:
    """Tell whether the body can be sent once more: a stream of the caller's cannot."""
    return isinstance(request.stream, httpx.ByteStream)


class GatewayTransport(httpx.AsyncBaseTransport):
    """Sends what is for a bound upstream through the Gateway, everything else as it is.

    Args:
        gate: where to.
        token: gives the ambient mandate.
        inner: what sends; closed with this transport.
    """

    def __init__(
        self,
        gate: Gate,
        token: Callable[[], Awaitable[str]],
        inner: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._gate, self._token = gate, token
        self._inner = httpx.AsyncHTTPTransport(trust_env=False) if inner is None else inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            AdminApiError: the STS gave no token.
            AdminTransportError: the STS did not answer.
            CaracalError: ``hop_limit_exceeded``.
        """
        walk = Walk(self._gate.passage(request))
        for step in walk:
            walk.sent(await self._outcome(step))
        return walk.result

    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()

    async def _outcome(self, step: _Need | _Close | httpx.Request) -> Any:
        match step:
            case _Need.MANDATE:
                return await self._token()
            case _Close(answer):
                return await answer.aclose()
            case httpx.Request():
                return await self._inner.handle_async_request(step)


class SyncGatewayTransport(httpx.BaseTransport):
    """``GatewayTransport`` for ``httpx.Client``; threads may share it."""

    def __init__(
        self, gate: Gate, token: Callable[[], str], inner: httpx.BaseTransport | None = None
    ) -> None:
        self._gate, self._token = gate, token
        self._inner = httpx.HTTPTransport(trust_env=False) if inner is None else inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises as ``GatewayTransport`` does."""
        walk = Walk(self._gate.passage(request))
        for step in walk:
            walk.sent(self._outcome(step))
        return walk.result

    def close(self) -> None:
        """Close what sends."""
        self._inner.close()

    def _outcome(self, step: _Need | _Close | httpx.Request) -> Any:
        match step:
            case _Need.MANDATE:
                return self._token()
            case _Close(answer):
                return answer.close()
            case httpx.Request():
                return self._inner.handle_request(step)
