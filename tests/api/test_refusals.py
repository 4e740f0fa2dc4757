"""What a route raises that no one expected is answered, too."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from caracal.services import refusals
from caracal.services.http import Edge


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (psycopg.errors.AdminShutdown("terminating connection"), 503, "unavailable"),
        (psycopg.InterfaceError("the connection is closed"), 503, "unavailable"),
        (ZeroDivisionError("a secret"), 500, "internal_error"),
    ],
)
async def test_every_error_has_the_error_body(raised: Exception, status: int, code: str) -> None:
    app = FastAPI()
    refusals.install(app)

    @app.get("/broken")
    async def broken() -> None:
        raise raised

    transport = httpx.ASGITransport(Edge(app, body_limit=0), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/broken", headers={"X-Request-Id": "request-1"})
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json()["requestId"] == answer.headers["X-Request-Id"] == "request-1"
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert str(raised) not in answer.text
