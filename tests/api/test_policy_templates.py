from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from caracal.policy.templates import templates
from tests.api.policies import policy_of, set_of, sets
from tests.api.running import Plane

PATH = "/policy-templates"
IDS = [
    "role-based",
    "attribute-based",
    "delegation",
    "baseline-scopes",
    "baseline-resource-constraints",
    "baseline-delegation-constraints",
    "baseline-session-state",
    "baseline-step-up-triggers",
    "baseline-rate-limits",
]


async def anonymous(api: Plane, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(base_url=api.url) as client:
        return await client.request(method, f"/v1{path}")


async def test_everybody_may_see_them(api: Plane) -> None:
    listed = await anonymous(api, PATH)
    assert [template["id"] for template in listed.json()] == IDS
    for template in listed.json():
        assert set(template) == {"id", "name", "description", "content"}
        assert all(template.values())
        assert (await anonymous(api, f"{PATH}/{template['id']}")).json() == template


async def test_a_token_does_no_harm(api: Plane) -> None:
    of_zone = await api.token("zone", await api.zone(), "read")
    for headers in (of_zone, {"Authorization": "Bearer wrong"}):
        answer = await api.call("GET", f"{PATH}/delegation", headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/unknown", 404, "policy_template_not_found"),
        ("/delegation.rego", 404, "policy_template_not_found"),
        ("/%2E%2E%2Fcheck", 404, "not_found"),
        ("/a%20b", 400, "invalid_params"),
        (f"/{'x' * 129}", 400, "invalid_params"),
        ("/", 404, "not_found"),
        ("s", 404, "not_found"),
        ("/delegation/content", 404, "not_found"),
    ],
)
async def test_what_is_not_there(api: Plane, path: str, status: int, code: str) -> None:
    url = httpx.URL(f"{api.url}/v1{PATH}{path}")
    async with httpx.AsyncClient() as client:
        answer = await client.send(client.build_request("GET", url))
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text


async def test_nothing_but_reading(api: Plane) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in (PATH, f"{PATH}/delegation"):
            answer = await anonymous(api, path, method)
            assert (answer.status_code, answer.json()["error"]) == (405, "method_not_allowed")
            assert answer.headers["allow"] == "GET, HEAD"


async def test_each_can_be_uploaded_activated_and_asked(api: Plane) -> None:
    zone = await api.zone()
    made = await asyncio.gather(
        *(policy_of(api, zone, template.content) for template in templates().values())
    )
    for policy in made:
        set_id, (version,) = await set_of(api, zone, [policy["version"]["id"]])
        told: Any = (
            await api.call(
                "POST", sets(zone, set_id, "simulate"), {"version_id": version, "input": {}}
            )
        ).json()
        assert told["would_activate"]
        assert told["result"]["decision"] == "deny"
        activated = await api.call("POST", sets(zone, set_id, "activate"), {"version_id": version})
        assert activated.status_code == 202
