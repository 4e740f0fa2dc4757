"""``caracal status``: one table of all services."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from caracal import __version__
from caracal.cli.stack_settings import write_stack_json
from tests.api.running import Plane, worker
from tests.cli.caracal import Caracal
from tests.cli.stand_in import StandIn

READY = {
    "ok": True,
    "ready": True,
    "degraded": False,
    "position": 9,
    "staleness_ms": 5,
    "parked": 0,
}


def rows(stand_in: StandIn, status: int, body: Any, code: int) -> dict[str, dict[str, Any]]:
    """Ask for the status of a gateway that is fine and a worker that answers this."""
    with StandIn() as other:
        stand_in.answer = lambda asked: (200, READY)
        other.answer = lambda asked: (status, body)
        found = Caracal({"CARACAL_API_URL": stand_in.url}).json(
            "status", "--worker-url", other.url, code=code
        )
    return {row["service"]: row for row in found}


@pytest.mark.parametrize(
    ("status", "body", "code", "state", "reason"),
    [
        (200, READY | {"position": 4}, 0, "ready", None),
        (200, READY | {"degraded": True, "reason": "postgres_unreachable"}, 0, "degraded",
         "postgres_unreachable"),
        (503, {"ok": False, "error": "state_stale", "reason": "state_stale"}, 1, "not ready",
         "state_stale"),
        (503, {"ok": False, "draining": True}, 1, "draining", None),
        (429, {"error": "rate_limited"}, 1, "not ready", "rate_limited"),
        (200, "what", 1, "not ready", "invalid_response"),
    ],
)  # fmt: skip
def test_a_service(
    stand_in: StandIn, status: int, body: Any, code: int, state: str, reason: str | None
) -> None:
    row = rows(stand_in, status, body, code)["worker"]
    assert (row["state"], row["reason"]) == (state, reason)


def test_how_far_one_is_behind_the_others(stand_in: StandIn) -> None:
    found = rows(stand_in, 200, READY | {"position": 4}, 0)
    assert [(found[name]["position"], found[name]["behind"]) for name in ("api", "worker")] == [
        (9, 0),
        (4, 5),
    ]


def test_out_of_reach(stand_in: StandIn) -> None:
    result = Caracal({"CARACAL_API_URL": "http://127.0.0.1:1"}).run("status", code=1)
    assert "out of reach" in result.stdout
    assert "ConnectionRefusedError at http://127.0.0.1:1" in result.stdout


def test_no_stack() -> None:
    assert Caracal({}).refused("status", code=3).startswith("no_stack: no stack runs in ")


async def test_of_running_services(
    api: Plane, api_database: str, api_redis: str, tmp_path: Path
) -> None:
    async with worker(api_database, api_redis) as worker_url:
        stack = {
            "api_url": api.url,
            "redis_url": api_redis,
            "pid": os.getpid(),
        }
        write_stack_json(tmp_path / "stack.json", stack)
        (tmp_path / "worker_url").write_text(worker_url)
        found = await Caracal({"CARACAL_DATA_DIR": str(tmp_path)}).ajson("status")
    told = {row["service"]: row for row in found}
    assert list(told) == ["api", "worker"]
    assert {row["state"] for row in found} <= {"ready", "degraded"}  # on a slow machine
    assert {row["version"] for row in found} == {__version__}
    assert told["worker"]["dead_letters"] == 0
    assert told["api"]["staleness_ms"] >= 0
