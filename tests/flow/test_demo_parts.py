"""The parts of the demo by themselves: tool server, MCP client, bare socket, screen."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvicorn
from aiohttp import web

from caracal.demo.agent import Agent
from caracal.demo.epilogue import agent_headers
from caracal.demo.scene import READ, RESOURCE, WRITE
from caracal.demo.screen import Screen, StepFailed
from caracal.demo.server import load, make_app
from caracal.demo.wire import Stream, read_stream, tool_call

LIMIT = 10  # s


@asynccontextmanager
async def tool_server() -> AsyncIterator[str]:
    """Serve the tools in this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(), log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class PassThrough:
    """A proxy that refuses one scope, and cuts what streams when it is told to."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.cut = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve it in this process."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        named = {"X-Request-Id": "request-1"}
        if request.headers["X-Caracal-Scope"] == WRITE:
            body = {"error": "access_denied", "error_description": "policy denied"}
            return web.json_response(body, status=403, headers=named)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.request(
                request.method,
                f"{self._upstream}{request.path}",
                headers=headers,
                data=await request.read(),
            ) as upstream,
        ):
            kind = {"Content-Type": upstream.headers["Content-Type"]}
            response = web.StreamResponse(status=upstream.status, headers=named | kind)
            await response.prepare(request)
            cut = asyncio.create_task(self.cut.wait())
            while not self.cut.is_set():
                chunk = asyncio.create_task(upstream.content.readany())
                await asyncio.wait((chunk, cut), return_when=asyncio.FIRST_COMPLETED)
                if not chunk.done() or not chunk.result():
                    chunk.cancel()
                    break
                await response.write(chunk.result())
            cut.cancel()
        return response


def test_the_register_is_in_order_and_its_ids_are_unique() -> None:
    register = load()
    assert len(register) > 40
    assert [each.date for each in register] == sorted(each.date for each in register)
    assert len({each.id for each in register}) == len(register)


async def test_the_tools_answer_a_real_client() -> None:
    async with (
        tool_server() as upstream,
        PassThrough(upstream).serving() as proxy,
        Agent(proxy, RESOURCE, "token") as agent,
    ):
        assert await agent.tools(READ) == ["search", "get", "summarize", "replay", "annotate"]
        found = await agent.call("search", {"text": "backup", "cause": "human"}, READ)
        assert (found.status, found.request_id, found.refusal) == (200, "request-1", "")
        assert [each["who"] for each in found.result] == ["GitLab"]
        got = await agent.call("get", {"id": found.result[0]["id"]}, READ)
        assert got.result == found.result[0]
        counted = await agent.call("summarize", {"by": "year"}, READ)
        assert sum(counted.result.values()) == len(load())
        assert max(counted.result.values()) == next(iter(counted.result.values()))
        noted = await agent.call("annotate", {"id": "INC-001", "note": "read"}, READ)
        assert noted.result == ["read"]


async def test_a_refusal_is_an_answer_and_the_client_goes_on() -> None:
    async with (
        tool_server() as upstream,
        PassThrough(upstream).serving() as proxy,
        Agent(proxy, RESOURCE, "token") as agent,
    ):
        refused = await agent.call("annotate", {"id": "INC-001", "note": "read"}, WRITE)
        assert (refused.status, refused.refusal) == (403, "access_denied: policy denied")
        assert (await agent.call("get", {"id": "INC-001"}, READ)).status == 200


async def test_progress_streams_and_a_cut_is_noticed() -> None:
    async with tool_server() as upstream:
        proxy = PassThrough(upstream)
        told: list[str] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append(message or "")
            if len(told) == 3:
                proxy.cut.set()  # long before the tool is done

        async with proxy.serving() as url, Agent(url, RESOURCE, "token") as agent:
            answer = await asyncio.wait_for(
                agent.call("replay", {"every_ms": 100}, READ, on_progress), LIMIT
            )
        assert 3 <= len(told) < len(load())
        assert "1988-11-02" in told[0]
        assert (answer.status, answer.result) == (200, None)
        assert "without a response" in answer.broken


async def test_a_whole_stream_over_a_bare_socket_has_no_trailer() -> None:
    async with tool_server() as upstream, PassThrough(upstream).serving() as proxy:
        stream = Stream()
        headers = agent_headers("token") | {"X-Caracal-Scope": READ}
        message = tool_call("replay", {"every_ms": 1}, progress=True)
        reading = read_stream(stream, f"{proxy}/mcp", headers, message)
        await asyncio.wait_for(reading, LIMIT)
    assert (stream.status, stream.headers["x-request-id"]) == (200, "request-1")
    assert stream.notifications == len(load())
    assert stream.trailers == {}


async def test_trailers_are_seen_over_a_bare_socket() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nabc\r\n0\r\nX-Caracal-Revoked: true\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        stream = Stream()
        await asyncio.wait_for(read_stream(stream, url, {}, {}), LIMIT)
    assert (stream.body, stream.trailers) == (b"abc", {"x-caracal-revoked": "true"})


def test_a_step_says_what_it_did_or_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    with screen.step("one") as say:
        say("first")
        say("second")
    with pytest.raises(StepFailed, match=r"^step 2, two: no luck today$"), screen.step("two"):
        raise OSError("no luck\ntoday")
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +1  one +\d+\.\d ms  first", first)
    assert second.lstrip() == "second"
    assert second.index("second") == first.index("first")


@pytest.mark.parametrize(("terminal", "longest"), [(True, 80), (False, 38 + 71)])
def test_what_is_said_fits_the_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    longest: int,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    said = "403  annotate: access_denied: requested scopes exceed delegation scopes"
    with Screen().step("one") as say:
        say(said)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= longest
    assert (len(lines) > 1) is terminal
    assert " ".join(line[38:] for line in lines) == said
