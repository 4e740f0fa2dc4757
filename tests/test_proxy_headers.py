"""Whose address a service sees behind a proxy."""

from __future__ import annotations

from typing import Any

import pytest

from caracal.services.proxy_headers import behind_proxy, is_local
from caracal.services.run import _config
from tests.api.running import settings

PEER = ("10.0.0.9", 4711)


async def seen(app: Any, *headers: tuple[bytes, bytes]) -> tuple[str, str]:
    """Return address and scheme of a request as ``app`` hands it on."""
    scope = {"type": "http", "client": PEER, "scheme": "http", "headers": headers}
    await app(scope, None, None)
    return scope["client"][0], str(scope["scheme"])  # type: ignore[return-value]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that only looks."""


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([b"203.0.113.7"], "203.0.113.7"),
        ([b"127.0.0.1, 203.0.113.7"], "203.0.113.7"),
        ([b"127.0.0.1", b"203.0.113.7"], "203.0.113.7"),
        ([b"203.0.113.7:8080"], "203.0.113.7"),
        ([b"[2001:DB8::1]:443"], "2001:db8::1"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"127.0.0.1, unknown"], PEER[0]),
        ([b"203.0.113.7,"], PEER[0]),
        ([b"1.2.3"], PEER[0]),
        ([b"fe80::1%x\r\n"], PEER[0]),
        ([b"\xff" * 10_000], PEER[0]),
        ([], PEER[0]),
    ],
)
async def test_only_the_last_entry_is_the_proxys_word(lines: list[bytes], address: str) -> None:
    headers = [(b"x-forwarded-for", line) for line in lines]
    assert await seen(behind_proxy(nothing), *headers) == (address, "http")


@pytest.mark.parametrize(
    ("value", "scheme"), [(b"https", "https"), (b"http, HTTPS", "https"), (b"gopher", "http")]
)
async def test_the_scheme_is_one_of_two(value: bytes, scheme: str) -> None:
    assert await seen(behind_proxy(nothing), (b"x-forwarded-proto", value)) == (PEER[0], scheme)


@pytest.mark.parametrize(("trust", "address"), [("true", "203.0.113.7"), ("false", PEER[0])])
async def test_it_is_believed_when_the_settings_say_so(trust: str, address: str) -> None:
    config = _config(
        nothing, settings("worker", "postgresql://x/x", "redis://x", TRUST_PROXY=trust)
    )
    config.load()
    headers = [(b"x-forwarded-for", b"127.0.0.1, 203.0.113.7")]
    assert (await seen(config.loaded_app, *headers))[0] == address


@pytest.mark.parametrize(
    ("peer", "headers", "trusted", "local"),
    [
        ("127.0.0.1", {}, False, True),
        ("127.9.9.9", {}, False, True),
        ("::1", {}, False, True),
        ("::ffff:127.0.0.1", {}, False, True),
        ("10.0.0.9", {}, False, False),
        ("::ffff:10.0.0.9", {}, False, False),
        ("/run/socket", {}, False, False),
        ("127.0.0.1", {b"x-forwarded-for": b"127.0.0.1"}, False, False),
        ("127.0.0.1", {b"forwarded": b"for=127.0.0.1"}, True, False),
        ("127.0.0.1", {b"x-forwarded-for": b"127.0.0.1"}, True, True),
        ("127.0.0.1", {b"x-forwarded-for": b"unknown"}, True, False),
        ("127.0.0.1", {b"x-forwarded-for": b"203.0.113.7"}, True, False),
        ("10.0.0.9", {b"x-forwarded-for": b"127.0.0.1"}, True, False),
    ],
)
async def test_local_is_who_is_on_this_machine_and_speaks_for_nobody_else(
    peer: str, headers: dict[bytes, bytes], trusted: bool, local: bool
) -> None:
    scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": [*headers.items()]}
    await (behind_proxy(nothing) if trusted else nothing)(scope, None, None)  # type: ignore[arg-type]
    assert is_local(scope) is local


def test_a_peer_without_address_is_not_local() -> None:
    assert not is_local({"client": None, "headers": []})
