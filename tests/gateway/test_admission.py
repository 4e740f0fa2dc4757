"""Rows 1-7 in their order, and the claims of row 10."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.mandate import SigningKey
from caracal.services.gateway.admission import admit, check_claims
from caracal.services.gateway.headers import Header
from caracal.services.gateway.refusals import Denied

NOW = 1_800_000_000.0
KEY = SigningKey.generate("k")
CLAIMS = {"zone_id": "z1", "exp": NOW + 35, "use": "ambient"}
RESOURCE = (b"x-caracal-resource", b" resource://a ")


def bearer(claims: Any = CLAIMS) -> Header:
    return (b"authorization", b"Bearer " + KEY.sign(claims).encode())


def refusal(*headers: Header) -> tuple[int, str, str, str]:
    with pytest.raises(Denied) as denied:
        admit(headers, NOW)
    refused = denied.value
    return refused.status, refused.code, refused.description, refused.counter


def test_whole_request_is_read() -> None:
    authorization = bearer()
    inbound = admit(
        [
            authorization,
            RESOURCE,
            (b"x-caracal-scope", b" read  write "),
            (b"x-caracal-scope", b"more"),
            (b"x-caracal-challenge-id", b"c"),
            (b"x-caracal-challenge-response", b"r"),
            (b"baggage", b"a=1"),
            (b"baggage", b"b=1"),
            (b"accept", b"*/*"),
        ],
        NOW,
    )
    assert inbound.token.encode() == authorization[1].removeprefix(b"Bearer ")
    assert inbound.unverified.claims == CLAIMS
    assert (inbound.zone_id, inbound.resource) == ("z1", "resource://a")
    assert inbound.scope == "read write more"
    assert inbound.challenge == ("c", "r")
    assert inbound.baggage == (b"a=1", b"b=1")
    assert inbound.expires_in(NOW) == 35
    assert inbound.expires_in(NOW + 0.5) == 34


def test_options_may_be_absent_and_the_scheme_in_any_case() -> None:
    for scheme in (b"bearer ", b"BEARER   ", b" Bearer "):
        name, value = bearer()
        inbound = admit([(name, scheme + value[7:] + b" "), RESOURCE], NOW)
        assert (inbound.scope, inbound.challenge, inbound.baggage) == (None, None, ())


MISSING = (401, "invalid_token", "missing bearer token", "denials_missing_auth")
LARGE = (401, "invalid_token", "bearer token too large", "denials_bad_bearer")
MALFORMED = (401, "invalid_token", "malformed bearer token", "denials_bad_bearer")
EXPIRING = (
    401,
    "credential_expired_not_renewable",
    "credential expiring within pre-flight window",
    "denials_expiring",
)
CLIENT_ID = (
    400,
    "invalid_token",
    "client id is bound by gateway configuration",
    "denials_bad_routing",
)
ROUTING = (400, "invalid_token", "missing routing headers", "denials_bad_routing")
ZONE = (401, "invalid_token", "missing token zone", "denials_bad_routing")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic abc",
        b"abc",
        b"Bearer a b",
        b"Bearer \xc3\xa9",
        b"Bearera",
    ],
)
def test_row_1(value: bytes) -> None:
    assert refusal((b"authorization", value), RESOURCE) == MISSING


def test_row_1_absent_or_twice() -> None:
    assert refusal(RESOURCE) == MISSING
    assert refusal(bearer(), bearer(), RESOURCE) == MISSING


def test_row_2_comes_before_row_3() -> None:
    assert refusal((b"authorization", b"Bearer " + b"x" * 4097), RESOURCE) == LARGE
    assert refusal((b"authorization", b"Bearer " + b"x" * 4096), RESOURCE) == MALFORMED


@pytest.mark.parametrize("token", [b"x", b"a.b", b"a.b.c", b"a.b.c.d", b"..", b"a.W10.c"])
def test_row_3_form(token: bytes) -> None:
    assert refusal((b"authorization", b"Bearer " + token), RESOURCE) == MALFORMED


@pytest.mark.parametrize("exp", [None, 0, 0.0, "1900000000", True, [], {}])
def test_row_3_exp(exp: Any) -> None:
    assert refusal(bearer({**CLAIMS, "exp": exp}), RESOURCE) == MALFORMED
    without = {"zone_id": "z1"}
    assert refusal(bearer(without), RESOURCE) == MALFORMED


@pytest.mark.parametrize("exp", [NOW + 34.9, NOW, 1, -1])
def test_row_4_comes_before_row_5(exp: float) -> None:
    assert refusal(bearer({**CLAIMS, "exp": exp}), (b"x-caracal-client-id", b"c")) == EXPIRING


def test_row_5_comes_before_row_6() -> None:
    for value in (b"c", b""):
        assert refusal(bearer(), (b"x-caracal-client-id", value)) == CLIENT_ID


@pytest.mark.parametrize("value", [b"", b"  ", b"\xff"])
def test_row_6_comes_before_row_7(value: bytes) -> None:
    assert refusal(bearer({"exp": NOW + 99}), (b"x-caracal-resource", value)) == ROUTING
    assert refusal(bearer({"exp": NOW + 99})) == ROUTING
    assert refusal(bearer(), RESOURCE, RESOURCE) == ROUTING


@pytest.mark.parametrize("zone", [None, "", 7, ["z"], "a b", "z" * 129, "z\n", "é"])
def test_row_7(zone: Any) -> None:
    assert refusal(bearer({**CLAIMS, "zone_id": zone}), RESOURCE) == ZONE


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x-caracal-challenge-id", b"c")],
        [(b"x-caracal-challenge-response", b"r")],
        [(b"x-caracal-challenge-id", b"c"), (b"x-caracal-challenge-response", b"")],
        [(b"x-caracal-challenge-id", b"c")] * 2 + [(b"x-caracal-challenge-response", b"r")],
        [(b"x-caracal-scope", b"\xff")],
    ],
)
def test_half_a_challenge_or_a_broken_scope_is_refused(fields: list[Header]) -> None:
    status, code, _, counter = refusal(bearer(), RESOURCE, *fields)
    assert (status, code, counter) == (400, "invalid_token", "denials_bad_routing")


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_only_refusals_come_out(authorization: bytes, resource: bytes) -> None:
    for value in (authorization, b"Bearer " + authorization):
        with pytest.raises(Denied):
            admit([(b"authorization", value), (b"x-caracal-resource", resource)], NOW)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3))
def test_any_payload_is_judged(value: Any) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    assert refusal((b"authorization", b"Bearer a." + payload + b".c"), RESOURCE) == MALFORMED


GOOD = {"exp": NOW + 1, "zone_id": "z1", "iss": "https://sts", "aud": ["https://sts"]}
AMBIENT = {**GOOD, "use": "ambient"}
PER_CALL = {**GOOD, "use": "per_call", "aud": ["r:a"], "target": ["r:a"]}


def check(claims: dict[str, Any], issuer: str | None = "https://sts") -> None:
    check_claims(claims, zone_id="z1", resource=("r:a/b", "r:a"), issuer=issuer, now=NOW)


def refused(claims: dict[str, Any], issuer: str | None = "https://sts") -> bool:
    with pytest.raises(Denied) as denied:
        check(claims, issuer)
    shown = (denied.value.status, denied.value.code, denied.value.description)
    assert denied.value.counter == "denials_signature"
    return shown == (401, "invalid_token", "bearer signature invalid")


@pytest.mark.parametrize(
    ("claims", "yes"),
    [
        (AMBIENT, True),
        ({**AMBIENT, "aud": "https://sts"}, True),
        ({**AMBIENT, "target": ["elsewhere"]}, True),
        ({**AMBIENT, "aud": ["https://sts/"]}, False),
        ({**AMBIENT, "aud": None}, False),
        ({**AMBIENT, "aud": []}, False),
        ({**AMBIENT, "exp": NOW}, False),
        ({**AMBIENT, "exp": None}, False),
        ({**AMBIENT, "zone_id": "z2"}, False),
        ({**AMBIENT, "iss": "https://other", "aud": ["https://sts"]}, False),
        ({**AMBIENT, "iss": None}, False),
        ({**GOOD}, False),
        ({**GOOD, "use": "other"}, False),
        (PER_CALL, True),
        ({**PER_CALL, "aud": ["x"]}, True),
        ({**PER_CALL, "target": ["x"]}, True),
        ({**PER_CALL, "target": ["x"], "aud": "r:a/b"}, True),
        ({**PER_CALL, "target": ["x"], "aud": ["x"]}, False),
        ({**PER_CALL, "target": None, "aud": None}, False),
        ({**PER_CALL, "aud": ["https://sts"], "target": []}, False),
    ],
)
def test_row_10_claims(claims: dict[str, Any], yes: bool) -> None:
    if yes:
        check(claims)
    else:
        assert refused(claims)


def test_without_a_configured_issuer_the_token_s_own_counts() -> None:
    check({**AMBIENT, "iss": "https://any", "aud": ["https://any"]}, issuer=None)
    assert refused({**AMBIENT, "iss": "https://any", "aud": ["https://other"]}, issuer=None)
    assert refused({**AMBIENT, "iss": None, "aud": [None]}, issuer=None)
