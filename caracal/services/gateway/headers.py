"""What passes the Gateway in a header, in either direction (contract, sections 7 and 10).

Header lists are pairs of bytes; names in lower case on the way in, as ASGI gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caracal import telemetry
from caracal.trace import foreign_baggage, kept_traceparent, new_traceparent

Header = tuple[bytes, bytes]

TRAILERS = b"X-Caracal-Revoked, X-Caracal-Stale"

# RFC 9110, section 7.6.1, and what precedes it in practice.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
# Expect has been answered here already: the body is read from the client when it is sent on.
_REQUEST_DROPPED = _HOP_BY_HOP | {
    b"authorization",
    b"dpop",
    b"caracal-min-position",
    b"expect",
    b"forwarded",
    b"host",
    b"x-real-ip",
    b"x-request-id",
    # Some servers act on these in place of the method, path or address that policy judged.
    b"true-client-ip",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
}
_REQUEST_PREFIXES = (b"x-caracal-", b"x-forwarded-")
_READ = (b"traceparent", b"tracestate", b"baggage")
_RESPONSE_DROPPED = _HOP_BY_HOP | {
    b"x-request-id",
    b"x-caracal-identity",
    b"x-caracal-token-expires-in",
    b"x-caracal-revoked",
    b"x-caracal-stale",
}


def upstream_headers(
    inbound: Iterable[Header],
    *,
    credential: Sequence[Header],
    provider_mode: bool,
    request_id: str,
    client_ip: str,
    scheme: str,
) -> list[Header]:
    """Return the headers of the call to the upstream; ``Host`` is left to the HTTP client.

    Args:
        inbound: of the client's request, names in lower case.
        credential: what :func:`~caracal.services.gateway.credential.credential_headers` made;
            takes the place of the client's own headers of these names.
        provider_mode: the credential is a provider's; Caracal's baggage stays inside.
        request_id: sent on as ``X-Request-Id``, and the source of a missing ``traceparent``.
        client_ip: address of the peer, the whole of ``X-Forwarded-For``.
        scheme: ``http`` or ``https`` of the inbound connection.
    """
    pairs = list(inbound)
    dropped = _REQUEST_DROPPED.union(_named_by_connection(pairs), (n for n, _ in credential))
    sent: list[Header] = []
    read: dict[bytes, list[bytes]] = {name: [] for name in _READ}
    host = b""
    for name, value in pairs:
        if name in read:
            read[name].append(value)
        elif name == b"host":
            host = host or value
        else:
            # CGI and its heirs read "_" as "-": neither spelling may pass for ours.
            plain = name.replace(b"_", b"-")
            if plain not in dropped and not plain.startswith(_REQUEST_PREFIXES):
                sent.append((name, value))
    sent += _context(read, request_id, provider_mode)
    sent += (
        (b"x-request-id", request_id.encode()),
        (b"x-forwarded-for", client_ip.encode()),
        (b"x-forwarded-proto", scheme.encode()),
        *credential,
    )
    if host:
        sent.append((b"x-forwarded-host", host))
    return sent


def _context(read: dict[bytes, list[bytes]], request_id: str, provider_mode: bool) -> list[Header]:
    kept = kept_traceparent(read[b"traceparent"])
    context = [(b"traceparent", kept or _begun(request_id))]
    if kept:  # W3C Trace Context, section 3.3: no tracestate without its traceparent
        context += [(b"tracestate", value) for value in read[b"tracestate"]]
    if not provider_mode:
        context += [(b"baggage", value) for value in read[b"baggage"]]
    elif baggage := foreign_baggage(read[b"baggage"]):
        context.append((b"baggage", baggage))
    return context


def _begun(request_id: str) -> bytes:
    """Return the ``traceparent`` of a trace that begins here; of our span, if there is one."""
    here = telemetry.traceparent() if telemetry.is_on() else None
    return f"{here[:-2]}01".encode() if here else new_traceparent(request_id)


def may_trail(method: str, status: int, http_version: str) -> bool:
    """Whether an answer can end in trailers: it may carry a body, and chunks frame it."""
    return http_version == "1.1" and method != "HEAD" and status >= 200 and status not in (204, 304)


def client_headers(
    upstream: Iterable[Header], *, request_id: str, expires_in: int, trails: bool
) -> list[Header]:
    """Return the headers of the answer to the client, repeated ones kept apart.

    Args:
        upstream: of the upstream's answer, names in any case.
        request_id: takes the place of the upstream's ``X-Request-Id``.
        expires_in: whole seconds left of the inbound bearer.
        trails: :func:`may_trail`; trailers need chunks, and chunks no ``Content-Length``.
    """
    pairs = [(name.lower(), value) for name, value in upstream]
    dropped = _RESPONSE_DROPPED.union(_named_by_connection(pairs))
    if trails:
        dropped |= {b"content-length"}
    sent = [
        (name, value)
        for name, value in pairs
        if name not in dropped and not name.startswith(b"caracal-")
    ]
    sent.append((b"x-request-id", request_id.encode()))
    sent.append((b"x-caracal-token-expires-in", b"%d" % max(0, expires_in)))
    if trails:
        sent.append((b"trailer", TRAILERS))
    return sent


def as_text(headers: Iterable[Header]) -> list[tuple[str, str]]:
    """Return ``headers`` for aiohttp, which writes text as UTF-8; other bytes as Latin-1."""
    return [(name.decode("ascii"), _text(value)) for name, value in headers]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named_by_connection(pairs: Iterable[Header]) -> set[bytes]:
    return {
        token.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for token in value.split(b",")
    }
