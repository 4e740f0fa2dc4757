"""What the Gateway answers itself: metadata, the reload, readiness, metrics; and TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from caracal.ids import new_id
from tests.backbone import eventually
from tests.certificates import certificate
from tests.gateway.doubles import ISSUER, Feed, Wire
from tests.gateway.scene import ADMIN, Scene, new_scene

WELL_KNOWN = "/.well-known/oauth-protected-resource"
RELOAD = "/.well-known/caracal/reload"


async def test_metadata_of_a_resource(scene: Scene) -> None:
    for written in ("resource%3A%2F%2Fone", "resource://one"):
        answer = await scene.http.get(f"{scene.url}{WELL_KNOWN}/{scene.tenant.id}/{written}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert "date" in answer.headers
        assert answer.json() == {
            "resource": "resource://one",
            "authorization_servers": [f"{ISSUER}/zones/{scene.tenant.id}"],
            "scopes_supported": ["read", "write", "odd", "agent:lifecycle"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ["ES256", "RS256", "PS256"],
        }
    assert not scene.upstream.requests


async def test_metadata_of_the_gateway(scene: Scene) -> None:
    answer = await scene.http.get(scene.url + WELL_KNOWN)
    assert answer.json() == {
        "resource": scene.url,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256", "PS256"],
    }


async def test_metadata_of_a_resource_made_a_moment_ago(scene: Scene) -> None:
    made = await scene.tenant.add_resource(upstream_url="http://127.0.0.1:9")
    path = f"{WELL_KNOWN}/{scene.tenant.id}/{made.identifier}"
    assert (await scene.http.get(scene.url + path)).status_code == 200


@pytest.mark.parametrize("tail", ["/{zone}", "/{zone}/resource%3A%2F%2Fnone", "/a%20b/x", "/%00/x"])
async def test_no_metadata_of_what_is_not_there(scene: Scene, tail: str) -> None:
    answer = await scene.http.get(scene.url + WELL_KNOWN + tail.format(zone=scene.tenant.id))
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_with_a_bearer_metadata_paths_are_the_upstream_s(scene: Scene) -> None:
    for path in (WELL_KNOWN, f"{WELL_KNOWN}/a/b", RELOAD):
        assert (await scene.call(path)).text == "hello"
    paths = [request.raw_path.decode() for request in scene.upstream.requests]
    assert paths == [WELL_KNOWN, f"{WELL_KNOWN}/a/b", RELOAD]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", WELL_KNOWN), ("GET", WELL_KNOWN + "s"), ("GET", RELOAD), ("POST", RELOAD)],
)
async def test_other_requests_there_are_proxied(scene: Scene, method: str, path: str) -> None:
    answer = await scene.http.request(method, scene.url + path)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


async def test_a_reload_takes_a_new_snapshot(scene: Scene) -> None:
    tail = scene.gateway.view.following
    before = tail.snapshots
    answer = await scene.http.post(
        scene.url + RELOAD, headers={"Authorization": f"Bearer {ADMIN}", "X-Request-Id": "r-1"}
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-request-id"] == "r-1"
    assert "content-length" not in answer.headers
    assert tail.snapshots == before + 1
    assert (await scene.call()).status_code == 200
    wrong = await scene.http.post(scene.url + RELOAD, headers={"Authorization": "Bearer no"})
    assert wrong.status_code == 401
    assert tail.snapshots == before + 1


async def test_what_a_reload_finds_revoked_is_cut(scene: Scene) -> None:
    """The facts may have been missed: every stream is looked at again."""
    session = await scene.session()
    scene.upstream.behaviour = feed = Feed()
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        await wire.ask("/", scene.headers(sid=session.aggregate_id))
        assert await wire.piece() == b"one"
        heard, scene.gateway.streams.heard = scene.gateway.streams.heard, lambda fact: None  # type: ignore[method-assign]
        try:
            await scene.revoke(session)
        finally:
            scene.gateway.streams.heard = heard  # type: ignore[method-assign]
        await scene.http.post(scene.url + RELOAD, headers={"Authorization": f"Bearer {ADMIN}"})
        assert await wire.rest() == (b"", {"x-caracal-revoked": "true"})


async def test_operational_routes_are_never_proxied(scene: Scene) -> None:
    headers = scene.headers()
    for path in ("/health", "/ready", "/metrics"):
        answer = await scene.http.get(scene.url + path, headers=headers)
        assert answer.status_code == 200
        assert "date" in answer.headers
    assert not scene.upstream.requests


async def test_ready_says_what_is_missing(scene: Scene) -> None:
    async def reason() -> str | None:
        answer = await scene.http.get(f"{scene.url}/ready")
        found: str | None = answer.json().get("reason")
        assert answer.status_code == (503 if found else 200)
        return found

    assert await reason() is None
    scene.sts.healthy = False
    assert await reason() == "sts_unreachable"
    scene.sts.healthy = True
    tail = scene.gateway.view.following
    tail._task, task = None, tail._task
    assert await reason() == "bindings_unavailable"
    tail._task = task
    assert await reason() is None


async def test_metrics(scene: Scene) -> None:
    await scene.resource_with(upstream_url=None)
    await scene.resource_with(upstream_url="http://127.0.0.1:9", identifier=f"r:{new_id()}")
    counted = await scene.counted()
    assert set(counted) == {
        "requests_total",
        "requests_allowed",
        "requests_denied",
        "denials_missing_auth",
        "denials_bad_bearer",
        "denials_expiring",
        "denials_bad_routing",
        "denials_path_traversal",
        "denials_signature",
        "denials_jti_replay",
        "denials_revoked",
        "denials_binding",
        "sts_exchange_errors",
        "upstream_errors",
        "bindings_loaded",
        "revocations_active",
        "zones_loaded",
        "zones_bytes",
        "zones_loads_total",
        "zones_load_failures_total",
        "zones_load_seconds_total",
        "zones_evictions_total",
    }
    (zone,) = scene.gateway.view.zones.kept()
    rows = zone.tables["resources"].rows.values()
    assert counted["bindings_loaded"] == sum(bool(row["upstream_url"]) for row in rows)
    assert len(rows) == counted["bindings_loaded"] + 1
    assert (counted["zones_loaded"], counted["zones_bytes"]) == (1, zone.weight)
    before = counted["revocations_active"]
    await scene.revoke(await scene.session())
    assert (await scene.counted())["revocations_active"] == before + 1
    text = (await scene.http.get(f"{scene.url}/metrics")).text
    assert "caracal_gateway_requests_total " in text


async def test_the_gateway_speaks_tls(
    module_database_url: str, module_redis_url: str, tmp_path: Path
) -> None:
    certificate(tmp_path)
    pem = str(tmp_path / "server.pem")
    pair = {"TLS_CERT_FILE": pem, "TLS_KEY_FILE": pem, "GATEWAY_URL": "https://gateway.example"}
    async with new_scene(module_database_url, module_redis_url, **pair) as scene:
        trusting = ssl.create_default_context(cafile=pem)
        trusting.check_hostname = False
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            scene.http = client
            assert (await scene.call()).text == "hello"
            assert scene.upstream.requests[0].all("x-forwarded-proto") == ["https"]
            answer = await scene.call(headers={"Authorization": None})
            assert "https://gateway.example/.well-known" in answer.headers["www-authenticate"]
        old = ssl.create_default_context(cafile=pem)
        old.check_hostname = False
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("ECDHE+AESGCM")  # what a TLS 1.2 client wants to speak today
        async with httpx.AsyncClient(verify=old, trust_env=False) as client:
            assert (await client.get(f"{scene.url}/health")).status_code == 200


async def test_metadata_without_an_issuer_names_none(
    module_database_url: str, module_redis_url: str
) -> None:
    async with new_scene(module_database_url, module_redis_url, ISSUER_URL="") as scene:
        answer = await scene.http.get(f"{scene.url}{WELL_KNOWN}/{scene.tenant.id}/resource://one")
        assert "authorization_servers" not in answer.json()
        assert (await scene.call()).status_code == 200
        elsewhere = await scene.call(claims={"aud": ["https://elsewhere.example"]})
        assert elsewhere.status_code == 401


async def test_no_call_is_left_over(scene: Scene) -> None:
    async def over() -> bool:
        return not len(scene.gateway.streams)

    await eventually(over)
