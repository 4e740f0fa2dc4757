"""The OpenAPI document is complete, and true."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator

from caracal.services.api.app import ROUTERS
from caracal.services.api.codes import STATUS_OF, declared
from caracal.services.api.openapi import api_routes
from caracal.services.documented import operation_id
from tests.api.documented import document
from tests.api.running import Plane

DOCUMENT = document()
MUTATIONS = ("post", "put", "patch", "delete")

# errors.md, section 3: any service as far as it is the API, and API.
CONTRACT = {
    400: "invalid_body invalid_params invalid_query invalid_cursor no_fields invalid_zone"
    " dcr_shutdown_not_applicable retention_above_limit",
    401: "invalid_admin_token",
    403: "admin_token_zone_mismatch admin_token_capability admin_token_management_requires_global"
    " dcr_disabled grant_scopes_exceed_resource loopback_only trait_count_exceeded trait_invalid"
    " trait_duplicate trait_forbidden",
    404: "not_found zone_not_found application_not_found resource_not_found provider_not_found"
    " policy_not_found policy_set_not_found policy_set_version_not_found grant_not_found"
    " challenge_not_found challenge_not_found_or_expired request_not_found admin_token_not_found"
    " policy_template_not_found gateway_application_not_found version_not_found"
    " shadow_version_not_found policy_set_binding_not_found",
    405: "method_not_allowed",
    409: "zone_slug_conflict resource_identifier_conflict provider_identifier_conflict"
    " policy_name_conflict policy_set_name_conflict app_referenced_by_active_policy"
    " referenced_policy_version_missing zone_not_local_bootstrap dcr_shutdown_required"
    " resource_quota_exceeded challenge_not_satisfiable concurrent_update",
    413: "payload_too_large",
    422: "invalid_rego invalid_schema_version invalid_policy_contract"
    " invalid_shadow_policy_contract",
    429: "rate_limited dcr_rate_limit_exceeded dcr_limit_exceeded",
    500: "internal_error",
    503: "projection_lagging state_stale unavailable",
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


OPERATIONS = [pytest.param(*one, id=one[2]["operationId"]) for one in operations()]
OURS = [one for one in OPERATIONS if not one.id.startswith("operations.")]


def undeclared(routers: Any) -> list[str]:
    return [
        f"add @refuses(...) to {route.endpoint.__name__} of {route.endpoint.__module__}, below"
        " its @router line: the codes that only this route answers; @refuses() when there are none"
        for route in api_routes(routers)
        if declared(route.endpoint) is None
    ]


def unknown(routers: Any) -> list[str]:
    return [
        f"add {code!r} to caracal/services/api/codes.py, {operation_id(route)} answers it"
        for route in api_routes(routers)
        for code in declared(route.endpoint) or ()
        if code not in STATUS_OF
    ]


def test_every_route_says_how_it_refuses() -> None:
    assert undeclared(ROUTERS) == []
    assert unknown(ROUTERS) == []


def test_a_forgotten_declaration_says_what_to_add() -> None:
    router = APIRouter(tags=["lamps"])

    @router.get("/v1/lamps")
    async def list_() -> None:
        """List lamps."""

    (line,) = undeclared([router])
    assert line.startswith("add @refuses(...) to list_ of tests.api.test_openapi, below its")


def test_every_code_of_the_contract_is_named() -> None:
    codes = {code: status for status, text in CONTRACT.items() for code in text.split()}
    assert codes.items() <= STATUS_OF.items()
    assert DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"] == [*STATUS_OF]


def test_names_are_stable_and_single() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    assert not [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)]
    assert {"zones.list", "policy_sets.activate", "admin_tokens.create"} <= set(names)


def test_the_document_says_what_it_is() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["components"]["securitySchemes"]["adminToken"]["scheme"] == "bearer"
    assert DOCUMENT["security"] == [{"adminToken": []}]
    described = {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]}
    assert described == {tag for _, _, operation in operations() for tag in operation["tags"]}
    assert "422" not in DOCUMENT["paths"]["/v1/zones"]["post"]["responses"]
    assert not [
        name for name in DOCUMENT["components"]["schemas"] if name.endswith("ValidationError")
    ]


def test_all_references_lead_somewhere() -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            node = list(node.values())
        for part in node if isinstance(node, list) else ():
            yield from references(part)

    for reference in set(references(DOCUMENT)):
        target: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_is_described(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert not operation["summary"].endswith((".", " "))
    assert operation["tags"]
    for answer in operation["responses"].values():
        assert answer["description"]


@pytest.mark.parametrize(("path", "method", "operation"), OURS)
def test_headers(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    good = [answer for status, answer in answers.items() if status < "400"]
    for answer in answers.values():
        assert "X-Request-Id" in answer["headers"]
    for answer in good:
        assert ("Caracal-Position" in answer["headers"]) == (method in MUTATIONS)
        assert ("Link" in answer["headers"]) == _is_list(operation)
    assert "Retry-After" in answers["503"]["headers"]
    if operation.get("security") != []:
        assert "WWW-Authenticate" in answers["401"]["headers"]


def _is_list(operation: dict[str, Any]) -> bool:
    return any(part.get("name") == "cursor" for part in operation["parameters"])


@pytest.mark.parametrize(("path", "method", "operation"), OURS)
def test_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    errors = {s: a for s, a in operation["responses"].items() if s >= "400"}
    assert {"400", "500", "503"} <= errors.keys()
    is_public = operation.get("security") == []
    assert ({"401", "403", "429"} <= errors.keys()) != is_public
    if "{zone_id}" in path:
        codes = errors["404"]["content"]["application/json"]["examples"]
        assert "zone_not_found" in codes
    for status, answer in errors.items():
        content = answer["content"]["application/json"]
        assert content["schema"]["$ref"] == "#/components/schemas/Error"
        for code in content["examples"]:
            value = DOCUMENT["components"]["examples"][code]["value"]
            assert (value["error"], STATUS_OF[code]) == (code, int(status))
            check(content["schema"], value)


def check(schema: dict[str, Any], value: Any) -> None:
    """Check a value against a schema of the document."""
    rooted = {"$ref": "#/whole", "whole": schema, "components": DOCUMENT["components"]}
    problems = list(Draft202012Validator(rooted).iter_errors(value))
    assert not problems, [problem.message for problem in problems]


@pytest.mark.parametrize(("path", "method", "operation"), OURS)
def test_examples_fit_their_schemas(path: str, method: str, operation: dict[str, Any]) -> None:
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    good = [answer for status, answer in operation["responses"].items() if status < "400"]
    for part in (*bodies, *good):
        for content in part.get("content", {}).values():
            check(content["schema"], content["example"])
            assert content["example"] not in ({}, [], [{}])


WITH_BODY = [one for one in OURS if "requestBody" in one.values[2]]


@pytest.mark.parametrize(("path", "method", "operation"), WITH_BODY)
async def test_examples_of_bodies_are_taken(
    api: Plane, path: str, method: str, operation: dict[str, Any]
) -> None:
    """Sent as they are they may meet nothing, but they are never malformed."""
    zone = await api.zone()
    where = re.sub(r"\{[a-z_]+\}", "unknown", path.replace("{zone_id}", zone))
    body = operation["requestBody"]["content"]["application/json"]["example"]
    answer = await api.call(method.upper(), where.removeprefix("/v1"), body)
    assert answer.status_code not in (400, 422), answer.text


async def test_it_is_served(api: Plane) -> None:
    async with httpx.AsyncClient(base_url=api.url) as anonymous:
        answer = await anonymous.get("/openapi.json")
    assert answer.status_code == 200
    served = answer.json()
    assert served["info"]["title"] == "Caracal Control Plane"
    assert served["paths"].keys() == DOCUMENT["paths"].keys() - {"/v1/local/bootstrap"}


def test_docstrings_of_routes_are_sentences() -> None:
    for route in api_routes(ROUTERS):
        assert isinstance(route, APIRoute)
        text = inspect.getdoc(route.endpoint)
        assert text, f"give {route.endpoint.__name__} of {route.endpoint.__module__} a docstring"
        assert text.endswith("."), text
