"""``POST /v1/verify``: each check, and that the answer does not tell which failed."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from caracal.dpop import Proof
from caracal.errors import Unavailable
from caracal.events.store.redis import connect
from caracal.ids import new_id
from caracal.jwk import public_key, thumbprint
from caracal.mandate import InvalidMandate, SigningKey
from caracal.services.coordinator.verification import Wanted, _is_first, check_claims
from tests.coordinator.edges import delegated, told
from tests.coordinator.running import BASE, Crew, ship
from tests.making import in_zone
from tests.signing import PrivateKey, ath_of, dpop_proof, ec_key, public_jwk

REFUSED = (401, {"valid": False, "error": "token_invalid"})
UNPROVEN = (401, {"valid": False, "error": "invalid_dpop_proof"})


async def verified(crew: Crew, token: Any, **wanted: Any) -> tuple[int, Any]:
    answer = await crew.client.post("/v1/verify", json={"token": token, **wanted})
    return answer.status_code, answer.json()


async def test_valid(crew: Crew) -> None:
    token = crew.token("tool:call")
    for body in (
        {"token": token},
        {"authorization": token},
        {"authorization": f"bearer  {token}"},
        {"token": f"Bearer {token}", "zone_id": crew.zone, "required_scope": "tool:call"},
        {"token": token, "require_agent": False, "zone_id": None, "unknown": [1]},
    ):
        answer = await crew.client.post("/v1/verify", json=body)
        assert answer.status_code == 200, body
        claims = answer.json()["claims"]
        assert answer.json() == {"valid": True, "claims": claims}
        assert (claims["sub"], claims["zone_id"]) == (crew.application_id, crew.zone)
        assert claims["scope"] == f"{BASE} tool:call"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"token": ""}', b'{"token": 5}', b'{"token": "Bearer "}']
)
async def test_no_token(crew: Crew, body: bytes) -> None:
    answer = await crew.client.post("/v1/verify", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"valid": False, "error": "missing_token"}


async def test_a_body_that_is_too_large(crew: Crew) -> None:
    answer = await crew.client.post("/v1/verify", content=b"x" * 1_100_000)
    assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")


async def test_limits(crew: Crew) -> None:
    """Of verification and of the façade, each its own."""
    given, limits = crew.settings, {"VERIFY_RATE_LIMIT_PER_MIN": "2", "V1_RATE_LIMIT_PER_MIN": "1"}
    servers = given.database_url, given.redis_url
    async with ship(*servers, worker=False, sts=given.sts_url, **limits) as limited:
        client, body = limited.client, {"token": crew.token()}
        answers = [await client.post("/v1/verify", json=body) for _ in range(6)]
        over = answers[-1]
        assert (over.status_code, over.json()) == (429, {"valid": False, "error": "rate_limited"})
        assert int(over.headers["Retry-After"]) >= 1
        assert answers[0].status_code == 200
        headers = {"Authorization": f"Bearer {crew.token()}"}
        begun = [await client.post("/v1/begin", json={}, headers=headers) for _ in range(4)]
        assert told(begun[0]) == (400, "invalid_body")
        assert told(begun[-1]) == (429, "rate_limited")
        shown = await client.get(f"/zones/{crew.zone}/agents", headers=headers)
        assert shown.status_code == 200


async def test_other_methods_are_none(crew: Crew) -> None:
    assert (await crew.client.get("/v1/verify")).status_code == 405


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": ["resource://one"]},
        {"exp": int(time.time()) - 1},
        {"exp": None},
        {"iat": None},
        {"jti": None},
        {"sub": ""},
        {"client_id": None},
        {"sid": None},
        {"root_sid": None},
        {"use": "other"},
        {"use": None},
        {"sub_type": "robot"},
        {"zone_id": None},
        {"zone_id": "another-zone"},
        {"hop_count": 11},
        {"hop_count": "1"},
        {"anchors": "one"},
        {"agent_session_id": "nobody"},
        {"delegation_edge_id": "nothing"},
    ],
)
async def test_claims_that_do_not_hold(crew: Crew, claims: dict[str, Any]) -> None:
    assert await verified(crew, crew.token(**claims)) == REFUSED


async def test_what_is_wanted(crew: Crew) -> None:
    token = crew.token()
    for wanted in (
        {"zone_id": "another"},
        {"zone_id": 5},
        {"required_scope": "tool:call"},
        {"required_scope": ["agent:lifecycle"]},
        {"require_agent": True},
        {"require_agent": "yes"},
        {"require_delegation": True},
    ):
        assert await verified(crew, token, **wanted) == REFUSED, wanted
    answer = await crew.client.post("/v1/verify", json={"token": token, "require_agent": 1})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_signature_and_form(crew: Crew) -> None:
    token = crew.token()
    other = SigningKey.generate(crew.tenant.key.kid)
    forged = other.sign({"zone_id": crew.zone})
    for bad in (forged, token[:-4] + "AAAA", token + ".x", "x", "a" * 5000, "é"):
        assert await verified(crew, bad) == REFUSED


URL = "https://files.example/report"


def proof(key: PrivateKey, token: str, **claims: Any) -> str:
    return dpop_proof(key, "GET", URL, **({"ath": ath_of(token)} | claims))


def shown(proof: str, **members: Any) -> dict[str, Any]:
    return {"dpop": proof, "method": "GET", "url": f"{URL}?page=2"} | members


async def test_a_bound_token_holds_for_who_shows_its_key_once(crew: Crew) -> None:
    key = ec_key()
    token = crew.token(cnf={"jkt": thumbprint(public_key(public_jwk(key)))})
    once = shown(proof(key, token))
    assert await verified(crew, token, **once, required_scope="other") == REFUSED  # uses nothing up
    status, answer = await verified(crew, token, **once)
    assert (status, "jkt" in answer["claims"]["cnf"]) == (200, True)
    again = await crew.client.post("/v1/verify", json={"token": token, **once})
    assert (again.status_code, again.json()) == UNPROVEN
    assert again.headers["WWW-Authenticate"].startswith('DPoP error="invalid_dpop_proof", algs=')
    by_header = {"authorization": f"dpop {token}", **shown(proof(key, token))}
    assert (await crew.client.post("/v1/verify", json=by_header)).status_code == 200
    async with connect(crew.settings.redis_url) as redis:
        kept = [key async for key in redis.scan_iter("coordinator:verified:dpop:*")]
        assert all([0 < await redis.ttl(key) <= 180 for key in kept])
    assert len(kept) >= 2


async def test_without_redis_no_proof_is_taken() -> None:
    async with connect("redis://127.0.0.1:1") as gone:
        parts: Any = SimpleNamespace(redis=gone)
        with pytest.raises(Unavailable):
            await _is_first(parts, Proof("thumbprint", "use"))


async def test_a_bound_token_is_no_bearer(crew: Crew) -> None:
    key, other = ec_key(), ec_key()
    token = crew.token(cnf={"jkt": thumbprint(public_key(public_jwk(key)))})
    good = proof(key, token)
    for body in (
        {"token": token},
        {"authorization": f"Bearer {token}", **shown(good)},
        {"authorization": f"DPoP {token}"},
        {"token": token, "dpop": good},
        {"token": token, **shown(good, method="POST")},
        {"token": token, **shown(good, url="https://other.example/report")},
        {"token": token, **shown(good, url=5)},
        {"token": token, **shown("x" * 5000)},
        {"token": token, "dpop": [good], "method": "GET", "url": URL},
        {"token": token, **shown(proof(other, token))},
        {"token": token, **shown(proof(key, crew.token()))},
    ):
        answer = await crew.client.post("/v1/verify", json=body)
        assert (answer.status_code, answer.json()) == UNPROVEN, body
    assert (await verified(crew, token, **shown(good)))[0] == 200


async def test_a_token_that_is_bound_to_none_comes_with_no_proof(crew: Crew) -> None:
    key, token = ec_key(), crew.token()
    assert await verified(crew, token, **shown(proof(key, token))) == REFUSED
    assert await verified(crew, f"DPoP {token}") == REFUSED
    assert (await verified(crew, token, method="GET", url=URL))[0] == 200  # no proof: not looked at


@pytest.mark.parametrize("cnf", [{}, {"x5t#S256": "a"}, "a", []])
async def test_what_is_bound_to_what_nobody_can_show(crew: Crew, cnf: Any) -> None:
    key = ec_key()
    token = crew.token(cnf=cnf)
    assert await verified(crew, token) == UNPROVEN
    assert await verified(crew, token, **shown(proof(key, token))) == UNPROVEN


async def test_nobody_learns_of_a_binding_by_what_does_not_hold(crew: Crew) -> None:
    assert await verified(crew, crew.token(cnf={"jkt": "a"}, exp=1)) == REFUSED


async def test_state(crew: Crew) -> None:
    a, b = await crew.spawn(), await crew.spawn()
    edge = await delegated(crew, a, b)
    bound = crew.token(agent_session_id=a["id"])
    exercised = crew.token(agent_session_id=b["id"], delegation_edge_id=edge["id"], hop_count=1)
    for token in (bound, exercised):
        assert (await verified(crew, token, require_agent=True))[0] == 200
    assert (await verified(crew, exercised, require_delegation=True))[0] == 200
    await crew.call("PATCH", f"/agents/{a['id']}/suspend")
    assert await verified(crew, bound) == REFUSED
    await crew.call("PATCH", f"/agents/{a['id']}/resume")
    assert (await verified(crew, bound))[0] == 200
    await crew.call("PATCH", f"/delegations/{edge['id']}/revoke")
    assert await verified(crew, exercised) == REFUSED
    assert (await verified(crew, bound))[0] == 200


async def test_no_anchor_has_ended(crew: Crew) -> None:
    session = await crew.session()
    token = crew.token(anchors=[session.aggregate_id])
    assert (await verified(crew, token))[0] == 200
    with in_zone(crew.zone):
        session.revoke("token_revoked")
    saved = await crew.save(session)
    reached = {"Caracal-Min-Position": str(saved.position)}
    answer: httpx.Response = await crew.client.post(
        "/v1/verify", json={"token": token}, headers=reached
    )
    assert (answer.status_code, answer.json()) == REFUSED


CLAIMS: dict[str, Any] = {
    "exp": 1,
    "iat": 0,
    "jti": new_id(),
    "sub": "s",
    "client_id": "c",
    "sid": "s",
    "root_sid": "r",
    "use": "per_call",
    "sub_type": "user",
    "zone_id": "z",
    "hop_count": 10,
}


def test_claims_are_checked_one_by_one() -> None:
    check_claims(CLAIMS, Wanted(zone_id="z"))
    for name in CLAIMS:
        bad = CLAIMS | {name: 11} if name == "hop_count" else CLAIMS | {name: [1]}
        with pytest.raises(InvalidMandate, match=name):
            check_claims(bad, Wanted())
