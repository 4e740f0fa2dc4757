"""Whatever a caller may send, drawn from the API's own schema, to the running product.

``CARACAL_SCHEMA_CASES`` says how many cases an operation gets of each kind.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from psycopg import AsyncConnection
from redis.asyncio import Redis
from schemathesis import Case, GenerationMode
from schemathesis.checks import response_schema_conformance

from caracal.services.api.app import routes
from tests.flow import oracle
from tests.flow.conftest import Making
from tests.flow.product import OPERATOR, Product
from tests.flow.tenant import Tenant, new_tenant
from tests.flow.traffic import Book

CASES = int(os.environ.get("CARACAL_SCHEMA_CASES", "5"))
HEADERS = {"Authorization": f"Bearer {OPERATOR}"}
MEMBERS = {"error", "error_description", "requestId", "issues", "detail", "live_dcr_applications"}

SCHEMA = schemathesis.openapi.from_dict(routes().openapi())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}

WAYS = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode.is_positive or operation.path_parameters or operation.query or operation.body
]
"""What takes no input cannot be given a bad one."""

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120 + CASES)]


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """The control plane."""
    made = making()
    made.start("worker", "api")
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def tenant(product: Product) -> AsyncIterator[Tenant]:
    """A zone with something in it."""
    async with new_tenant(product) as (tenant, _):
        yield tenant


@pytest.fixture
async def known(product: Product, tenant: Tenant) -> dict[str, str]:
    """Ids of things that exist, by the name of the path's parameter; new, for they may end."""
    made = tenant.caller.made
    zone = (await made("/zones", name="known", dcr_enabled=True))["id"]
    application = await made(f"/zones/{zone}/applications", name="a", credential_type="token")
    resource = await made(f"/zones/{zone}/resources", identifier="resource://a", scopes=["read"])
    provider = await made(f"/zones/{zone}/providers", identifier="a", kind="oauth2")
    policy_set = await made(f"/zones/{zone}/policy-sets", name="set")
    body = {"application_id": application["id"], "resource_id": resource["id"]}
    grant = await made(f"/zones/{zone}/grants", **body, scopes=["read"])
    return {
        "zone_id": zone,
        "application_id": application["id"],
        "resource_id": resource["id"],
        "provider_id": provider["id"],
        "policy_id": tenant.policy,
        "policy_set_id": policy_set["id"],
        "grant_id": grant["id"],
    }


def check(product: Product, case: Case) -> None:
    """Send a case; check that what comes back is an answer."""
    answer = case.call(base_url=product.url("api"), headers=HEADERS)
    assert answer.status_code < 500, (case, answer.text)
    if answer.status_code < 400:
        case.validate_response(answer, checks=[response_schema_conformance])
        return
    body: dict[str, Any] = answer.json()
    assert {"error", "error_description", "requestId"} <= body.keys() <= MEMBERS
    assert answer.headers["x-request-id"] == [body["requestId"]]
    for issue in body.get("issues", ()):
        assert issue.keys() == {"path", "message"}


def path_of(label: str, known: dict[str, str], mode: GenerationMode) -> dict[str, str] | None:
    """Return the ids of a path when they can be known; else, and to spoil, any may come."""
    operation = OPERATIONS[label]
    names = {parameter.name for parameter in operation.path_parameters}
    spoils_path = mode.is_negative and not (operation.body or operation.query)
    if spoils_path or not names <= known.keys():
        return None
    return {name: known[name] for name in names}


@pytest.mark.parametrize(
    ("label", "mode"), WAYS, ids=[f"{label}-{mode.value}" for label, mode in WAYS]
)
def test_any_input_gets_an_answer(
    product: Product, known: dict[str, str], label: str, mode: GenerationMode
) -> None:
    path = path_of(label, known, mode)
    strategy = OPERATIONS[label].as_strategy(mode, **({"path_parameters": path} if path else {}))

    @settings(
        max_examples=CASES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case: Case) -> None:
        check(product, case)

    send()


async def test_afterwards_the_read_models_are_whole(product: Product) -> None:
    url = product.servers.database_url
    async with (
        await AsyncConnection.connect(url, autocommit=True) as db,
        Redis.from_url(product.servers.redis_url) as redis,
    ):
        await oracle.check_topics(db, redis)
        await oracle.check_read_models(url, db, redis, Book())
    product.assert_alive()
