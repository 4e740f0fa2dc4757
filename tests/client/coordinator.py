"""A small Coordinator in memory: answers as its contract says, so that the clients meet them.

It has no rules of its own but paging and credentials; the real service has its own tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.api.running import served

OPERATOR = "coordinator-operator"
ZONE = "z1"
WHEN = "2026-05-11T20:00:00.123456Z"
Row = dict[str, Any]
Answer = Callable[[Request], Awaitable[Response]]


def agent(agent_id: str, parent: str | None = None, **members: Any) -> Row:
    """An agent session with all members of the contract."""
    return {
        "agent_session_id": agent_id,
        "id": agent_id,
        "zone_id": ZONE,
        "application_id": "app",
        "parent_id": parent,
        "subject_session_id": "sid",
        "session_sid": "sid",
        "authority_root_session_id": "sid",
        "kind": "instance",
        "session_class": "instance",
        "capabilities": ["search"],
        "status": "active",
        "depth": 0 if parent is None else 1,
        "ttl_seconds": 3600,
        "metadata": {"task": 1},
        "spawned_at": WHEN,
        "terminated_at": None,
        "last_heartbeat_at": None,
        "heartbeat_deadline_at": None,
        **members,
    }


def edge(edge_id: str, source: str, target: str, **members: Any) -> Row:
    """A delegation edge with all members of the contract."""
    return {
        "id": edge_id,
        "delegation_edge_id": edge_id,
        "zone_id": ZONE,
        "source_session_id": source,
        "target_session_id": target,
        "issuer_application_id": "app",
        "receiver_application_id": "app",
        "parent_edge_id": None,
        "resource_id": None,
        "scopes": ["read"],
        "constraints_json": {"policy_approved": True},
        "status": "active",
        "expires_at": WHEN,
        "edge_version": 0,
        "revoked_at": None,
        "created_at": WHEN,
        **members,
    }


AGENTS = [agent("a3", "a1"), agent("a2", "a1"), agent("a1")]
EDGES = [edge("e2", "a2", "a3"), edge("e1", "a1", "a2")]
NODES = [
    {"id": "e1", "source_session_id": "a1", "target_session_id": "a2", "depth": 1},
    {"id": "e2", "source_session_id": "a2", "target_session_id": "a3", "depth": 2},
]
AUTHORITY = {
    "agent_session_id": "a2",
    "inbound_edges": ["e1"],
    "effective_scopes": ["read"],
    "effective_resource_ids": [],
    "effective_resources": [],
    "effective_resource_constrained": False,
    "effective_max_hops": 1,
    "effective_ttl_seconds": None,
    "earliest_expires_at": WHEN,
}
IMPACT = {
    "edge_id": "e1",
    "affected_edges": NODES,
    "affected_agents": ["a2", "a3"],
    "affected_subject_sessions": ["sid"],
}
REVOKED = {"revoked_edges": 2, "affected_sessions": 1, "terminated_agents": 2}


def refusal(status: int, code: str) -> Response:
    body = {"error": code, "error_description": code.replace("_", " "), "requestId": "r"}
    return JSONResponse(body, status, headers={"X-Request-Id": "r"})


def operators(answer: Answer) -> Answer:
    """Refuse who is not the operator; the contract has more credentials, the client this one."""

    async def guarded(request: Request) -> Response:
        given = request.headers.get("Authorization")
        if given != f"Bearer {OPERATOR}":
            return refusal(401, "invalid_token" if given else "missing_token")
        return await answer(request)

    return guarded


def listed(rows_of: Callable[[Request], list[Row]]) -> Answer:
    """A list, by pages: 100 rows at most, ``Link`` when there are more."""

    async def answer(request: Request) -> Response:
        rows, limit = rows_of(request), int(request.query_params.get("limit", "100"))
        if (cursor := request.query_params.get("cursor")) is not None:
            ids = [row["id"] for row in rows]
            if cursor not in ids:
                return refusal(400, "invalid_cursor")
            rows = rows[ids.index(cursor) + 1 :]
        headers = {}
        if len(rows) > limit:
            rows = rows[:limit]
            url = request.url.include_query_params(limit=limit, cursor=rows[-1]["id"])
            headers["Link"] = f'<{url}>; rel="next"'
        return JSONResponse(rows, headers=headers)

    return answer


def always(body: Any) -> Answer:
    async def answer(_: Request) -> Response:
        return JSONResponse(body)

    return answer


async def one_agent(request: Request) -> Response:
    found = [row for row in AGENTS if row["id"] == request.path_params["id"]]
    if not found:
        return refusal(404, "agent_not_found")
    return Response(status_code=204) if request.method == "DELETE" else JSONResponse(found[0])


async def suspend(request: Request) -> Response:
    assert await request.body() == b""
    return JSONResponse({"suspended": True, "affected": 3})


async def resume(request: Request) -> Response:
    assert await request.body() == b""
    return refusal(409, "agent_not_found_or_not_suspended")


def _of(member: str, rows: list[Row]) -> Callable[[Request], list[Row]]:
    return lambda request: [row for row in rows if row[member] == request.path_params["id"]]


def _active(_: Request) -> list[Row]:
    return [row | {"broad_reason": "resource_null_delegation"} for row in EDGES]


ROUTES: dict[str, Answer] = {
    "GET agents": listed(lambda _: AGENTS),
    "GET agents/{id}": one_agent,
    "DELETE agents/{id}": one_agent,
    "GET agents/{id}/children": listed(
        lambda request: [
            row for row in AGENTS[::-1] if row["parent_id"] == request.path_params["id"]
        ]
    ),
    "GET agents/{id}/effective-authority": always(AUTHORITY),
    "PATCH agents/{id}/suspend": suspend,
    "PATCH agents/{id}/resume": resume,
    "GET delegations/active": listed(_active),
    "GET delegations/inbound/{id}": listed(_of("target_session_id", EDGES)),
    "GET delegations/outbound/{id}": listed(_of("source_session_id", EDGES)),
    "GET delegations/{id}/traverse": always(NODES),
    "GET delegations/{id}/impact": always(IMPACT),
    "PATCH delegations/{id}/revoke": always(REVOKED),
}


@asynccontextmanager
async def coordinator() -> AsyncIterator[str]:
    """Serve it on a free port of the loopback; gives its URL."""
    routes = []
    for name, answer in ROUTES.items():
        method, _, path = name.partition(" ")
        routes.append(Route(f"/zones/{{zone}}/{path}", operators(answer), methods=[method]))
    async with served(Starlette(routes=routes)) as url:
        yield url
