"""Whatever a caller may send, drawn from the STS's own schema, to the running product."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from caracal.events.store.log import Log
from caracal.services.sts.openapi import document
from tests.backbone import opened_log
from tests.flow.conftest import Making
from tests.flow.drawing import CASES, check_whole, each
from tests.flow.product import Product
from tests.sts.world import Tenant, new_tenant

NEEDED = {"error", "error_description", "requestId"}
TOKEN = "/oauth/2/token"
LEFT_OUT = (
    *("actor_token", "session_id", "agent_session_id", "delegation_edge_id", "challenge_id"),
    *("challenge_response", "ttl_seconds", "subject_token_type", "scope"),
)
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]

SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120 + CASES)]


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """The STS and what it needs."""
    made = making(STEP_UP_RATE_LIMIT_PER_MIN="0")
    made.start("worker", "sts")
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def log(product: Product) -> AsyncIterator[Log]:
    async with opened_log(product.servers.database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
async def tenant(log: Log) -> Tenant:
    return await new_tenant(log)


def proofs(product: Product, tenant: Tenant, path: str) -> list[Mapping[str, str | None]]:
    """What to put into a form: nothing; who asks; and a token that is right."""
    issuer = product.url("sts")
    token = tenant.token(iss=issuer, aud=[issuer])
    client = {
        "zone_id": tenant.id,
        "application_id": tenant.app_id,
        "client_secret": tenant.secret,
    }
    if path != TOKEN:
        return [{}, client, client | {"token": token}]
    plain = dict.fromkeys(LEFT_OUT)
    whole = client | {"subject_token": token, "resource": tenant.resource.identifier}
    return [{}, client, whole, whole | plain]


def spliced(body: Any, members: Mapping[str, str | None]) -> Any:
    """A drawn form with some members as they must be; those given as None are left out."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in {**body, **members}.items() if value is not None}


def check(product: Product, case: Case) -> None:
    """Send a case; check that what comes back is an answer that the document promises."""
    answer = case.call(base_url=product.url("sts"))
    if answer.status_code >= 400:
        assert answer.status_code < 500, (case, answer.text)
        body: dict[str, Any] = answer.json()
        assert body.keys() == NEEDED
        assert answer.headers["x-request-id"] == [body["requestId"]]
        assert answer.headers["cache-control"] == ["no-store"]
        if answer.status_code in (404, 405) and body["error"] != "resource_not_found":
            return  # what was drawn made another path of it
    case.validate_response(answer, checks=CHECKS)


def ways() -> Iterator[Any]:
    """Each operation with good input, and with bad if it takes any: every text is a good path."""
    for label, operation in OPERATIONS.items():
        for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):
            yield pytest.param(label, mode, id=f"{label} {mode.value}")


@pytest.mark.parametrize(("label", "mode"), list(ways()))
def test_any_input_gets_an_answer(
    product: Product, tenant: Tenant, label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]
    splices = proofs(product, tenant, operation.path) if operation.body else [{}]

    def send(case: Case) -> None:
        drawn = case.body
        for members in splices:
            case.body = spliced(drawn, members)
            check(product, case)

    each(operation.as_strategy(mode), send)


async def test_afterwards_the_read_models_are_whole(product: Product) -> None:
    await check_whole(product)
