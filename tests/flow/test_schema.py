"""Whatever a caller may send, drawn from the API's own schema, to the running product.

``CARACAL_SCHEMA_CASES`` says how many cases an operation gets of each kind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from caracal.services.api.app import routes
from tests.flow.conftest import Making
from tests.flow.drawing import CASES, check_whole, each
from tests.flow.product import OPERATOR, Product
from tests.flow.tenant import Tenant, new_tenant

HEADERS = {"Authorization": f"Bearer {OPERATOR}"}


def document() -> dict[str, Any]:
    """The OpenAPI without the header that asks for a position: most would be waited for."""
    made: dict[str, Any] = deepcopy(routes().openapi())
    waits = {"$ref": "#/components/parameters/MinPosition"}
    for item in made["paths"].values():
        for operation in item.values():
            operation["parameters"] = [p for p in operation.get("parameters", ()) if p != waits]
    return made


load_all_checks()
ALL = CHECKS.get_all()
ABOUT_MEANING = {
    "retention_above_limit",
    *("invalid_cursor", "no_fields", "invalid_rego", "invalid_schema_version"),
    *("invalid_policy_contract", "invalid_shadow_policy_contract"),
    *("retention_above_limit", "dcr_shutdown_not_applicable"),
    *("authorization_state_invalid", "return_to_not_allowed"),
}
SHAPE = ("Input should", "String should", "List should", "Dictionary should", "Field required")
"""How the messages begin of what a schema says; our own validators have other words."""
NO_1_0 = "Input should be a valid integer"  # to JSON Schema 1.0 is one

SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120 + CASES)]


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """The control plane."""
    made = making(CARACAL_LOCAL_BOOTSTRAP_ENABLED="true")
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
    """Send a case; check that what comes back is an answer that the document promises."""
    components = case.meta.components if case.meta else {}
    spoilt = {place for place, part in components.items() if part.mode.is_negative}
    headers = {} if ParameterLocation.HEADER in spoilt else HEADERS  # it is the token
    answer = case.call(base_url=product.url("api"), headers=headers)
    case.validate_response(answer, checks=ALL, excluded_checks=[positive_data_acceptance])
    if not spoilt and answer.status_code in (400, 422):
        assert is_about_meaning(answer.json()), (case, answer.text)


def is_about_meaning(refusal: dict[str, Any]) -> bool:
    """Say whether a refusal is about what a schema cannot say."""
    messages = [issue["message"] for issue in refusal.get("issues", ())]
    return (
        refusal["error"] in ABOUT_MEANING
        or refusal["error_description"].endswith("mean the same and differ")
        or (bool(messages) and not any(map(is_about_shape, messages)))
    )


def is_about_shape(message: str) -> bool:
    """Say whether a message is about what the schema says."""
    return message.startswith(SHAPE) and message != NO_1_0


def path_of(label: str, known: dict[str, str], mode: GenerationMode) -> dict[str, str] | None:
    """Return the ids of a path when they can be known; else, and to spoil, any may come."""
    operation = OPERATIONS[label]
    names = {parameter.name for parameter in operation.path_parameters}
    spoils_path = mode.is_negative and not (operation.body or operation.query)
    if spoils_path or not names <= known.keys():
        return None
    return {name: known[name] for name in names}


def ways() -> Iterator[Any]:
    """Each operation, with good input and with bad, if it takes any."""
    for label, operation in OPERATIONS.items():
        takes_some = bool(operation.body or operation.query or operation.path_parameters)
        for mode in GenerationMode if takes_some else (GenerationMode.POSITIVE,):
            yield pytest.param(label, mode, id=f"{label} {mode.value}")


@pytest.mark.parametrize(("label", "mode"), list(ways()))
def test_any_input_gets_an_answer(
    product: Product, known: dict[str, str], label: str, mode: GenerationMode
) -> None:
    path = path_of(label, known, mode)
    strategy = OPERATIONS[label].as_strategy(mode, **({"path_parameters": path} if path else {}))

    each(strategy, lambda case: check(product, case))


async def test_afterwards_the_read_models_are_whole(product: Product) -> None:
    await check_whole(product)
