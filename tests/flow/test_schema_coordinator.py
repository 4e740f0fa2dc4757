"""Whatever a caller may send, drawn from the Coordinator's own schema, to the running product."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import response_schema_conformance

from caracal import clock
from caracal.events.store.log import Log
from caracal.services.coordinator.app import document
from tests.backbone import opened_log
from tests.flow.conftest import Making
from tests.flow.drawing import CASES, check_whole, each
from tests.flow.product import Product
from tests.making import new_session
from tests.sts.world import Tenant, new_tenant

NEEDED = {"error", "error_description", "requestId"}
MEMBERS = NEEDED | {"issues", "details", "detail"}
OF_VERIFY = {"valid", "error"}

SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120 + CASES)]


@dataclass(frozen=True)
class Crew:
    """A zone whose application calls, with something of each kind in it."""

    product: Product
    tenant: Tenant
    sid: str

    @property
    def headers(self) -> dict[str, str]:
        issuer = self.product.url("sts")
        token = self.tenant.token(
            iss=issuer, aud=[issuer], scope="agent:lifecycle coordinator.admin", sid=self.sid
        )
        return {"Authorization": f"Bearer {token}"}

    async def made(self, collection: str, **body: Any) -> str:
        url = f"{self.product.url('coordinator')}/zones/{self.tenant.id}/{collection}"
        async with httpx.AsyncClient(headers=self.headers, timeout=20) as client:
            answer = await client.post(url, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """The Coordinator and what it needs."""
    made = making(MAX_PER_ZONE="10000", MAX_PER_APP="10000")
    made.start("worker", "sts", "coordinator")
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def log(product: Product) -> AsyncIterator[Log]:
    async with opened_log(product.servers.database_url) as opened:
        yield opened


@pytest.fixture
async def crew(product: Product, log: Log) -> Crew:
    """New for each test: what is in it may end."""
    tenant = await new_tenant(log)
    expires = clock.now() + timedelta(hours=1)
    session = new_session(tenant.app_id, zone_id=tenant.id, expires_at=expires)
    await log.save(session)
    return Crew(product, tenant, session.aggregate_id)


@pytest.fixture
async def known(crew: Crew) -> dict[str, str]:
    """Ids of things that exist, by the name of the path's parameter."""
    app = crew.tenant.app_id
    agent = await crew.made("agents", application_id=app, kind="service")
    endpoint = "https://a.example/planner"
    service = await crew.made("agent-services", application_id=app, endpoint_url=endpoint)
    key = {"idempotency_key": "key", "method": "plan"}
    invocation = await crew.made("invocations", service_id=service, **key)
    other = await crew.made("agents", application_id=app)
    ends = {"source_session_id": agent, "target_session_id": other}
    apps = {"issuer_application_id": app, "receiver_application_id": app}
    edge = await crew.made("delegations", **ends, **apps, ttl_seconds=600)
    return {
        "zone_id": crew.tenant.id,
        "agent_id": agent,
        "invocation_id": invocation,
        "edge_id": edge,
    }


def check(crew: Crew, case: Case) -> None:
    """Send a case; check that what comes back is an answer."""
    answer = case.call(base_url=crew.product.url("coordinator"), headers=crew.headers)
    assert answer.status_code < 500, (case, answer.text)
    if answer.status_code < 400:
        case.validate_response(answer, checks=[response_schema_conformance])
        return
    body: dict[str, Any] = answer.json()
    if case.operation.path == "/v1/verify":
        assert body.keys() == OF_VERIFY
        return
    assert body.keys() >= NEEDED
    assert body.keys() <= MEMBERS
    assert answer.headers["x-request-id"] == [body["requestId"]]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_any_input_gets_an_answer(
    crew: Crew, known: dict[str, str], label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]
    names = {parameter.name for parameter in operation.path_parameters}
    path = {name: known[name] for name in names & known.keys()} if names <= known.keys() else None
    strategy = operation.as_strategy(mode, **({"path_parameters": path} if path else {}))

    each(strategy, lambda case: check(crew, case))


async def test_afterwards_the_read_models_are_whole(product: Product) -> None:
    await check_whole(product)
