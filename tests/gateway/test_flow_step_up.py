"""Step-up from end to end: Gateway, STS, control plane and worker, each as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal.ids import new_id
from caracal.services.api.app import create_app as create_api
from caracal.services.sts.app import create_app as create_sts
from caracal.settings import load_settings
from tests.gateway.scene import Scene, new_scene, sts_settings
from tests.sts.test_step_up import POLICY
from tests.sts.world import KEK, serving, working

OPERATOR = "operator-token"


@dataclass
class Plane:
    scene: Scene
    api: httpx.AsyncClient
    resource: str

    async def call(self, **headers: str) -> httpx.Response:
        """Call the upstream with a scope that the policy asks for."""
        given = {"X-Caracal-Resource": self.resource, "X-Caracal-Scope": "write"} | headers
        return await self.scene.call(headers=given)


@pytest.fixture(scope="module")
async def plane(module_database_url: str, module_redis_url: str) -> AsyncIterator[Plane]:
    urls = module_database_url, module_redis_url
    async with (
        serving(create_sts(sts_settings(*urls))) as sts,
        new_scene(*urls, sts_url=sts) as scene,
        working(scene.settings),
        serving(create_api(_api_settings(scene))) as url,
        httpx.AsyncClient(
            base_url=f"{url}/v1/zones/{scene.tenant.id}",
            headers={"Authorization": f"Bearer {OPERATOR}"},
        ) as api,
    ):
        await scene.tenant.activate(POLICY)
        made = await scene.resource_with(upstream_url=scene.sts.upstream, scopes=["read", "write"])
        yield Plane(scene, api, made.identifier)


def _api_settings(scene: Scene) -> Any:
    given = scene.settings
    rings = ("facts_hmac_key", "streams_hmac_key", "audit_hmac_key")
    environment = {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": given.database_url,
        "REDIS_URL": given.redis_url,
        "ZONE_KEK": KEK.hex(),
        "CARACAL_ADMIN_TOKEN": OPERATOR,
        **{name.upper(): getattr(given, name)[0].hex() for name in rings},
    }
    return load_settings("api", environment)


async def test_a_call_that_needs_agreement(plane: Plane) -> None:
    upstream = plane.scene.upstream
    headers = plane.scene.headers()
    bearer = {"Authorization": headers["Authorization"]}
    first = await plane.call(**bearer)
    body = first.json()
    assert (first.status_code, body["error"]) == (401, "interaction_required")
    assert 'error="interaction_required"' in first.headers["www-authenticate"]
    assert upstream.requests == []
    challenge_id, secret = body["challenge_id"], body["challenge_secret"]
    retry = bearer | {
        "X-Caracal-Challenge-Id": challenge_id,
        "X-Caracal-Challenge-Response": secret,
    }
    assert (await plane.call(**retry)).status_code == 401  # nobody has agreed yet

    listed = (await plane.api.get("/step-up-challenges")).json()
    assert [item["id"] for item in listed] == [challenge_id]
    assert listed[0]["metadata_json"]["resources"] == [plane.resource]
    assert secret not in str(listed)
    agreed = await plane.api.post(
        f"/step-up-challenges/{challenge_id}/satisfy", json={"approver_subject_id": "boss"}
    )
    assert agreed.status_code == 200

    passed = await plane.call(**retry)
    assert passed.status_code == 200
    (request,) = upstream.requests
    names = {name for name, _ in request.headers}
    assert not any(name.lower().startswith(b"x-caracal-challenge") for name in names)
    again = await plane.call(**retry)
    assert (again.status_code, again.json()["error"]) == (401, "access_denied")
    assert len(upstream.requests) == 1


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": new_id(), "method": "tools/call", "params": params}


async def test_agreement_to_one_tool_is_none_to_another(plane: Plane) -> None:
    scene = plane.scene
    made = await scene.resource_with(
        upstream_url=scene.sts.upstream, scopes=["read", "write"], protocol="mcp"
    )
    headers = {
        "Authorization": scene.headers()["Authorization"],
        "X-Caracal-Resource": made.identifier,
        "X-Caracal-Scope": "write",
    }

    async def call(body: Any, **more: str) -> httpx.Response:
        return await scene.call("/mcp", "POST", headers=headers | more, json=body)

    asked = (await call(tool("refund", order=7))).json()
    challenge_id = asked["challenge_id"]
    path = f"/step-up-challenges/{challenge_id}"
    shown = (await plane.api.get(path)).json()["metadata_json"]["call"]
    assert shown["http"] == {"method": "POST", "path": "/mcp"}
    assert (shown["mcp"]["method"], shown["mcp"]["name"]) == ("tools/call", "refund")
    assert (await plane.api.post(f"{path}/satisfy")).status_code == 200
    retry = {
        "X-Caracal-Challenge-Id": challenge_id,
        "X-Caracal-Challenge-Response": asked["challenge_secret"],
    }
    before = len(scene.upstream.requests)
    for other in (tool("delete_all", order=7), tool("refund", order=8)):
        refused = await call(other, **retry)
        assert (refused.status_code, refused.json()["error"]) == (401, "access_denied")
    assert len(scene.upstream.requests) == before
    assert (await call(tool("refund", order=7), **retry)).status_code == 200
    batch = await call([tool("refund", order=7), tool("delete_all")])
    assert (batch.status_code, batch.json()["error"]) == (403, "access_denied")


async def test_who_asked_cannot_agree(plane: Plane) -> None:
    body = (await plane.call()).json()
    own = {"approver_subject_id": plane.scene.tenant.app_id}
    path = f"/step-up-challenges/{body['challenge_id']}/satisfy"
    answer = await plane.api.post(path, json=own)
    assert (answer.status_code, answer.json()["error"]) == (409, "challenge_not_satisfiable")
