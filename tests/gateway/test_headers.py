"""Headers in both directions: what is the hop's stays, what is ours cannot be forged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.services.gateway.headers import (
    Header,
    as_text,
    client_headers,
    may_trail,
    upstream_headers,
)

CREDENTIAL = [(b"authorization", b"Bearer mandate")]
TRACE = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
SET = [
    (b"x-request-id", b"req-1"),
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"x-forwarded-proto", b"https"),
    (b"authorization", b"Bearer mandate"),
    (b"x-forwarded-host", b"gw.example"),
]


def up(
    *inbound: Header, credential: list[Header] = CREDENTIAL, provider: bool = False
) -> list[Header]:
    return upstream_headers(
        [(b"host", b"gw.example"), (b"traceparent", TRACE), *inbound],
        credential=credential,
        provider_mode=provider,
        request_id="req-1",
        client_ip="192.0.2.7",
        scheme="https",
    )


def test_what_is_set() -> None:
    assert up() == [(b"traceparent", TRACE), *SET]


NOT_UP = ["connection", "proxy-connection", "keep-alive", "proxy-authenticate", "te", "trailer"]
NOT_UP += ["proxy-authorization", "transfer-encoding", "upgrade", "http2-settings", "expect"]
NOT_UP += ["authorization", "x-caracal-resource", "x-caracal-client-id", "x-caracal-scope"]
NOT_UP += ["x-caracal-challenge-response", "x-caracal-identity", "x-caracal-anything"]
NOT_UP += ["caracal-min-position", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]
NOT_UP += ["x-forwarded-prefix", "forwarded", "x-real-ip", "x-request-id", "host"]
NOT_UP += ["x-http-method-override", "x_http_method", "x-method-override", "x-original-url"]
NOT_UP += ["x-rewrite-url", "true-client-ip"]
NOT_UP += ["x_caracal_identity", "x-caracal_identity", "x_forwarded_for", "x_real_ip"]


@pytest.mark.parametrize("name", NOT_UP)
def test_what_does_not_pass_to_the_upstream(name: str) -> None:
    assert up((name.encode(), b"forged")) == up()


@pytest.mark.parametrize(
    "header",
    [
        (b"accept", b"text/event-stream"),
        (b"content-length", b"7"),
        (b"content-type", b"application/json"),
        (b"cookie", b"a=1"),
        (b"mcp-session-id", b"m"),
        (b"last-event-id", b"9"),
        (b"x-caracalla", b"baths"),
        (b"x_custom", b"1"),
        (b"te-deum", b"1"),
        (b"user-agent", b"caf\xe9"),
    ],
)
def test_what_passes_to_the_upstream(header: Header) -> None:
    assert up(header) == [header, *up()]


def test_headers_named_by_connection_end_here() -> None:
    passed = up(
        (b"connection", b"close, X-Secret ,"),
        (b"x-secret", b"1"),
        (b"connection", b"x-other"),
        (b"x-other", b"2"),
        (b"x-third", b"3"),
    )
    assert passed == [(b"x-third", b"3"), *up()]


def test_connection_cannot_strip_what_is_set_here() -> None:
    assert up((b"connection", b"authorization, x-request-id, traceparent, host")) == up()


def test_credential_takes_the_place_of_the_client_s_own_header() -> None:
    key = [(b"x-api-key", b"real"), (b"x-caracal-identity", b"mandate")]
    passed = up((b"x-api-key", b"forged"), (b"x_api_key", b"forged"), credential=key)
    assert [value for name, value in passed if b"key" in name] == [b"real"]
    assert (b"x-caracal-identity", b"mandate") in passed
    assert not any(name == b"authorization" for name, _ in passed)


def test_baggage_stays_inside_for_providers() -> None:
    sent = (b"baggage", b"caracal.agent_session=s1, a=1 ;p=2 ,b=%20")
    assert sent in up(sent)
    assert (b"baggage", b" a=1 ;p=2 ,b=%20") in up(sent, provider=True)
    assert up((b"baggage", b"caracal.hop=1"), provider=True) == up()


def test_tracestate_goes_with_its_traceparent_only() -> None:
    state = (b"tracestate", b"v=1")
    assert state in up(state)
    made = upstream_headers(
        [(b"traceparent", b"nonsense"), state],
        credential=CREDENTIAL,
        provider_mode=False,
        request_id="req-1",
        client_ip="::1",
        scheme="http",
    )
    assert state not in made
    assert dict(made)[b"traceparent"].startswith(b"00-")
    assert b"x-forwarded-host" not in dict(made)


NAMES = [b"x-caracal-identity", b"x_caracal_identity", b"authorization", b"cookie", b"connection"]
NAMES += [b"x-forwarded-for", b"te", b"accept", b"x-real-ip", b"forwarded"]
VALUES = [b"cookie", b"accept, x-request-id", b"authorization", b"1"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))))
def test_nothing_forged_whatever_the_mixture(inbound: list[Header]) -> None:
    passed = up(*inbound)
    assert passed[-len(SET) :] == SET
    for name, _ in passed[: -len(SET)]:
        assert name in (b"cookie", b"accept", b"traceparent")
    named = {n for name, v in inbound if name == b"connection" for n in v.split(b", ")}
    kept = [h for h in inbound if h[0] in (b"cookie", b"accept") and h[0] not in named]
    assert [h for h in passed if h[0] in (b"cookie", b"accept")] == kept


def down(*upstream: Header, trails: bool = True, expires_in: int = 99) -> list[Header]:
    return client_headers(upstream, request_id="req-1", expires_in=expires_in, trails=trails)


def test_what_is_added_to_the_answer() -> None:
    assert down() == [
        (b"x-request-id", b"req-1"),
        (b"x-caracal-token-expires-in", b"99"),
        (b"trailer", b"X-Caracal-Revoked, X-Caracal-Stale"),
    ]
    assert (b"x-caracal-token-expires-in", b"0") in down(expires_in=-3)


NOT_DOWN = ["Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "TE", "Trailer"]
NOT_DOWN += ["Transfer-Encoding", "Upgrade", "X-Caracal-Identity", "X-Caracal-Revoked"]
NOT_DOWN += ["X-Caracal-Stale", "X-Caracal-Token-Expires-In", "Caracal-Position", "X-Request-Id"]
NOT_DOWN += ["Caracal-Consistency", "Content-Length"]


@pytest.mark.parametrize("name", NOT_DOWN)
def test_what_does_not_pass_to_the_client(name: str) -> None:
    assert down((name.encode(), b"7")) == down()


def test_repeated_and_encoded_headers_pass_as_they_are() -> None:
    sent = [
        (b"Set-Cookie", b"a=1; Path=/"),
        (b"Set-Cookie", b"b=2, c"),
        (b"Content-Encoding", b"gzip"),
        (b"WWW-Authenticate", b"Basic"),
        (b"Location", b"https://elsewhere.example/"),
    ]
    assert down(*sent) == [(name.lower(), value) for name, value in sent] + down()


def test_length_stays_where_there_are_no_chunks() -> None:
    passed = down((b"Content-Length", b"7"), trails=False)
    assert (b"content-length", b"7") in passed
    assert b"trailer" not in dict(passed)


def test_headers_named_by_the_upstream_s_connection_end_here() -> None:
    assert down((b"Connection", b"X-Hop"), (b"X-Hop", b"1")) == down()


@pytest.mark.parametrize(
    ("method", "status", "version", "trails"),
    [
        ("GET", 200, "1.1", True),
        ("POST", 500, "1.1", True),
        ("GET", 206, "1.1", True),
        ("HEAD", 200, "1.1", False),
        ("GET", 204, "1.1", False),
        ("GET", 304, "1.1", False),
        ("GET", 103, "1.1", False),
        ("GET", 200, "1.0", False),
    ],
)
def test_may_trail(method: str, status: int, version: str, trails: bool) -> None:
    assert may_trail(method, status, version) is trails


def test_as_text_is_what_aiohttp_writes_back_as_the_same_bytes() -> None:
    assert as_text([(b"a", b"plain"), (b"b", "é".encode())]) == [("a", "plain"), ("b", "é")]
    assert as_text([(b"c", b"caf\xe9")]) == [("c", "café")]
