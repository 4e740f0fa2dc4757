"""Keys that others bring, and JWTs that they sign."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import jwk
from caracal.foreign_jwt import taken_apart
from tests.signing import ec_key, number, public_jwk, rsa_key, signed

EC, RSA = ec_key(), rsa_key()

# RFC 7638, section 3.1
RFC_7638_KEY = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_"
    "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FD"
    "W2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQF"
    "h6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}


def test_the_thumbprint_of_rfc_7638() -> None:
    found = jwk.thumbprint(jwk.public_key(RFC_7638_KEY))
    assert found == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_key_has_one_thumbprint_however_it_is_written() -> None:
    plain = public_jwk(RSA)
    modulus = RSA.public_key().public_numbers().n
    padded = {**plain, "n": number(modulus, 257)}
    keys = (plain, padded, {**plain, "use": "sig", "kid": "a"})
    assert len({jwk.thumbprint(jwk.public_key(key)) for key in keys}) == 1
    assert jwk.thumbprint(jwk.public_key(public_jwk(EC))) != jwk.thumbprint(ec_key().public_key())


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"kty": "oct", "k": "AAAA"},
        public_jwk(EC, d="AAAA"),
        public_jwk(EC, kid=1),
        public_jwk(EC, crv="P-384"),
        public_jwk(EC, x="AAAA"),
        public_jwk(EC, x=public_jwk(EC)["x"] + "="),
        public_jwk(EC, y="A" * 43),
        public_jwk(RSA, n="AQAB"),
        public_jwk(RSA, e="AQ"),
        public_jwk(RSA, e=3),
    ],
)
def test_other_keys_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"key|kid"):
        jwk.public_key(entry)


@pytest.mark.parametrize(("key", "alg"), [(EC, "ES256"), (RSA, "RS256"), (RSA, "PS256")])
def test_a_signature_is_of_one_key_one_algorithm_one_text(key: Any, alg: str) -> None:
    token = taken_apart(signed(key, {"alg": alg}, {"a": 1}), (None,))
    assert token is not None
    assert token.is_signed_by(key.public_key())
    for other in {"ES256", "RS256", "PS256", "HS256", "none"} - {alg}:
        assert not jwk.verifies(key.public_key(), other, token.signed, token.signature)
    for other_key in (ec_key().public_key(), RSA.public_key() if key is EC else EC.public_key()):
        assert not token.is_signed_by(other_key)
    assert not jwk.verifies(key.public_key(), alg, token.signed + b"x", token.signature)
    assert not jwk.verifies(key.public_key(), alg, token.signed, token.signature[:-1])


@pytest.mark.parametrize(
    ("entry", "alg", "may"),
    [
        (public_jwk(EC), "ES256", True),
        (public_jwk(EC), "RS256", False),
        (public_jwk(RSA), "RS256", True),
        (public_jwk(RSA), "PS256", True),
        (public_jwk(RSA), "ES256", False),
        (public_jwk(RSA), "HS256", False),
        (public_jwk(RSA, alg="PS256"), "RS256", False),
        (public_jwk(RSA, alg="PS256"), "PS256", True),
        (public_jwk(EC, use="enc"), "ES256", False),
        (public_jwk(EC, use="sig"), "ES256", True),
    ],
)
def test_what_a_key_may_verify(entry: dict[str, Any], alg: str, *, may: bool) -> None:
    assert jwk.may_verify(entry, alg) is may


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {},
        {"alg": ["ES256"]},
        {"alg": "ES256", "typ": "at+jwt"},
        {"alg": "ES256", "typ": ["jwt"]},
        {"alg": "ES256", "crit": ["exp"]},
    ],
)
def test_a_header_that_is_not_taken(header: dict[str, Any]) -> None:
    assert taken_apart(signed(EC, header, {}), (None, "jwt")) is None


@given(st.text(alphabet="eyJhbGciOiJFUzI1NiJ9.-_=\x00é ", max_size=80))
def test_any_text_is_a_token_or_none(text: str) -> None:
    assert taken_apart(text, (None,)) is None
