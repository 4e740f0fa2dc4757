"""Signed Gateway calls: every part of the text counts, in time, all headers or none."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.errors import Unauthenticated
from caracal.services.gateway_signature import MAX_SKEW, sign, verify

KEY = bytes(range(32))
NOW = 1_700_000_000.5
CALL = {"request_id": "req-1", "method": "POST", "path": "/oauth/2/token", "body": b"a=1&b=2"}


def lower(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


SIGNED = lower(sign(KEY, now=NOW, **CALL))  # type: ignore[arg-type]


def check(headers: list[tuple[bytes, bytes]], **changes: object) -> str | None:
    call = {"key": KEY, "now": NOW, **CALL, **changes}
    key = call.pop("key")
    return verify(key, headers, **call)  # type: ignore[arg-type]


def test_text_is_the_contract_s() -> None:
    headers = dict(SIGNED)
    digest = hashlib.sha256(b"a=1&b=2").hexdigest()
    nonce = headers[b"x-caracal-gateway-request"].decode()
    text = f"1700000000\n{nonce}\nreq-1\nPOST\n/oauth/2/token\n{digest}"
    assert headers[b"x-caracal-gateway-timestamp"] == b"1700000000"
    expected = hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()
    assert headers[b"x-caracal-gateway-signature"].decode() == expected
    assert len(bytes.fromhex(nonce)) == 16
    assert check([(b"accept", b"*/*"), *SIGNED]) == nonce


def test_nonce_is_fresh() -> None:
    assert len({sign(KEY, now=NOW, **CALL)["X-Caracal-Gateway-Request"] for _ in range(99)}) == 99  # type: ignore[arg-type]


def test_ordinary_call_is_none() -> None:
    assert check([(b"authorization", b"Bearer x")]) is None
    assert check([], key=None) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(32)},
        {"key": None},
        {"request_id": "req-2"},
        {"method": "GET"},
        {"path": "/oauth/2/token/"},
        {"body": b"a=1&b=3"},
        {"body": b""},
        {"now": NOW + MAX_SKEW + 1},
        {"now": NOW - MAX_SKEW - 1},
    ],
)
def test_any_other_call_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        check(SIGNED, **changes)
    assert refused.value.code == "access_denied"


@pytest.mark.parametrize("skew", [-59, 59])
def test_skew_of_a_minute_passes(skew: int) -> None:
    assert check(SIGNED, now=NOW + skew)


@pytest.mark.parametrize(
    "keep", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2, 2], [0, 0, 1, 2]]
)
def test_part_of_the_headers_or_one_twice_is_refused(keep: list[int]) -> None:
    with pytest.raises(Unauthenticated):
        check([SIGNED[n] for n in keep])


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"\xff" * 32, "\u0661\u0667".encode(), b"1e9"])
def test_malformed_values_are_refused(at: int, value: bytes) -> None:
    headers = list(SIGNED)
    headers[at] = (headers[at][0], value)
    with pytest.raises(Unauthenticated):
        check(headers)


@given(st.binary(max_size=99), st.text(max_size=20), st.integers(0, 10**11))
def test_what_is_signed_verifies(body: bytes, path: str, now: int) -> None:
    call = {**CALL, "body": body, "path": path}
    headers = lower(sign(KEY, now=now, **call))  # type: ignore[arg-type]
    assert check(headers, body=body, path=path, now=now)
    with pytest.raises(Unauthenticated):
        check(headers, body=body + b"x", path=path, now=now)
