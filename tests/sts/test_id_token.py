"""What must be true of an id_token, whatever stands in it: nothing gets through by its form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from caracal.events.trusted_issuer import MAX_AGE_SECONDS
from caracal.foreign_jwt import ForeignJwt
from caracal.mandate import encode_base64url
from caracal.services.sts.id_token import LEEWAY, Told, Unacceptable, issuer_of, read, told
from caracal.user_id import user_id_of

NOW = 1_800_000_000
RULES: dict[str, Any] = {
    "issuer": "https://login.example",
    "audiences": ["client", "other"],
    "subject_claim": "sub",
    "required_claims": {},
    "mapped_claims": ["groups"],
    "max_age_seconds": 600,
}
RIGHT: dict[str, Any] = {
    "iss": "https://login.example",
    "sub": "ada",
    "aud": "client",
    "iat": NOW,
    "exp": NOW + 300,
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from([*RIGHT, "azp", "nbf", "auth_time", "events", "groups", "email"])


def token(claims: dict[str, Any]) -> ForeignJwt:
    return ForeignJwt({"alg": "ES256", "kid": "one"}, claims, b"", b"")


def outcome(claims: dict[str, Any], now: float = NOW, **rules: Any) -> Told | str:
    try:
        return told(token(claims), RULES | rules, now)
    except Unacceptable as refusal:
        return str(refusal)


@given(st.dictionaries(NAMES, VALUES), st.lists(NAMES))
@example({"exp": float("inf"), "iat": float("-inf")}, [])
@example({"exp": float("nan")}, [])
@example({"auth_time": float("inf")}, [])
@example({"iat": 10**400}, [])
def test_whatever_stands_in_it_only_what_is_right_gets_through(
    spoilt: dict[str, Any], dropped: list[str]
) -> None:
    claims = {name: value for name, value in (RIGHT | spoilt).items() if name not in dropped}
    found = outcome(claims)
    if isinstance(found, str):
        return
    named = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    assert claims["iss"] == RULES["issuer"]
    assert set(named) <= {"client", "other"}
    assert named
    assert claims.get("azp") in (None, "client", "other")
    assert "events" not in claims
    assert claims["exp"] + LEEWAY > NOW
    assert NOW - 600 - LEEWAY < claims["iat"] <= NOW + LEEWAY
    assert found.subject == claims["sub"]
    assert 0 < len(found.subject) <= 255
    assert 0 <= found.authenticated_at <= NOW
    # By no rules that may come is it taken when it is not remembered any more.
    ends = min(claims["exp"], claims["iat"] + MAX_AGE_SECONDS) + LEEWAY
    assert NOW < ends <= found.usable_until <= NOW + MAX_AGE_SECONDS + 2 * LEEWAY + 1
    assert set(found.mapped) <= {"groups"}


@given(st.integers(-4000, 4000), st.integers(-4000, 4000), st.integers(-4000, 4000))
@example(0, -LEEWAY + 1, 0)
@example(LEEWAY, 300, LEEWAY)
def test_times_are_taken_to_the_second(issued: int, expires: int, begins: int) -> None:
    claims = RIGHT | {"iat": NOW + issued, "exp": NOW + expires, "nbf": NOW + begins}
    right = expires + LEEWAY > 0 and -600 - LEEWAY < issued <= LEEWAY and begins <= LEEWAY
    assert isinstance(outcome(claims), Told) is right


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'{"alg":"ES256","alg":"ES256"}')
@example(b'{"alg":"ES256","a":{"b":1,"b":2}}')
@example(b"[" * 2000)
@example(b'{"alg":"ES256","x":' + b"9" * 5000 + b"}")
def test_any_bytes_are_read_or_refused(header: bytes) -> None:
    payload = encode_base64url(orjson.dumps(RIGHT))
    text = b".".join((encode_base64url(header), payload, b"AA")).decode()
    try:
        found = read(text)
    except Unacceptable:
        return
    assert found.alg in ("ES256", "RS256", "PS256")
    assert issuer_of(found) == RULES["issuer"]


@given(st.text(max_size=400))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(Unacceptable):
        read(text)


@pytest.mark.parametrize(
    ("given_", "wanted", "same"),
    [
        ("a", "a", True),
        (1, 1, True),
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        (1.0, 1, False),
        (["a"], "a", False),
        (None, "a", False),
    ],
)
def test_what_is_required_is_exact(given_: Any, wanted: Any, same: bool) -> None:
    found = outcome(RIGHT | {"hd": given_}, required_claims={"hd": wanted})
    assert isinstance(found, Told) is same


def test_a_user_id_is_of_zone_issuer_and_subject() -> None:
    made = user_id_of(b"k" * 32, "https://a.example", "ada")
    assert made == user_id_of(b"k" * 32, "https://a.example", "ada")
    assert made.startswith("usr_")
    assert len(made) == 47
    others = {
        user_id_of(b"l" * 32, "https://a.example", "ada"),
        user_id_of(b"k" * 32, "https://b.example", "ada"),
        user_id_of(b"k" * 32, "https://a.example", "Ada"),
        user_id_of(b"k" * 32, "https://a.example/ad", "a"),
        user_id_of(b"k" * 32, "https://a.example", "ada", "nickname"),
    }
    assert len(others | {made}) == 6
    assert made == user_id_of(b"k" * 32, "https://a.example", "ada", "sub")
