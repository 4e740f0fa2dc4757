"""The exchange: what is sent to the STS, and each row of the contract's table of outcomes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import orjson
import pytest

from caracal.ids import new_id
from tests.backbone import eventually
from tests.gateway.doubles import Told, Wire
from tests.gateway.scene import Scene, new_scene

REFUSED = {"error": "access_denied", "error_description": "policy denied", "requestId": "x"}
STEP_UP = {
    "error": "interaction_required",
    "error_description": "Step-up authorization required for this resource",
    "challenge_id": "c-1",
    "challenge_type": "mfa",
    "challenge_secret": "hush",
    "challenge_expires_at": "2030-01-01T00:00:00Z",
    "requestId": "x",
}
INVALID = (502, "sts_unavailable", "sts response invalid")


def granted(**members: Any) -> Any:
    """A success without some members."""
    body = {"access_token": "a.b.c", "anchors": [], "upstreams": {}} | members
    return {name: value for name, value in body.items() if value is not None}


UNROUTED = (403, "access_denied", "resource upstream not configured")
DENIED = (403, "access_denied", "policy denied")
UNAVAILABLE = "sts_unavailable", "sts unavailable"
LIMITED = REFUSED | {"error": "provider_rate_limited"}
NO_URL = {"resource://one": {"url": ""}}

OUTCOMES: dict[str, tuple[Told, tuple[int, str, str], str | None]] = {
    "no upstream": (Told(200, granted()), UNROUTED, None),
    "an empty upstream": (Told(200, granted(upstreams=NO_URL)), UNROUTED, None),
    "no JSON": (Told(200, b"<html>"), INVALID, None),
    "no token": (Told(200, granted(access_token=None)), INVALID, None),
    "no anchors": (Told(200, granted(anchors=None)), INVALID, None),
    "anchors that are none": (Told(200, granted(anchors=[1])), INVALID, None),
    "a success over 64 KiB": (Told(200, granted(access_token="a" * 66_000)), INVALID, None),
    "a refusal": (Told(403, REFUSED), DENIED, None),
    "a refusal of the token": (Told(401, REFUSED), (401, *DENIED[1:]), None),
    "too many": (
        Told(429, LIMITED, {"Retry-After": "7"}),
        (429, "provider_rate_limited", "policy denied"),
        "7",
    ),
    "no evidence": (
        Told(503, REFUSED | {"error": "audit_unavailable"}),
        (503, "audit_unavailable", "policy denied"),
        "1",
    ),
    "a Retry-After that is none": (
        Told(503, REFUSED, {"Retry-After": "soon"}),
        (503, *DENIED[1:]),
        "1",
    ),
    "a bare 500": (Told(500, b"oops: secret"), (500, *UNAVAILABLE), None),
    "a bare 503": (Told(503, b""), (503, *UNAVAILABLE), "1"),
    "a refusal over 16 KiB": (Told(403, REFUSED | {"x": "y" * 17_000}), (403, *UNAVAILABLE), None),
    "a redirect": (Told(307, b"", {"Location": "http://127.0.0.1/"}), (502, *UNAVAILABLE), None),
    "another success": (Told(204, b""), (502, *UNAVAILABLE), None),
}


@pytest.mark.parametrize(("told", "expected", "retry_after"), OUTCOMES.values(), ids=OUTCOMES)
async def test_an_outcome_is_answered(
    scene: Scene, told: Told, expected: tuple[int, str, str], retry_after: str | None
) -> None:
    scene.sts.told = told
    before = await scene.counted()
    answer = await scene.call()
    after = await scene.counted()
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_description"]) == expected
    assert body["requestId"] == answer.headers["x-request-id"]
    assert answer.headers.get("retry-after") == retry_after
    assert ("www-authenticate" in answer.headers) == (expected[0] == 401)
    risen = {name for name in after if after[name] > before[name]}
    assert risen == {"requests_total", "requests_denied", "sts_exchange_errors"}
    assert not scene.upstream.requests


async def test_a_step_up_passes_with_its_challenge(scene: Scene) -> None:
    scene.sts.told = Told(401, STEP_UP)
    answer = await scene.call(headers={"X-Caracal-Scope": "read"})
    request_id = answer.headers["x-request-id"]
    assert answer.json() == STEP_UP | {"requestId": request_id}
    interaction, scope = answer.headers.get_list("www-authenticate")
    url = f"{scene.url}/.well-known/oauth-protected-resource/{scene.tenant.id}/resource%3A%2F%2Fone"
    assert interaction == f'Bearer resource_metadata="{url}", error="interaction_required"'
    assert scope == f'Bearer resource_metadata="{url}", error="insufficient_scope", scope="read"'
    unscoped = await scene.call()
    assert 'scope="read write odd agent:lifecycle"' in unscoped.headers["www-authenticate"]


async def test_the_form_is_what_the_contract_says(scene: Scene) -> None:
    headers = scene.headers()
    await scene.call("/a%20b?secret=1", "PATCH", headers=headers | {"X-Request-Id": "req-1"})
    (form,) = scene.sts.calls
    context = form.pop("call_context")
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token": headers["Authorization"].removeprefix("Bearer "),
        "zone_id": scene.tenant.id,
        "application_id": scene.tenant.app_id,
        "resource": "resource://one",
    }
    assert orjson.loads(context) == {"http": {"method": "PATCH", "path": "/a b"}}
    (sent,) = scene.sts.headers
    assert sent[b"x-request-id"] == b"req-1"
    assert sent[b"accept"] == b"application/json"
    assert sent[b"user-agent"] == b"caracal-gateway"
    assert sent[b"content-type"] == b"application/x-www-form-urlencoded"


async def test_scope_and_challenge_go_along_when_sent(scene: Scene) -> None:
    challenge = {"X-Caracal-Challenge-Id": "c-1", "X-Caracal-Challenge-Response": "hush"}
    await scene.call(headers={"X-Caracal-Scope": "read  write"} | challenge)
    (form,) = scene.sts.calls
    assert form["scope"] == "read write"
    assert (form["challenge_id"], form["challenge_response"]) == ("c-1", "hush")
    half = await scene.call(headers={"X-Caracal-Challenge-Id": "c-1"})
    assert half.status_code == 400


async def test_the_position_that_the_caller_wants_to_see_goes_along(scene: Scene) -> None:
    await scene.call(headers={"Caracal-Min-Position": "1"})
    await scene.call()
    asked, silent = scene.sts.headers
    assert asked[b"caracal-min-position"] == b"1"
    assert b"caracal-min-position" not in silent


async def test_each_call_is_exchanged_with_a_nonce_of_its_own(scene: Scene) -> None:
    headers = scene.headers() | {"X-Request-Id": "same"}
    for _ in range(3):
        assert (await scene.call(headers=headers)).status_code == 200
    nonces = {sent[b"x-caracal-gateway-request"] for sent in scene.sts.headers}
    assert len(nonces) == len(scene.sts.calls) == 3


async def test_a_resource_may_run_the_exchange_as_another_application(scene: Scene) -> None:
    gateway = await scene.tenant.add_application()
    made = await scene.resource_with(
        upstream_url="http://127.0.0.1:9", gateway_application_id=gateway.aggregate_id
    )
    await scene.call(headers={"X-Caracal-Resource": made.identifier})
    assert scene.sts.calls[0]["application_id"] == gateway.aggregate_id


MCP = {
    "call": (
        {"method": "tools/call", "params": {"name": "find", "arguments": {"b": 1, "a": [2]}}},
        {"method": "tools/call", "name": "find", "argument_keys": ["a", "b"]},
    ),
    "list": ({"method": "tools/list"}, {"method": "tools/list"}),
    "read": (
        {"method": "resources/read", "params": {"uri": "file:///x"}},
        {"method": "resources/read", "name": "file:///x"},
    ),
    "answer": ({"id": 1, "result": {}}, {"method": "response"}),
    "batch": ([{"method": "tools/list"}], {"method": ""}),
    "no JSON": (b"{", {"method": ""}),
    "a name that is none": ({"method": "tools/call", "params": {"name": 7}}, {"method": ""}),
    "a name too long to tell": (
        {"method": "tools/call", "params": {"name": "n" * 600}},
        {"method": ""},
    ),
    "too much to be read here": (b" " * 1_100_000 + b'{"method": "x"}', {"method": ""}),
    "keys too long to tell": (
        {"method": "tools/call", "params": {"name": "find", "arguments": {"k" * 3000: 1}}},
        {"method": "tools/call", "name": "find"},
    ),
}


@pytest.fixture(scope="module")
async def mcp(module_scene: Scene) -> str:
    """The identifier of a resource that speaks MCP."""
    made = await module_scene.resource_with(upstream_url="http://127.0.0.1:9", protocol="mcp")
    return made.identifier


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize(("sent", "told"), MCP.values(), ids=MCP)
async def test_policy_is_told_of_an_mcp_call(
    scene: Scene, mcp: str, sent: Any, told: dict[str, Any], chunked: bool
) -> None:
    body = sent if isinstance(sent, bytes) else orjson.dumps(sent)

    async def pieces() -> Any:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    answer = await scene.call(
        "/mcp",
        "POST",
        headers={"X-Caracal-Resource": mcp},
        content=pieces() if chunked else body,
    )
    assert answer.status_code == 200
    found = orjson.loads(scene.sts.calls[0]["call_context"])["mcp"]
    assert ("arguments_sha256" in found) == ("find" in told.values())
    assert {k: v for k, v in found.items() if k != "arguments_sha256"} == told
    assert scene.upstream.requests[0].body == body


async def test_a_get_of_an_mcp_resource_is_no_mcp_call(scene: Scene, mcp: str) -> None:
    await scene.call("/mcp", headers={"X-Caracal-Resource": mcp})
    assert "mcp" not in orjson.loads(scene.sts.calls[0]["call_context"])


async def test_a_path_too_long_to_be_told_is_refused(scene: Scene) -> None:
    answer = await scene.call("/" + "a" * 9000)
    assert (answer.status_code, answer.json()["error"]) == (400, "internal_error")
    assert not scene.sts.calls


async def test_an_sts_that_is_gone_is_asked_again_only_after_a_while(scene: Scene) -> None:
    url, scene.calls._exchange._url = scene.calls._exchange._url, _nowhere()
    try:
        answers = [await scene.call() for _ in range(6)]
    finally:
        scene.calls._exchange._url = url
    told = [(each.status_code, each.json()["error"]) for each in answers]
    assert told == [(502, "sts_unavailable")] * 5 + [(503, "sts_unavailable")]
    assert int(answers[-1].headers["retry-after"]) >= 1
    still = await scene.call()
    assert still.status_code == 503
    scene.calls._exchange._open_until = 0.0
    assert (await scene.call()).status_code == 200


def _nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/oauth/2/token"


async def test_an_sts_that_does_not_answer_in_time(
    module_database_url: str, module_redis_url: str
) -> None:
    async with new_scene(module_database_url, module_redis_url, STS_TIMEOUT="200ms") as scene:
        assert (await scene.call()).status_code == 200
        scene.sts.hold = asyncio.Event()
        answer = await scene.call()
        scene.sts.hold.set()
    assert (answer.status_code, answer.json()["error"], answer.json()["error_description"]) == (
        504,
        "sts_unavailable",
        "sts timeout",
    )


async def test_without_keys_nothing_passes(scene: Scene) -> None:
    keys = scene.calls.check._bearers._keys
    fetch, keys._fetch = keys._fetch, _fails
    keys.drop(scene.tenant.id)
    try:
        answer = await scene.call()
    finally:
        keys._fetch = fetch
        keys.drop(scene.tenant.id)
    assert (answer.status_code, answer.json()["error"]) == (502, "sts_unavailable")
    assert not scene.sts.calls


async def _fails(zone_id: str) -> bytes:
    raise OSError(f"no keys of {zone_id}")


async def test_a_client_that_leaves_during_the_exchange_is_not_called_for(scene: Scene) -> None:
    scene.sts.hold = asyncio.Event()
    total = len(scene.gateway.streams)
    async with Wire.opened(scene.url) as wire:
        asking = asyncio.create_task(wire.ask("/", scene.headers()))

        async def asked() -> bool:
            return bool(scene.sts.calls)

        await eventually(asked)
        asking.cancel()

    async def over() -> bool:
        return len(scene.gateway.streams) == total

    await eventually(over, what="the call's end")
    scene.sts.hold.set()
    assert (await scene.call()).status_code == 200
    assert len(scene.upstream.requests) == 1


async def test_a_revocation_during_the_exchange_ends_the_call(scene: Scene) -> None:
    session = await scene.session()
    sid = {"sid": session.aggregate_id, "root_sid": session.aggregate_id}
    scene.sts.hold = asyncio.Event()
    calling = asyncio.create_task(scene.call(claims=sid))

    async def asked() -> bool:
        return bool(scene.sts.calls)

    await eventually(asked)
    await scene.revoke(session)
    answer = await calling  # the STS has not answered yet
    assert (answer.status_code, answer.json()["error_description"]) == (401, "session revoked")
    scene.sts.hold.set()
    assert not scene.upstream.requests


async def test_an_anchor_of_the_mandate_alone_refuses_after_the_exchange(scene: Scene) -> None:
    session = await scene.session()
    await scene.revoke(session)
    scene.sts.anchors = [new_id(), session.aggregate_id]
    before = await scene.counted()
    answer = await scene.call()
    after = await scene.counted()
    assert (answer.status_code, answer.json()["error_description"]) == (401, "session revoked")
    assert after["denials_revoked"] == before["denials_revoked"] + 1
    assert len(scene.sts.calls) == 1
    assert not scene.upstream.requests


async def test_an_mcp_call_in_another_charset_cannot_be_read(scene: Scene, mcp: str) -> None:
    headers = {"X-Caracal-Resource": mcp, "Content-Type": "application/json; charset=utf-7"}
    body = b'{"method":"tools/list","params":{"a":"+ACI-"}}'
    answer = await scene.call("/mcp", "POST", headers=headers, content=body)
    assert answer.status_code == 200
    assert orjson.loads(scene.sts.calls[0]["call_context"])["mcp"] == {"method": ""}
    assert scene.upstream.requests[0].body == body
