"""The agent: a real MCP client whose every request passes the Gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult

_STATELESS = "2026-07-28"  # the MCP revision in which a tool call is one request


@dataclass(frozen=True)
class Answer:
    """What one tool call came to: what HTTP said, and, if it was let through, the tool."""

    status: int
    request_id: str
    refusal: str = ""
    """Code and text of the refusal; empty when the call was let through."""
    result: Any = None
    broken: str = ""
    """Why there is no result although the call was let through: its stream ended early."""


class Agent:
    """A client that holds an ambient token and names the scope it needs, call by call.

    Args:
        envelope: headers that say as which agent, by which delegation it calls.
    """

    def __init__(
        self, gateway: str, resource: str, token: str, envelope: Mapping[str, str] | None = None
    ) -> None:
        self.url = f"{gateway}/mcp"
        self.headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": resource}
        self.headers |= envelope or {}
        self._http = httpx2.AsyncClient(
            headers=self.headers, timeout=60, event_hooks={"response": [self._keep]}
        )
        self._open = AsyncExitStack()
        self._last = Answer(0, "")

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._http)
        transport = streamable_http_client(self.url, http_client=self._http)
        self._mcp = await self._open.enter_async_context(Client(transport, mode=_STATELESS))
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._open.aclose()

    async def tools(self, scope: str) -> list[str]:
        """Return the names of the server's tools."""
        self._http.headers["X-Caracal-Scope"] = scope
        return [tool.name for tool in (await self._mcp.list_tools()).tools]

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any],
        scope: str,
        on_progress: ProgressFnT | None = None,
    ) -> Answer:
        """Call ``tool`` and return what came of it; a refusal is an answer, too."""
        self._http.headers["X-Caracal-Scope"] = scope
        try:
            result = await self._mcp.call_tool(tool, arguments, progress_callback=on_progress)
        except MCPError as error:
            broken = "" if self._last.refusal else str(error)
            return Answer(
                self._last.status, self._last.request_id, self._last.refusal, None, broken
            )
        return Answer(self._last.status, self._last.request_id, "", _value(result))

    async def _keep(self, response: httpx2.Response) -> None:
        """Keep what the MCP client does not tell: the status and the request id."""
        refusal = ""
        if response.is_error:
            refusal = _refusal(await response.aread())
        self._last = Answer(response.status_code, response.headers["X-Request-Id"], refusal)


def _refusal(body: bytes) -> str:
    said = json.loads(body)
    return f"{said['error']}: {said['error_description']}"


def _value(result: CallToolResult) -> Any:
    if result.is_error:
        raise ValueError(f"the tool failed: {result.content}")
    return (result.structured_content or {}).get("result", result.structured_content)
