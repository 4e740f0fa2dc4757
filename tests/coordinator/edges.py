"""Edges as the tests of the delegation graph ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import httpx

from caracal import clock
from tests.coordinator.running import Crew, ids

Edge = dict[str, Any]
UNTIL = clock.rfc3339(clock.now() + timedelta(hours=1))
HOPS = {"max_hops": 5}


def edge_of(source: Edge, target: Edge, **members: Any) -> Edge:
    """The body that asks for an edge."""
    return {
        "source_session_id": source["id"],
        "target_session_id": target["id"],
        "issuer_application_id": source["application_id"],
        "receiver_application_id": target["application_id"],
        "scopes": ["read"],
        "expires_at": UNTIL,
        "ttl_seconds": 600,
        **members,
    }


async def delegated(
    crew: Crew, source: Edge, target: Edge, *, by: Iterable[str] = (), **members: Any
) -> Edge:
    """Make an edge; ``by`` further scopes of the caller."""
    body = edge_of(source, target, **members)
    answer = await crew.call("POST", "/delegations", body, scopes=by)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def listed(crew: Crew, path: str) -> list[str]:
    """The ids of a list."""
    answer = await crew.call("GET", path)
    assert answer.status_code == 200, answer.text
    return ids(answer.json())


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]
