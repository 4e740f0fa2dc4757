"""``docs/sdk.md`` and ``docs/examples/`` work as written, on running services."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from caracal.client import AdminApiError, Caracal
from caracal.events.session import Session
from caracal.mandate import peek
from caracal.services.gateway.app import Gateway, create_app
from caracal.services.http import Receive, Scope, Send, respond
from tests.backbone import eventually
from tests.coordinator.running import Crew
from tests.gateway.scene import served
from tests.gateway.scene import settings as gateway_settings
from tests.making import in_zone
from tests.sts.world import ISSUER, serving
from tests.sts.world import settings as sts_settings
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

ROOT = Path(__file__).parents[2]
LIMIT = 30.0  # s, for an example to run
FILES = "resource://files"
UPSTREAM = "https://files.example/api"


@dataclass
class Stack:
    """A crew with a resource behind a Gateway."""

    crew: Crew
    gateway_url: str
    seen: list[dict[bytes, bytes]]

    @property
    def environ(self) -> dict[str, str]:
        """The variables of the guide."""
        return {
            "CARACAL_ZONE_ID": self.crew.zone,
            "CARACAL_APPLICATION_ID": self.crew.application_id,
            "CARACAL_CLIENT_SECRET": self.crew.tenant.secret,
            "CARACAL_STS_URL": self.crew.settings.sts_url,
            "CARACAL_COORDINATOR_URL": self.crew.url,
            "CARACAL_RESOURCES": self.crew.tenant.resource.identifier,
            "CARACAL_GATEWAY_URL": self.gateway_url,
            "CARACAL_UPSTREAMS": f"{UPSTREAM}={FILES}",
            "CARACAL_ISSUER": ISSUER,
        }


@pytest.fixture
async def stack(crew: Crew) -> AsyncIterator[Stack]:
    seen: list[dict[bytes, bytes]] = []

    async def upstream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]) | {b":path": scope["raw_path"]})
            await respond(send, 200, b"the report", [], b"text/plain")

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(upstream))
        await crew.tenant.add_resource(
            identifier=FILES, upstream_url=url, scopes=["read", "write", "agent:lifecycle"]
        )
        given = gateway_settings(
            crew.settings.database_url, crew.settings.redis_url, crew.settings.sts_url
        )
        app = create_app(given, Gateway(given))
        yield Stack(crew, await stack.enter_async_context(served(app, given)), seen)


async def test_the_guide(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in stack.environ.items():
        monkeypatch.setenv(name, value)
    text = (ROOT / "docs/sdk.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    names: dict[str, Any] = {}
    for block in blocks:
        code = block.replace("http://localhost:8080", stack.crew.settings.sts_url)
        code = code.replace('"zone1"', f'"{stack.crew.zone}"').replace(
            "https://sts.example", ISSUER
        )
        compiled = compile(code, "docs/sdk.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if compiled.co_flags & inspect.CO_COROUTINE:
            await eval(compiled, names)
        else:
            await asyncio.to_thread(eval, compiled, names)
    await names["caracal"].aclose()
    await names["verifier"].aclose()
    await asyncio.to_thread(names["signing"].close)
    printed = capsys.readouterr().out
    for line in (
        *("lead ", "child of ", "may ['read'] until", "True", "200 the report", "True True"),
        *("bound 200", "DPoP ['Authorization', 'DPoP', ", "register dict_keys(['crv', "),
    ):
        assert line in printed
    assert f"{stack.crew.application_id} may ['read']" in printed
    assert set((await stack.crew.statuses()).values()) == {"terminated"}


async def run(example: str, environ: Mapping[str, str], *args: str) -> list[str]:
    """Run an example to its end; return what it prints."""
    async with started(example, environ, *args) as process:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode().splitlines()


@asynccontextmanager
async def started(
    example: str, environ: Mapping[str, str], *args: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    path = ROOT / "docs/examples" / example
    environ = {**os.environ, **environ, "PYTHONPATH": str(ROOT)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), *args, env=environ, stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_lead_and_its_helpers(stack: Stack) -> None:
    lead, *helpers, last = await run("lead_and_helpers.py", stack.environ)
    assert lead.startswith("lead: ")
    assert {line.partition(":")[0] for line in helpers} == {"sources", "figures"}
    assert all(" may read until 20" in line for line in helpers)
    assert last.startswith("ended")
    assert list((await stack.crew.statuses()).values()) == ["terminated"] * 3


async def test_through_the_gateway(stack: Stack) -> None:
    lines = await run("through_the_gateway.py", stack.environ, f"{UPSTREAM}/report.txt")
    assert lines == ["200 the report", "403 access_denied"]
    (headers,) = stack.seen
    (agent,) = await stack.crew.statuses()
    assert headers[b":path"] == b"/report.txt"
    assert headers[b"baggage"] == f"caracal.agent_session={agent},caracal.hop=0".encode()
    assert peek(headers[b"authorization"].decode()[7:]).claims["aud"] == [FILES]


async def test_bound_to_a_key(stack: Stack) -> None:
    lines = await run("bound_to_a_key.py", stack.environ, UPSTREAM)
    assert lines == ["200 the report, by an edge for read"] * 2 + ["stolen: 401 invalid_token"]
    assert {headers[b":path"] for headers in stack.seen} == {b"/report.txt", b"/figures.txt"}
    assert all(b"dpop" not in headers for headers in stack.seen)
    agents = await stack.crew.statuses()
    assert list(agents.values()) == ["terminated"] * 3
    helpers = {headers[b"baggage"].decode().split(",")[0] for headers in stack.seen}
    assert len(helpers) == 2
    assert helpers < {f"caracal.agent_session={agent}" for agent in agents}


async def test_a_resource_server(stack: Stack) -> None:
    crew = stack.crew
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = sts_settings(crew.settings.database_url, crew.settings.redis_url)
    environ = {
        "CARACAL_ISSUER": ISSUER,
        "CARACAL_STS_URL": crew.settings.sts_url,
        "CARACAL_AUDIENCE": FILES,
        "CARACAL_ZONE_ID": crew.zone,
        "CARACAL_STREAM_HMAC_KEY": given.streams_hmac_key[0].hex(),
        "REDIS_URL": crew.settings.redis_url,
        "PORT": str(port),
    }
    async with (
        started("resource_server.py", environ),
        Caracal.from_env(stack.environ) as caracal,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        issued = await issue(caracal)
        headers = {
            "Authorization": f"Bearer {issued}",
            "baggage": "caracal.agent_session=someone",
        }

        async def status() -> int:
            try:
                return (await http.get("/report", headers=headers)).status_code
            except httpx.TransportError:
                return 0

        await until(status, 200)
        answer = await http.get("/report", headers=headers)
        assert answer.json() == {"for": crew.application_id, "agent": "someone"}
        assert (await http.get("/report")).status_code == 401
        session = await crew.log.find(Session, peek(issued).claims["sid"])
        assert session is not None
        with in_zone(crew.zone):
            session.revoke("token_revoked")
        await crew.save(session)
        await until(status, 401)


async def issue(caracal: Caracal) -> str:
    """Return a mandate for the files, as soon as the STS knows them."""

    async def issued() -> str | None:
        try:
            return (await caracal.mandate(FILES, scopes=["read"]))["access_token"]
        except AdminApiError:
            return None

    found = await eventually(issued)
    assert found is not None
    return found


async def until(status: Any, wanted: int) -> None:
    async def so() -> bool:
        return bool(await status() == wanted)

    await eventually(so, what=f"status {wanted}")
