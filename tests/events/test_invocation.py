from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.agent_service import AgentService
from caracal.events.invocation import AlreadyInvoked, Invocation
from caracal.ids import new_id
from caracal.projections.agent_service import agent_services
from caracal.projections.invocation import invocations
from tests.making import (
    ZONE,
    in_zone,
    new_agent,
    new_application,
    new_session,
    reduced,
    signals,
    store_with,
    told,
)

NOW = clock.now()
LATER = NOW + timedelta(hours=1)


def new_service(application_id: str, **members: Any) -> AgentService:
    given: dict[str, Any] = {
        "protocol_versions": ["1"],
        "framework_name": None,
        "framework_version": None,
        "capabilities": [],
        "metadata": {},
    }
    with in_zone():
        return AgentService.register(
            new_id(),
            zone_id=ZONE,
            application_id=application_id,
            endpoint_url="https://agent.example",
            **(given | members),
        )


def new_invocation(service: AgentService, key: str = "k", **members: Any) -> Invocation:
    given: dict[str, Any] = {
        "source_session_id": None,
        "target_session_id": None,
        "method": "run",
        "params": {"a": [1]},
        "metadata": {"m": 1},
        "timeout_ms": 1000,
        "retry_policy": {"max_attempts": 2, "backoff_ms": 0},
    }
    with in_zone():
        return Invocation.create(
            new_id(),
            zone_id=ZONE,
            service_id=service.aggregate_id,
            idempotency_key=key,
            **({"sessions": ()} | given | members),
        )


async def test_a_service_is_registered_once_for_each_endpoint() -> None:
    app = new_application()
    service = new_service(app.aggregate_id)
    store = await store_with(app, service)
    with pytest.raises(CaracalError, match="concurrent_update"):
        await store.save(new_service(app.aggregate_id))
    with in_zone():
        service.update(protocol_versions=["1"])
        service.update(
            protocol_versions=["2"],
            framework_name="f",
            framework_version=None,
            capabilities=["c"],
            metadata={},
        )
        service.lose()
    await store.save(service)
    assert [name for name, _ in told(store)][-2:] == [
        "agent_service.updated",
        "agent_service.lost",
    ]
    row = reduced(agent_services, store)["agent_services"][service.aggregate_id]
    assert (row["protocol_versions"], row["framework_name"]) == (["2"], "f")
    assert row["lost_at"]


def moved(invocation: Invocation, *steps: str) -> Invocation:
    with in_zone():
        for step in steps:
            match step:
                case "start":
                    invocation.start(NOW)
                case "cancel":
                    invocation.cancel("why")
                case "late":
                    invocation.enforce_deadline(LATER)
                case "early":
                    invocation.enforce_deadline(NOW)
                case _:
                    invocation.complete(step, None, {"n": 2})  # type: ignore[arg-type]
    return invocation


@pytest.mark.parametrize(
    ("steps", "status", "attempts"),
    [
        ((), "pending", 0),
        (("start",), "running", 1),
        (("start", "early"), "running", 1),
        (("start", "succeeded"), "succeeded", 1),
        (("start", "failed", "start", "failed"), "failed", 2),
        (("start", "late"), "failed", 1),
        (("start", "late", "start", "late"), "timed_out", 2),
        (("start", "cancel"), "cancel_requested", 1),
        (("start", "cancel", "cancel"), "cancel_requested", 1),
        (("start", "cancel", "succeeded"), "succeeded", 1),
        (("start", "cancel", "late"), "canceled", 1),
        (("cancel",), "canceled", 0),
        (("late",), "pending", 0),
    ],
)
async def test_states(steps: tuple[str, ...], status: str, attempts: int) -> None:
    app = new_application()
    service = new_service(app.aggregate_id)
    invocation = moved(new_invocation(service), *steps)
    assert (invocation.status, invocation.attempts) == (status, attempts)
    store = await store_with(app, service, invocation)
    row = reduced(invocations, store)["invocations"][invocation.aggregate_id]
    assert (row["status"], row["attempts"]) == (status, attempts)
    found = await store.find(Invocation, invocation.aggregate_id)
    assert found is not None
    hidden = {"guards", "modified_on"}
    assert {k: v for k, v in vars(found).items() if k not in hidden} == {
        k: v for k, v in vars(invocation).items() if k not in hidden
    }
    sent = signals(store, "caracal.invocations.lifecycle")
    assert {entry["service_id"] for entry in sent} == {service.aggregate_id}


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        (("start", "start"), "invocation_not_startable"),
        (("start", "failed", "start", "failed", "start"), "invocation_not_startable"),
        (("cancel", "start"), "invocation_not_startable"),
        (("cancel", "cancel"), "invocation_not_cancelable"),
        (("start", "failed", "cancel"), "invocation_not_cancelable"),
        (("succeeded",), "invocation_not_completable"),
        (("start", "succeeded", "failed"), "invocation_not_completable"),
    ],
)
def test_refused_moves(steps: tuple[str, ...], code: str) -> None:
    with pytest.raises(CaracalError, match=code):
        moved(new_invocation(new_service("a")), *steps)


def test_times_and_metadata() -> None:
    canceled = moved(new_invocation(new_service("a")), "start", "cancel", "failed")
    assert canceled.metadata == {"m": 1, "cancel_reason": "why", "n": 2}
    assert canceled.cancel_requested_at
    assert canceled.completed_at
    late = moved(new_invocation(new_service("a")), "start", "late")
    assert (late.started_at, late.completed_at) == (None, None)
    assert late.error == {"reason": "deadline_exceeded"}
    assert moved(late, "start").error is None


async def test_an_invocation_is_made_once_and_only_of_what_is_there() -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    service, agent = new_service(app.aggregate_id), new_agent(session)
    first = new_invocation(service, sessions=[agent.aggregate_id])
    store = await store_with(app, session, service)
    with pytest.raises(CaracalError, match="agent_session_not_found"):
        await store.save(first)
    await store.save(agent, new_invocation(service, sessions=[agent.aggregate_id]))
    with pytest.raises(AlreadyInvoked):
        await store.save(new_invocation(service))
    with pytest.raises(CaracalError, match="agent_service_not_found"):
        await store.save(new_invocation(new_service(app.aggregate_id), "other"))
