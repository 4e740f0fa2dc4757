"""Invocations: made once, started, cancelled, completed; by whom."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.coordinator.running import Crew, Ship, unknown
from tests.coordinator.test_agents import refusal
from tests.coordinator.test_services import registered


@pytest.fixture
async def service(crew: Crew) -> str:
    return str((await registered(crew))["id"])


async def invoking(
    crew: Crew, service: str, *, scopes: tuple[str, ...] = (), **members: Any
) -> httpx.Response:
    body = {"service_id": service, "idempotency_key": "key", "method": "plan", **members}
    return await crew.call("POST", "/invocations", body, scopes=scopes)


async def invoked(crew: Crew, service: str, **members: Any) -> dict[str, Any]:
    answer = await invoking(crew, service, **members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def moving(crew: Crew, one: str, verb: str, body: Any = None, **more: Any) -> httpx.Response:
    return await crew.call("PATCH", f"/invocations/{one}/{verb}", body, **more)


async def moved(crew: Crew, one: str, verb: str, body: Any = None) -> dict[str, Any]:
    answer = await moving(crew, one, verb, body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_made_and_shown(crew: Crew, service: str) -> None:
    source, target = await crew.spawn(), await crew.spawn()
    sessions = {"source_session_id": source["id"], "target_session_id": target["id"]}
    made = await invoked(crew, service, **sessions, params=[1, {"a": None}], metadata={"m": 1})
    assert made == {
        "id": made["id"],
        "zone_id": crew.zone,
        "service_id": service,
        **sessions,
        "idempotency_key": "key",
        "method": "plan",
        "params_json": [1, {"a": None}],
        "metadata_json": {"m": 1},
        "status": "pending",
        "attempts": 0,
        "max_attempts": 3,
        "timeout_ms": 30000,
        "retry_policy_json": {"max_attempts": 3, "backoff_ms": 1000},
        "error_json": None,
        "deadline_at": None,
        "cancel_requested_at": None,
        "started_at": None,
        "completed_at": None,
        "created_at": made["created_at"],
    }
    assert (await crew.call("GET", f"/invocations/{made['id']}")).json() == made
    again = await invoking(crew, service, params={"other": 1})
    assert (again.status_code, again.json()) == (200, made)
    assert "caracal-position" not in again.headers


async def test_many_at_once_make_one(crew: Crew, service: str) -> None:
    answers = await asyncio.gather(*(invoking(crew, service) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [200] * 31 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await crew.facts("invocation.created")) == 1


async def test_services_and_sessions_that_will_not_do(crew: Crew, service: str) -> None:
    assert refusal(await invoking(crew, unknown())) == (404, "agent_service_not_found")
    suspended = await crew.spawn()
    await crew.call("PATCH", f"/agents/{suspended['id']}/suspend")
    for agent in (unknown(), suspended["id"]):
        for name in ("source_session_id", "target_session_id"):
            answer = await invoking(crew, service, **{name: agent})
            assert refusal(answer) == (404, "agent_session_not_found")


async def test_a_record_is_found_though_its_sessions_have_ended(crew: Crew, service: str) -> None:
    source = await crew.spawn()
    made = await invoked(crew, service, source_session_id=source["id"])
    await crew.call("DELETE", f"/agents/{source['id']}")
    again = await invoking(crew, service, source_session_id=source["id"])
    assert (again.status_code, again.json()) == (200, made)


async def test_in_whose_name(crew: Crew, service: str) -> None:
    """The source session's application acts, without one the service's."""
    other = await crew.another()
    answer = await invoking(other, service)
    assert refusal(answer) == (403, "invoker_ownership_required")
    source = await other.spawn()
    made = await invoked(other, service, source_session_id=source["id"])
    for verb in ("start", "cancel", "complete"):
        body = {"status": "succeeded"} if verb == "complete" else None
        refused = await moving(other, made["id"], verb, body)
        assert refusal(refused) == (403, "invoker_ownership_required")
    foreign = await invoking(crew, service, source_session_id=source["id"], idempotency_key="2")
    assert refusal(foreign) == (403, "invoker_ownership_required")
    replay = await invoking(crew, service)
    assert refusal(replay) == (403, "invoker_ownership_required")
    for number, power in enumerate(
        ("coordinator.admin", f"coordinator.invoke_from:{crew.application_id}")
    ):
        key = f"power {number}"
        answer = await invoking(other, service, scopes=(power,), idempotency_key=key)
        assert answer.status_code == 201
        started = await moving(other, answer.json()["id"], "start", scopes=(power,))
        assert started.status_code == 200


async def test_started_and_succeeded(crew: Crew, service: str) -> None:
    made = await invoked(crew, service, metadata={"a": 1})
    started = await moved(crew, made["id"], "start")
    assert (started["status"], started["attempts"]) == ("running", 1)
    assert started["started_at"] is not None
    assert started["deadline_at"] > started["started_at"]
    again = await moving(crew, made["id"], "start")
    assert refusal(again) == (409, "invocation_not_startable")
    done = await moved(crew, made["id"], "complete", {"status": "succeeded", "metadata": {"b": 2}})
    assert (done["status"], done["metadata_json"]) == ("succeeded", {"a": 1, "b": 2})
    assert done["completed_at"] is not None
    assert (await crew.call("GET", f"/invocations/{made['id']}")).json() == done
    for verb, code, body in (
        ("start", "startable", None),
        ("cancel", "cancelable", None),
        ("complete", "completable", {"status": "failed"}),
    ):
        refused = await moving(crew, made["id"], verb, body)
        assert refusal(refused) == (409, f"invocation_not_{code}")


async def test_failed_and_tried_again_while_attempts_are_left(crew: Crew, service: str) -> None:
    made = await invoked(crew, service, retry_policy={"max_attempts": 2})
    for attempt in (1, 2):
        started = await moved(crew, made["id"], "start")
        assert (started["attempts"], started["error_json"]) == (attempt, None)
        body = {"status": "failed", "error": {"why": "busy"}}
        failed = await moved(crew, made["id"], "complete", body)
        assert (failed["status"], failed["error_json"]) == ("failed", {"why": "busy"})
        refused = await moving(crew, made["id"], "cancel")
        assert refusal(refused) == (409, "invocation_not_cancelable")
    refused = await moving(crew, made["id"], "start")
    assert refusal(refused) == (409, "invocation_not_startable")


async def test_cancelled(crew: Crew, service: str) -> None:
    waiting = await invoked(crew, service)
    refused = await moving(crew, waiting["id"], "complete", {"status": "failed"})
    assert refusal(refused) == (409, "invocation_not_completable")
    canceled = await moved(crew, waiting["id"], "cancel", {"reason": "changed my mind"})
    assert canceled["status"] == "canceled"
    assert canceled["metadata_json"] == {"cancel_reason": "changed my mind"}
    assert canceled["cancel_requested_at"] is not None
    running = await invoked(crew, service, idempotency_key="2")
    await moved(crew, running["id"], "start")
    asked = await moved(crew, running["id"], "cancel")
    assert asked["status"] == "cancel_requested"
    assert (await moved(crew, running["id"], "cancel"))["status"] == "cancel_requested"
    done = await moved(crew, running["id"], "complete", {"status": "succeeded"})
    assert done["status"] == "succeeded"


async def test_unknown_and_foreign(coordinator: Ship, crew: Crew, service: str) -> None:
    made = await invoked(crew, service)
    other = await coordinator.crew()
    for one in (unknown(), made["id"]):
        for method, verb in (("GET", ""), ("PATCH", "/start"), ("PATCH", "/cancel")):
            answer = await other.call(method, f"/invocations/{one}{verb}")
            assert refusal(answer) == (404, "invocation_not_found")
        body = {"status": "succeeded"}
        answer = await other.call("PATCH", f"/invocations/{one}/complete", body)
        assert refusal(answer) == (404, "invocation_not_found")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("service_id", (None, "", 1)),
        ("idempotency_key", (None, "", 1, "a" * 257)),
        ("method", (None, "", 1)),
        ("source_session_id", ("", 1)),
        ("target_session_id", ("", 1)),
        ("params", ("\x00", [[]] * 5 + ["a" * 2**20])),
        ("metadata", (None, [], {"a": "a" * 20_000})),
        ("timeout_ms", (None, 0, 900_001, "1", 1.5)),
        ("retry_policy", (None, 1, {"max_attempts": 11}, {"backoff_ms": -1}, {"max_attempts": 0})),
    ],
)
async def test_bad_fields(crew: Crew, service: str, name: str, wrong: tuple[Any, ...]) -> None:
    for value in wrong:
        answer = await invoking(crew, service, **{name: value})
        assert refusal(answer) in ((400, "invalid_body"), (413, "payload_too_large")), value


async def test_bad_bodies_of_moves(crew: Crew, service: str) -> None:
    made = await invoked(crew, service)
    for verb, body in (
        ("cancel", {"reason": ""}),
        ("cancel", {"reason": 1}),
        ("complete", {}),
        ("complete", {"status": "canceled"}),
        ("complete", {"status": "failed", "error": "text"}),
        ("complete", {"status": "failed", "metadata": []}),
    ):
        refused = await moving(crew, made["id"], verb, body)
        assert refusal(refused) == (400, "invalid_body"), body
