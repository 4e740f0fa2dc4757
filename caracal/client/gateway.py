"""An ``httpx`` transport that takes calls of bound upstreams through the Gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from caracal.client.envelope import envelope_headers
from caracal.client.link import origin
from caracal.client.options import check_url

_REPLACED = frozenset(
    {
        b"authorization",
        b"baggage",
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


class GatewayTransport(httpx.AsyncBaseTransport):
    """Sends what is for a bound upstream through the Gateway, everything else as it is.

    The longest prefix counts, at whole path segments. A call that is taken gets the ambient
    mandate, the resource and the envelope, and loses an ``Authorization`` of its own. Others get
    nothing: no token leaves for a host that is not bound.

    Args:
        gateway_url: base of the Gateway.
        bindings: upstream prefix to resource identifier.
        token: gives the ambient mandate.
        inner: what sends; closed with this transport.

    Raises:
        ValueError: a URL or a resource that cannot work.
    """

    def __init__(
        self,
        gateway_url: str,
        bindings: Mapping[str, str],
        token: Callable[[], Awaitable[str]],
        inner: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_url("gateway_url", gateway_url)
        self._gateway = httpx.URL(gateway_url)
        made = [Binding(prefix.rstrip("/"), resource) for prefix, resource in bindings.items()]
        self._bindings = sorted(made, key=lambda binding: len(binding.prefix), reverse=True)
        self._token = token
        self._inner = httpx.AsyncHTTPTransport(trust_env=False) if inner is None else inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            AdminApiError: the STS gave no token.
            AdminTransportError: the STS did not answer.
            CaracalError: ``hop_limit_exceeded``.
        """
        for binding in self._bindings:
            rest = binding.rest(request.url)
            if rest is not None:
                request = await self._governed(request, binding.resource, rest)
                break
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()

    async def _governed(self, request: httpx.Request, resource: str, rest: bytes) -> httpx.Request:
        base = self._gateway.raw_path.rstrip(b"/")
        url = self._gateway.copy_with(raw_path=base + rest)
        headers = {
            "Authorization": f"Bearer {await self._token()}",
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
