"""What goes wrong on the agents' side, over real sockets and by Ctrl-C: both clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from caracal.client import AdminApiError, AdminTransportError, Caracal, SyncCaracal
from caracal.foreign_jwt import taken_apart
from tests.client.both import Kind
from tests.client.faulty import Behaviour, answer, dripping, faulty, raw, reset, silent
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

LIMIT = 30.0  # s, for what takes none
NOW = "Retry-After: 0"
TOKEN = {"access_token": "t.o.k", "token_type": "DPoP", "expires_in": 3600}
ISSUED = answer("200 OK", orjson.dumps(TOKEN), "DPoP-Nonce: next")
BUSY = answer("503 Service Unavailable", b'{"error":"unavailable"}', NOW)
ASKS = answer("400 Bad Request", b'{"error":"use_dpop_nonce"}', "DPoP-Nonce: n1")
TWO = answer("400 Bad Request", b'{"error":"use_dpop_nonce"}', "DPoP-Nonce: a", "DPoP-Nonce: b")
SLOW = dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
CUT = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


@dataclass(frozen=True)
class Case:
    """Behaviours of the STS, one a connection; the nonces that it is sent; what comes of it."""

    behaviours: tuple[Behaviour, ...]
    nonces: tuple[str | None, ...] | None  # None: it may not even have read them
    error: tuple[type[Exception], str] | None = None
    timeout_ms: int = 10_000


LOST, SAID = AdminTransportError, AdminApiError
CASES = {
    "reset": Case((reset, ISSUED), (None, None)),
    "busy": Case((BUSY, ISSUED), (None, None)),
    "asks, then is gone": Case((ASKS, reset, ISSUED), (None, "n1", "n1")),
    "gone, then asks": Case((reset, ASKS, ISSUED), (None, None, "n1")),
    "asks again": Case((ASKS, ASKS), (None, "n1"), (SAID, "use_dpop_nonce")),
    "asks by two nonces": Case((TWO,), (None,), (SAID, "use_dpop_nonce")),
    "silent": Case((silent, silent), None, (LOST, "admin_request_timeout"), 200),
    "drips": Case((SLOW, SLOW), None, (LOST, "admin_request_timeout"), 200),
    "cut off": Case((CUT, CUT), (None, None), (LOST, "admin_request_failed")),
    "no HTTP": Case((raw(b"SSH-2.0\r\n"),) * 2, (None, None), (LOST, "admin_request_failed")),
    "no token": Case((answer("200 OK", b"{}"),), (None,), (SAID, "invalid_response")),
}


def options(url: str, **more: Any) -> dict[str, Any]:
    return {
        "zone_id": "z",
        "application_id": "app",
        "client_secret": "SECRET",
        "sts_url": url,
        "coordinator_url": url,
        "resources": ["r"],
        "dpop": True,
        "retries": 1,
        **more,
    }


async def token_of(kind: Kind, given: dict[str, Any]) -> str:
    if kind == "async":
        async with Caracal(**given) as caracal:
            return await caracal.tokens.token()

    def fetched() -> str:
        with SyncCaracal(**given) as caracal:
            return caracal.tokens.token()

    return await asyncio.to_thread(fetched)


@pytest.mark.parametrize("name", CASES)
async def test_an_sts_that_fails(kind: Kind, name: str) -> None:
    case = CASES[name]
    async with faulty(*case.behaviours) as server:
        given = options(server.url, timeout_ms=case.timeout_ms)
        if case.error is None:
            assert await token_of(kind, given) == "t.o.k"
        else:
            error, code = case.error
            with pytest.raises(error, match=code) as raised:
                await token_of(kind, given)
            assert "SECRET" not in f"{raised.value!r} {raised.value.__cause__!r}"
        if case.nonces is not None:
            assert tuple(map(nonce_in, server.seen)) == case.nonces


def nonce_in(head: str) -> str | None:
    (line,) = (line for line in head.split("\r\n") if line.lower().startswith("dpop:"))
    proof = taken_apart(line.partition(":")[2].strip(), ("dpop+jwt",))
    assert proof is not None
    nonce = proof.claims.get("nonce")
    return None if nonce is None else str(nonce)


def test_ctrl_c() -> None:
    file = Path(__file__).with_name("ctrl_c.py")
    variables = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=variables,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
