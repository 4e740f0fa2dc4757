"""Rows 1-12 of the contract, section 4: status, code, sentence, counter; the STS is not called."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services.gateway.counters import NAMES
from tests.backbone import eventually
from tests.gateway.scene import Scene

Headers = dict[str, Any]


def _forged(scene: Scene) -> Headers:
    key = SigningKey.generate(scene.tenant.key.kid)
    return {"Authorization": f"Bearer {key.sign(scene.tenant.claims())}"}


def _unknown_key(scene: Scene) -> Headers:
    key = SigningKey.generate(new_id())
    return {"Authorization": f"Bearer {key.sign(scene.tenant.claims())}"}


def _with(**claims: Any) -> Callable[[Scene], Headers]:
    return lambda scene: {"Authorization": f"Bearer {scene.tenant.token(**claims)}"}


def _sends(**headers: Any) -> Callable[[Scene], Headers]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda scene: named


@dataclass(frozen=True)
class Row:
    """One way to fail."""

    name: str
    headers: Callable[[Scene], Headers]
    status: int
    code: str
    description: str
    counter: str
    path: str = "/things"


MISSING = (401, "invalid_token", "missing bearer token", "denials_missing_auth")
MALFORMED = (401, "invalid_token", "malformed bearer token", "denials_bad_bearer")
TRAVERSAL = (400, "invalid_token", "path traversal not permitted", "denials_path_traversal")
SIGNATURE = (401, "invalid_token", "bearer signature invalid", "denials_signature")
EXPIRING = (
    401,
    "credential_expired_not_renewable",
    "credential expiring within pre-flight window",
    "denials_expiring",
)
BOUND = (
    400,
    "invalid_token",
    "client id is bound by gateway configuration",
    "denials_bad_routing",
)
UNROUTED = (400, "invalid_token", "missing routing headers", "denials_bad_routing")
ZONELESS = (401, "invalid_token", "missing token zone", "denials_bad_routing")
UNBOUND = (403, "access_denied", "resource not configured", "denials_binding")
PER_CALL: dict[str, Any] = {"use": "per_call", "aud": ["resource://other"], "target": []}

ROWS = [
    Row("no bearer", _sends(Authorization=None), *MISSING),
    Row("another scheme", _sends(Authorization="Basic abc"), *MISSING),
    Row("an empty bearer", _sends(Authorization="Bearer"), *MISSING),
    Row(
        "a bearer of 4097 bytes",
        _sends(Authorization="Bearer " + "a" * 4097),
        401,
        "invalid_token",
        "bearer token too large",
        "denials_bad_bearer",
    ),
    Row("no JWT", _sends(Authorization="Bearer abc"), *MALFORMED),
    Row("no exp", _with(exp=None), *MALFORMED),
    Row("exp zero", _with(exp=0), *MALFORMED),
    Row("34 seconds left", _with(exp=int(time.time()) + 34), *EXPIRING),
    Row("a client id", _sends(X_Caracal_Client_ID="me"), *BOUND),
    Row("no resource", _sends(X_Caracal_Resource=None), *UNROUTED),
    Row("a blank resource", _sends(X_Caracal_Resource=""), *UNROUTED),
    Row("no zone", _with(zone_id=None), *ZONELESS),
    Row("a zone that is none", _with(zone_id="a b"), *ZONELESS),
    Row("an unknown resource", _sends(X_Caracal_Resource="resource://none"), *UNBOUND),
    Row("another zone", _with(zone_id=new_id()), *UNBOUND),
    Row("dots in the path", _sends(), *TRAVERSAL, path="/a/../b"),
    Row("dots in disguise", _sends(), *TRAVERSAL, path="/a/%252e%252e/b"),
    Row("a broken escape", _sends(), *TRAVERSAL, path="/a%zz"),
    Row("a forged signature", _forged, *SIGNATURE),
    Row("an unknown key", _unknown_key, *SIGNATURE),
    Row("another issuer", _with(iss="https://evil.example"), *SIGNATURE),
    Row("an ambient token for others", _with(aud=["https://evil.example"]), *SIGNATURE),
    Row("no use", _with(use=None), *SIGNATURE),
    Row("a per-call token for another resource", _with(**PER_CALL), *SIGNATURE),
    Row("malformed anchors", _with(anchors="all"), *SIGNATURE),
    Row(
        "a per-call token without jti",
        _with(use="per_call", aud=["resource://one"], jti=None),
        *SIGNATURE,
    ),
]


@pytest.fixture(params=["in memory", "put out"])
async def placed(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """The Gateway with the zone in memory, and without: the answers are the same."""
    assert (await scene.call()).status_code == 200
    scene.sts.calls.clear()
    scene.upstream.requests.clear()
    if request.param == "put out":
        scene.put_out()
    return scene


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_row_refuses_alone(placed: Scene, row: Row) -> None:
    scene = placed
    before = await scene.counted()
    headers = scene.headers() | row.headers(scene)
    sent = {name: value for name, value in headers.items() if value is not None}
    target = {"target": row.path.encode()}  # as written: httpx would resolve the dots
    answer = await scene.http.get(scene.url, headers=sent, extensions=target)
    after = await scene.counted()

    body = answer.json()
    assert (answer.status_code, body["error"], body["error_description"]) == (
        row.status,
        row.code,
        row.description,
    )
    assert body == {**body, "requestId": answer.headers["x-request-id"]}
    assert set(body) == {"error", "error_description", "requestId"}
    risen = {name for name in NAMES if after[name] > before[name]}
    assert risen == {"requests_total", "requests_denied", row.counter}
    assert not scene.sts.calls
    assert not scene.upstream.requests
    assert ("www-authenticate" in answer.headers) == (row.status == 401)
    assert "date" in answer.headers
    assert "server" not in answer.headers


async def test_rows_come_in_their_order(placed: Scene) -> None:
    """Each mistake is answered before those of the rows below it."""
    scene = placed
    short = scene.tenant.token(exp=int(time.time()) + 10, zone_id="a b")
    wrong: Headers = {
        "Authorization": f"Bearer {short}",
        "X-Caracal-Client-ID": "me",
        "X-Caracal-Resource": None,
    }
    steps: list[tuple[str, Headers]] = [
        ("credential expiring within pre-flight window", {}),
        (
            "client id is bound by gateway configuration",
            {"Authorization": f"Bearer {scene.tenant.token(zone_id='a b')}"},
        ),
        ("missing routing headers", {"X-Caracal-Client-ID": None}),
        ("missing token zone", {"X-Caracal-Resource": "resource://none"}),
        ("resource not configured", _forged(scene)),
        ("path traversal not permitted", {"X-Caracal-Resource": scene.resource}),
    ]
    for description, mended in steps:
        wrong |= mended
        answer = await scene.call("/a/..%2fb", headers=wrong)
        assert answer.json()["error_description"] == description
    answer = await scene.call("/b", headers=wrong)
    assert answer.json()["error_description"] == "bearer signature invalid"


@pytest.mark.parametrize(
    ("headers", "claims", "known"),
    [
        ({"Authorization": None}, {}, ""),
        ({"X-Caracal-Resource": "resource://a b"}, {"zone_id": "a b"}, ""),
        ({}, {"iss": "x"}, "/{zone}/resource%3A%2F%2Fone"),
    ],
)
async def test_a_401_says_where_metadata_is(
    scene: Scene, headers: Headers, claims: Headers, known: str
) -> None:
    answer = await scene.call(headers=headers, claims=claims)
    url = f"{scene.url}/.well-known/oauth-protected-resource{known}"
    expected = f'Bearer resource_metadata="{url.format(zone=scene.tenant.id)}"'
    assert answer.status_code == 401
    assert answer.headers.get_list("www-authenticate") == [expected]


async def test_a_host_that_is_none_is_not_repeated(scene: Scene) -> None:
    answer = await scene.call(headers={"Host": 'a" b', "Authorization": None})
    assert answer.headers["www-authenticate"].startswith(
        'Bearer resource_metadata="http://localhost/.well-known/'
    )


async def test_the_request_id_is_echoed_when_well_formed(scene: Scene) -> None:
    kept = await scene.call(headers={"X-Request-Id": "req:1", "Authorization": None})
    made = await scene.call(headers={"X-Request-Id": "no good", "Authorization": None})
    assert kept.headers["x-request-id"] == kept.json()["requestId"] == "req:1"
    assert made.headers["x-request-id"] != "no good"


async def test_a_per_call_token_passes_once_and_its_replay_is_on_record(scene: Scene) -> None:
    """Rows 10-12 pass it once; the exchange would refuse it, which is the STS's business."""
    scene.sts.told = None
    token = scene.tenant.token(use="per_call", aud=[scene.resource])
    before = await scene.counted()
    first = await scene.call(headers={"Authorization": f"Bearer {token}"})
    again = await scene.call(headers={"Authorization": f"Bearer {token}"})
    assert first.status_code == 200
    assert (again.status_code, again.json()["error_description"]) == (
        401,
        "token replay detected",
    )
    assert (await scene.counted())["denials_jti_replay"] == before["denials_jti_replay"] + 1
    assert len(scene.sts.calls) == 1
    async with scene.redis() as redis:
        entries = await redis.xrange("caracal.audit.events")
    event = orjson.loads(entries[-1][1][b"data"])
    assert event["event_type"] == "replay_detected"
    assert (event["decision"], event["evaluation_status"]) == ("deny", "anomaly")
    assert event["request_id"] == again.headers["x-request-id"]
    assert set(event["metadata_json"]) == {
        "jti",
        "resource",
        "client_id",
        "subject_fp",
        "request_id",
    }
    assert len(event["metadata_json"]["subject_fp"]) == 16
    assert token not in entries[-1][1][b"data"].decode()


async def test_trace_is_not_passed_on(scene: Scene) -> None:
    """It would hand the mandate back to who must never hold it."""
    answer = await scene.call(method="TRACE")
    assert (answer.status_code, answer.json()["error"]) == (405, "method_not_allowed")


async def test_an_ambient_token_may_be_used_again(scene: Scene) -> None:
    headers = scene.headers()
    for _ in range(3):
        assert (await scene.call(headers=headers)).status_code == 200


async def test_a_revoked_session_is_refused_before_the_exchange(scene: Scene) -> None:
    session = await scene.session()
    sid = {"sid": session.aggregate_id, "root_sid": session.aggregate_id}
    assert (await scene.call(claims=sid)).status_code == 200
    before = await scene.counted()
    await scene.revoke(session)
    scene.sts.calls.clear()
    answer = await scene.call(claims=sid)
    assert (answer.status_code, answer.json()["error"], answer.json()["error_description"]) == (
        401,
        "invalid_token",
        "session revoked",
    )
    after = await scene.counted()
    assert after["denials_revoked"] == before["denials_revoked"] + 1
    assert after["requests_denied"] == before["requests_denied"] + 1
    assert not scene.sts.calls


async def test_a_resource_made_a_moment_ago_is_not_unknown(scene: Scene) -> None:
    """Unknown is a refusal only at the log's head: no wait between the commit and the call."""
    for _ in range(10):
        made = await scene.tenant.add_resource(upstream_url="http://127.0.0.1:9")
        answer = await scene.call(headers={"X-Caracal-Resource": made.identifier})
        assert answer.status_code == 200


async def test_routing_follows_the_exact_identifier_then_the_longest_prefix(scene: Scene) -> None:
    base = f"resource://{new_id()}"
    for identifier, upstream in ((base, True), (f"{base}/a", True), (f"{base}/a/b", False)):
        await scene.resource_with(
            identifier=identifier,
            prefix_match=True,
            upstream_url="http://127.0.0.1:9" if upstream else None,
        )
    expected = {"": 200, "/x": 200, "/a/x": 200, "/a/b": 403, "/a/b/c": 403, "x": 403}
    for suffix, status in expected.items():
        answer = await scene.call(headers={"X-Caracal-Resource": base + suffix})
        assert answer.status_code == status, suffix


async def test_a_position_in_the_future_is_not_waited_for_for_ever(scene: Scene) -> None:
    before = await scene.counted()
    answer = await scene.call(headers={"Caracal-Min-Position": "999999999"})
    wrong = await scene.call(headers={"Caracal-Min-Position": "soon"})
    after = await scene.counted()
    assert (answer.status_code, answer.json()["error"]) == (503, "projection_lagging")
    assert int(answer.headers["retry-after"]) >= 1
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_params")
    assert after["requests_denied"] == before["requests_denied"]
    assert not scene.sts.calls


async def test_an_unknown_kid_asks_the_sts_once(scene: Scene) -> None:
    headers = [_unknown_key(scene) for _ in range(5)]
    scene.calls.check._bearers._keys.drop(scene.tenant.id)
    before = scene.sts.key_fetches
    for each in headers:
        assert (await scene.call(headers=each)).status_code == 401
    assert scene.sts.key_fetches - before <= 2


async def test_keys_are_dropped_by_facts_of_signing_keys(scene: Scene) -> None:
    assert (await scene.call()).status_code == 200
    before = scene.sts.key_fetches
    await scene.rotate()

    async def fetched() -> bool:
        return (await scene.call()).status_code == 200 and scene.sts.key_fetches > before

    await eventually(fetched)
