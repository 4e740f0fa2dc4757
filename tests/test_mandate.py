"""Mandates: one algorithm, one spelling, keys by kid, and the anchors they hang on."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jose import jwt

from caracal.mandate import (
    MAX_JWKS_BYTES,
    InvalidMandate,
    SigningKey,
    anchors_of,
    numeric_date,
    parse_jwks,
    peek,
    public_key,
    sign,
    verify,
)

KEY = SigningKey.generate("key-1")
OTHER = SigningKey.generate("key-2")
KEYS = dict([public_key(KEY.public_jwk()), public_key(OTHER.public_jwk())])
CLAIMS = {"sub": "app", "zone_id": "z", "aud": ["a"], "exp": 2_000_000_000}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def segment(value: Any) -> str:
    return b64(json.dumps(value).encode())


def test_signed_claims_come_back_and_every_jwt_library_can_read_them() -> None:
    token = sign(CLAIMS, KEY)
    assert verify(token, KEYS) == CLAIMS
    assert peek(token).kid == "key-1"
    options = {"verify_aud": False}
    assert jwt.decode(token, KEY.public_jwk(), algorithms=["ES256"], options=options) == CLAIMS
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "==")) == {
        "alg": "ES256",
        "typ": "JWT",
        "kid": "key-1",
    }
    assert len(base64.urlsafe_b64decode(token.split(".")[2] + "==")) == 64


@given(
    st.dictionaries(st.text(max_size=9), st.text(max_size=20) | st.integers(-(2**53), 2**53)),
)
def test_any_claims_survive(claims: dict[str, Any]) -> None:
    assert verify(sign(claims, KEY), KEYS) == claims


@given(st.data())
def test_no_changed_character_is_accepted(data: st.DataObject) -> None:
    token = sign(CLAIMS, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises(InvalidMandate):
        verify(token[:at] + new + token[at + 1 :], KEYS)


def test_key_of_another_kid_does_not_verify() -> None:
    token = sign(CLAIMS, KEY)
    with pytest.raises(InvalidMandate, match="unknown kid"):
        verify(token, {"key-2": KEYS["key-2"]})
    with pytest.raises(InvalidMandate, match="wrong signature"):
        verify(token, {"key-1": KEYS["key-2"]})


def forge(header: dict[str, Any], signature: bytes = b"x" * 64) -> str:
    return f"{segment(header)}.{segment(CLAIMS)}.{b64(signature)}"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": "key-1"},
        {"alg": "HS256", "kid": "key-1"},
        {"alg": "es256", "kid": "key-1"},
        {"alg": "ES384", "kid": "key-1"},
        {"alg": "ES256"},
        {"alg": "ES256", "kid": ""},
        {"alg": "ES256", "kid": 1},
        {"alg": "ES256", "kid": ["key-1"]},
        {"alg": "ES256", "kid": "k" * 129},
        {"alg": "ES256", "kid": "key-1", "crit": ["exp"]},
        {"alg": "ES256", "kid": "key-1", "pad": "x" * 600},
        ["ES256"],
    ],
)
def test_header_is_pinned(header: Any) -> None:
    with pytest.raises(InvalidMandate, match=r"algorithm|kid|header|object"):
        verify(forge(header), KEYS)


def test_public_key_is_no_hmac_secret() -> None:
    header = segment({"alg": "HS256", "kid": "key-1"})
    signed = f"{header}.{segment(CLAIMS)}"
    secret = json.dumps(KEY.public_jwk()).encode()
    token = f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"
    with pytest.raises(InvalidMandate, match="algorithm"):
        verify(token, KEYS)


@pytest.mark.parametrize("length", [0, 63, 65, 70])
def test_signature_is_64_bytes(length: int) -> None:
    with pytest.raises(InvalidMandate, match="wrong signature"):
        verify(forge({"alg": "ES256", "kid": "key-1"}, b"0" * length), KEYS)


def test_der_signature_is_refused() -> None:
    signed, _, signature = sign(CLAIMS, KEY).rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    with pytest.raises(InvalidMandate, match="wrong signature"):
        verify(f"{signed}.{b64(der)}", KEYS)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "a.!!.c",
        f"a.{segment([1])}.c",
        f"a.{segment('x')}.c",
        f"a.{b64(b'{')}.c",
        "a." + b64(b'{"exp":NaN}') + ".c",
        f"a.{segment({})}=.c",
        f"a.{segment({})}\n.c",
        f"é.{segment({})}.c",
        f"a.{segment({'pad': 'x' * 4096})}.c",
    ],
)
def test_peek_refuses(token: str) -> None:
    with pytest.raises(InvalidMandate):
        peek(token)


def test_peek_proves_nothing_but_reads_the_payload() -> None:
    assert peek(f"a.{segment(CLAIMS)}.c").claims == CLAIMS
    token = f"a.{segment({'pad': 'x' * 3000})}.c"
    assert peek(token + "c" * (4096 - len(token))).claims["pad"]


def test_second_spelling_of_a_signature_is_refused() -> None:
    token = sign(CLAIMS, KEY)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    twin = token[:-1] + alphabet[last + 1]
    assert base64.urlsafe_b64decode(twin.split(".")[2] + "==") == base64.urlsafe_b64decode(
        token.split(".")[2] + "=="
    )
    with pytest.raises(InvalidMandate, match="base64url"):
        verify(twin, KEYS)


def test_anchors_are_every_id_of_the_table() -> None:
    claims = {
        "sid": "s",
        "root_sid": "r",
        "client_id": "c",
        "zone_id": "z",
        "agent_session_id": "a",
        "delegation_edge_id": "e2",
        "delegation_path": ["e1", "e2"],
        "delegation_chain": [
            {"app": "x", "session": "s1", "edge": "e1"},
            {"app": "y", "session": "s2", "edge": "e2"},
            {"app": "z", "session": "s3"},
        ],
        "anchors": ["res", "grant"],
        "sub": "not one",
        "jti": "nor this",
    }
    assert anchors_of(claims) == set("srcza") | {"e1", "e2", "s1", "s2", "s3", "res", "grant"}
    assert anchors_of({"sid": "s", "anchors": []}) == {"s"}
    assert anchors_of({}) == frozenset()


@pytest.mark.parametrize(
    "claims",
    [
        {"sid": 7},
        {"sid": ["s"]},
        {"anchors": "abc"},
        {"anchors": {"a": 1}},
        {"anchors": ["a", 1]},
        {"anchors": [["a"]]},
        {"delegation_path": "e1"},
        {"delegation_chain": ["e1"]},
        {"delegation_chain": [{"session": {}, "edge": [1]}]},
    ],
)
def test_malformed_anchors_refuse_the_token(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidMandate):
        anchors_of(claims)


@pytest.mark.parametrize(
    ("value", "read"),
    [(7, 7), (7.5, 7.5), (0, 0), ("7", None), (True, None), (None, None), ([7], None)],
)
def test_numeric_date(value: Any, read: float | None) -> None:
    assert numeric_date({"exp": value}, "exp") == read
    assert numeric_date({}, "exp") is None


def test_private_key_survives_the_vault() -> None:
    again = SigningKey.from_pem("key-1", KEY.pem())
    assert again.public_jwk() == KEY.public_jwk()
    assert verify(sign(CLAIMS, again), KEYS) == CLAIMS
    assert b"PRIVATE" not in json.dumps(KEY.public_jwk()).encode()
    assert set(KEY.public_jwk()) == {"kty", "crv", "use", "alg", "kid", "x", "y"}


def test_other_private_keys_are_refused() -> None:
    for private in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
    ):
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(ValueError, match="P-256"):
            SigningKey.from_pem("k", pem)


def test_coordinates_keep_leading_zeros() -> None:
    for secret in range(1, 2000):
        private = ec.derive_private_key(secret, ec.SECP256R1())
        if private.public_key().public_numbers().x < 1 << 248:
            break
    jwk = SigningKey("short", private).public_jwk()
    assert len(jwk["x"]) == 43
    assert base64.urlsafe_b64decode(jwk["x"] + "=")[0] == 0
    assert verify(SigningKey("short", private).sign(CLAIMS), dict([public_key(jwk)])) == CLAIMS


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"alg": "ES384"},
        {"alg": None},
        {"kid": ""},
        {"kid": None},
        {"kid": 1},
        {"x": "AA"},
        {"x": None},
        {"y": b64(bytes(31))},
        {"y": b64(bytes(32))},
        {"x": "é" * 43},
    ],
)
def test_key_set_passes_over_other_keys(change: dict[str, Any]) -> None:
    bad = {**KEY.public_jwk(), **change}
    with pytest.raises(ValueError, match=r"key|coordinate|curve|base64"):
        public_key(bad)
    both = {"keys": [bad, "noise", OTHER.public_jwk()]}
    assert set(parse_jwks(json.dumps(both).encode())) == {"key-2"}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1]}', b"{" * 9]
)
def test_key_set_without_a_key_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|empty|expected|object"):
        parse_jwks(body)


def test_key_set_is_bounded() -> None:
    body = json.dumps({"keys": [KEY.public_jwk()]}).encode()
    assert parse_jwks(body.ljust(MAX_JWKS_BYTES))
    with pytest.raises(ValueError, match="large"):
        parse_jwks(body.ljust(MAX_JWKS_BYTES + 1))
