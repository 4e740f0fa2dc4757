"""What protects the control plane before any route decides: limits, headers, silence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from caracal import __version__
from caracal.ids import log_key
from caracal.services.api import view
from caracal.services.api.app import create_app
from caracal.services.api.limits import Window
from caracal.services.proxy_headers import behind_proxy
from tests.api.running import OPERATOR, Plane, plane, served, settings
from tests.api.test_admin_tokens import error_of

BEARER = {"Authorization": f"Bearer {OPERATOR}"}
NO_TOKEN = {"Authorization": ""}
HARDENING = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
LARGE = b'{"name": "' + b"a" * 2**20 + b'"}'
ANSWERS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "/v1/zones", {}),
    (201, "POST", "/v1/zones", {"json": {"name": "a"}}),
    (400, "POST", "/v1/zones", {"json": {}}),
    (400, "GET", "/v1/zones", {"headers": {"Caracal-Min-Position": "x"}}),
    (401, "GET", "/v1/zones", {"headers": NO_TOKEN}),
    (401, "OPTIONS", "/v1/zones", {"headers": NO_TOKEN}),
    (404, "GET", "/v1/zones/unknown", {}),
    (404, "GET", "/nothing", {"headers": NO_TOKEN}),
    (404, "GET", "/v1", {"headers": NO_TOKEN}),
    (405, "PUT", "/v1/zones", {}),
    (405, "OPTIONS", "/v1/zones", {}),
    (405, "PROPFIND", "/v1/zones", {}),
    (405, "POST", "/health", {}),
    (413, "POST", "/v1/zones", {"content": LARGE}),
    (503, "GET", "/v1/zones", {"headers": {"Caracal-Min-Position": "9" * 18}}),
    (200, "GET", "/health", {"headers": NO_TOKEN}),
    (200, "GET", "/ready", {"headers": NO_TOKEN}),
    (200, "GET", "/metrics", {"headers": NO_TOKEN}),
    (200, "GET", "/openapi.json", {"headers": NO_TOKEN}),
    (200, "GET", "/docs", {"headers": NO_TOKEN}),
]


@pytest.mark.parametrize(("status", "method", "path", "more"), ANSWERS)
async def test_every_answer_has_the_headers(
    api: Plane, status: int, method: str, path: str, more: dict[str, Any]
) -> None:
    answer = await api.client.request(method, path, **more)
    assert answer.status_code == status
    assert HARDENING.items() <= dict(answer.headers).items()
    assert answer.headers["x-request-id"]
    assert ("allow" in answer.headers) == (status == 405)
    assert ("retry-after" in answer.headers) == (status == 503)
    if status >= 400:
        assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_deleted_too(api: Plane) -> None:
    answer = await api.call("DELETE", f"/zones/{await api.zone()}")
    assert answer.status_code == 204
    assert HARDENING.items() <= dict(answer.headers).items()


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(TRACE, TRACE), (f"{TRACE}-x", None), ("x", None), (TRACE.upper(), None), ("", None)],
)
async def test_the_trace_is_kept_with_the_event(api: Plane, given: str, kept: str | None) -> None:
    headers = {"traceparent": given, "X-Request-Id": "the-request"}
    made = await api.call("POST", "/zones", {"name": "a"}, headers=headers)
    async with api.database() as db:
        statement = "SELECT state FROM log WHERE aggregate_key = %s"
        row = await (await db.execute(statement, (log_key(made.json()["id"]),))).fetchone()
    assert row is not None
    meta = orjson.loads(bytes(row[0]))["meta"]
    assert (meta.get("traceparent"), meta["request_id"]) == (kept, "the-request")


async def test_a_body_without_declared_length_is_limited_too(api: Plane) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 2**15

    answer = await api.client.post("/v1/zones", content=chunks())
    assert error_of(answer) == (413, "payload_too_large")


def limited(answer: httpx.Response) -> bool:
    """Check that a refusal is the limit's, and says when to try again."""
    if answer.status_code != 429:
        return False
    assert answer.json()["error"] == "rate_limited"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    return True


async def test_requests_are_limited_by_address_and_actor(api: Plane) -> None:
    given = {"API_V1_RATE_LIMIT_PER_MIN": "5"}
    async with plane(api.database_url, api.redis_url, api.log, **given) as narrow:
        answers = [await narrow.call("GET", "/zones") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert limited(answers[-1])
        token = await narrow.token("global")
        other = [await narrow.call("GET", "/zones", headers=token) for _ in range(6)]
        assert [answer.status_code for answer in other] == [200] * 5 + [429]
        for path in ("/health", "/openapi.json"):
            assert (await narrow.client.get(path)).status_code == 200


async def test_failed_authentications_are_limited_by_address(api: Plane) -> None:
    given = {"ADMIN_AUTH_FAIL_LIMIT_PER_MIN": "3"}
    async with plane(api.database_url, api.redis_url, api.log, **given) as narrow:
        assert (await narrow.call("GET", "/zones")).status_code == 200
        for number in range(5):  # addresses that a caller makes up change nothing
            headers = {"Authorization": "Bearer guess", "X-Forwarded-For": f"203.0.113.{number}"}
            answer = await narrow.client.get("/v1/zones", headers=headers)
            assert answer.status_code == (401 if number < 3 else 429)
        assert limited(answer)
        assert limited(await narrow.call("GET", "/zones"))  # a right guess is not told apart


@asynccontextmanager
async def proxied(api: Plane) -> AsyncIterator[httpx.AsyncClient]:
    """The control plane as it runs with ``TRUST_PROXY``, behind a proxy on this machine."""
    given = settings(
        "api",
        api.database_url,
        api.redis_url,
        TRUST_PROXY="true",
        ADMIN_AUTH_FAIL_LIMIT_PER_MIN="3",
        READY_RATE_LIMIT_PER_MIN="2",
        CARACAL_LOCAL_BOOTSTRAP_ENABLED="true",
    )
    async with (
        served(behind_proxy(create_app(given))) as url,
        httpx.AsyncClient(base_url=url, headers=BEARER) as client,
    ):
        yield client


async def test_behind_a_trusted_proxy_the_client_is_limited(api: Plane) -> None:
    async with proxied(api) as client:

        async def ask(address: str, path: str = "/v1/zones", **headers: str) -> httpx.Response:
            given = {"X-Forwarded-For": f"10.9.9.9, {address}", **headers}
            return await client.get(path, headers=given)

        for _ in range(3):
            answer = await ask("203.0.113.7", Authorization="Bearer guess")
            assert answer.status_code == 401
        assert limited(await ask("203.0.113.7"))
        assert (await ask("203.0.113.8")).status_code == 200
        for _ in range(2):
            assert (await ask("203.0.113.7", "/ready")).status_code == 200
        assert limited(await ask("203.0.113.7", "/ready"))
        assert (await ask("203.0.113.8", "/ready")).status_code == 200
        remote = {"X-Forwarded-For": "203.0.113.7"}
        answer = await client.post("/v1/local/bootstrap", json={}, headers=remote)
        assert error_of(answer) == (429, "rate_limited")
        remote = {"X-Forwarded-For": "203.0.113.8"}
        answer = await client.post("/v1/local/bootstrap", json={}, headers=remote)
        assert error_of(answer) == (403, "loopback_only")


def test_a_window_is_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    window, counted = Window(10), []
    for now in (1000.0, 1030.0, 1059.9, 1060.1, 1119.0):  # noqa: B007 - read by the clock above
        window.add("a")
        counted.append(window.count("a"))
    assert counted == [1, 2, 3, 1, 2]
    assert window.count("b") == 0


def test_windows_do_not_grow_without_end() -> None:
    window = Window(10)
    for number in range(20_000):
        window.add(str(number))
    assert len(window._counts) == 10_000


async def test_digests_are_compared_in_constant_time(
    api: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []

    def compare(one: str, other: str) -> bool:
        compared.append(one == other)
        return one == other

    monkeypatch.setattr(view, "compare_digest", compare)
    assert (await api.call("GET", "/zones")).status_code == 200
    assert compared == [True]


# --- nothing internal ever --------------------------------------------------------------------

PATHS = ("/v1/zones", "/v1/zones/{}", "/v1/zones/{}/grants", "/v1/admin-tokens", "/docs/{}", "/{}")
METHODS = ("GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD", "get", "X" * 40)
ODD = ("%00", "%ff", "..", "%2e%2e%2f", "'", '"', "{}", "a" * 300, "é".encode().decode("latin-1"))
VALUES = ("", "\t", "a" * 5000, "Bearer ", "chunked", "-1", "1e9", "\xff\xfe", "gzip", "text/html")
NAMES = (
    *("Authorization", "Content-Type", "Content-Encoding", "X-Request-Id", "traceparent"),
    *("Caracal-Min-Position", "X-Forwarded-For", "Accept", "Cookie", "Range", "If-None-Match"),
)
BODIES = (b"", b"{", b"[" * 5000, b'{"name": "\\ud800"}', b"\xff\xfe", b"null", b'{"a":' * 900)


def odd_request(dice: random.Random) -> bytes:
    """A request with a few things wrong in it."""
    path = dice.choice(PATHS).format(dice.choice(ODD))
    query = f"?{dice.choice(('limit', 'cursor', 'x'))}={dice.choice(ODD)}"
    headers = [f"{dice.choice(NAMES)}: {dice.choice(VALUES)}" for _ in range(dice.randrange(4))]
    body = dice.choice(BODIES)
    lines = [
        f"{dice.choice(METHODS)} {path}{dice.choice(('', query))} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {OPERATOR}" if dice.random() < 0.8 else "X-None: 1",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def exchanged(api: Plane, request: bytes) -> bytes:
    host, port = httpx.URL(api.url).host, httpx.URL(api.url).port
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_odd_requests_learn_nothing_internal(api: Plane) -> None:
    dice = random.Random(7)
    requests = [odd_request(dice) for _ in range(400)]
    for start in range(0, len(requests), 20):
        batch = requests[start : start + 20]
        answers = await asyncio.gather(*(exchanged(api, request) for request in batch))
        for request, answer in zip(batch, answers, strict=True):
            status = int(answer.split(b" ", 2)[1])
            assert status != 500, (request, answer)
            for word in (b"Traceback", b'File "', b".py", b"psycopg", b"pydantic", b"SELECT "):
                assert word not in answer or b"/docs" in request, (request, answer)


# --- readiness --------------------------------------------------------------------------------


async def test_ready(api: Plane) -> None:
    body = (await api.client.get("/ready")).json()
    assert body == {
        "ok": True,
        "ready": True,
        "draining": False,
        "degraded": False,
        "version": __version__,
        "parked": 0,
        "position": body["position"],
        "staleness_ms": body["staleness_ms"],
    }


async def test_readiness_is_limited_by_address(api: Plane) -> None:
    given = {"READY_RATE_LIMIT_PER_MIN": "2"}
    async with plane(api.database_url, api.redis_url, api.log, **given) as narrow:
        answers = [await narrow.client.get("/ready") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert limited(answers[-1])


async def test_the_metrics_have_their_own_token(api: Plane) -> None:
    given = {"METRICS_BEARER": "metrics-token"}
    async with plane(api.database_url, api.redis_url, api.log, **given) as guarded:
        refused = await guarded.client.get("/metrics")
        assert error_of(refused) == (401, "invalid_token")
        assert refused.headers["www-authenticate"] == "Bearer"
        own = {"Authorization": "Bearer metrics-token"}
        assert (await guarded.client.get("/metrics", headers=own)).status_code == 200
