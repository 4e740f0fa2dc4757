"""An application's own key: what it signs, how it is read, and that it stays where it is."""

from __future__ import annotations

import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from caracal import jwk
from caracal.client.key import ASSERTION_SECONDS, ClientKey
from caracal.dpop import InvalidProof, check
from caracal.foreign_jwt import taken_apart
from tests.signing import ec_key, pem_of, rsa_key

NOW, URL = 1_800_000_000.0, "https://sts.example/oauth/2/token"
EC, RSA = ClientKey(ec_key()), ClientKey(rsa_key())


@pytest.mark.parametrize("key", [EC, RSA], ids=["ec", "rsa"])
def test_a_proof_is_one(key: ClientKey) -> None:
    sent = key.proof("POST", f"{URL}?a=b#c", now=NOW + 0.9, nonce="n", token="t.o.k")
    proof = check([sent.encode()], method="POST", uri=URL, now=NOW, token="t.o.k")
    assert (proof.jkt, proof.nonce) == (key.thumbprint, "n")
    again = key.proof("POST", URL, now=NOW)
    found = check([again.encode()], method="POST", uri=URL, now=NOW)
    assert (found.nonce, found.use != proof.use) == (None, True), "each is good once"
    with pytest.raises(InvalidProof, match="another token"):
        check([again.encode()], method="POST", uri=URL, now=NOW, token="t.o.k")


@pytest.mark.parametrize("key", [EC, RSA], ids=["ec", "rsa"])
def test_an_assertion_names_the_application_twice_and_lasts_a_minute(key: ClientKey) -> None:
    said = taken_apart(key.assertion("kid", "app", "https://issuer", now=NOW), ("jwt",))
    assert said is not None
    assert said.header == {"typ": "JWT", "alg": key.alg, "kid": "kid"}
    assert said.is_signed_by(jwk.public_key(key.public_jwk(kid="kid")))
    jti = said.claims.pop("jti")
    assert said.claims == {
        "iss": "app",
        "sub": "app",
        "aud": "https://issuer",
        "iat": NOW,
        "exp": NOW + ASSERTION_SECONDS,
    }
    other = taken_apart(key.assertion("kid", "app", "https://issuer", now=NOW), ("jwt",))
    assert other is not None
    assert other.jti != jti


def test_the_thumbprint_is_of_rfc_7638() -> None:
    point = EC.public_jwk()
    text = f'{{"crv":"P-256","kty":"EC","x":"{point["x"]}","y":"{point["y"]}"}}'
    assert jwk.encode_base64url(sha256(text.encode()).digest()).decode() == EC.thumbprint
    assert EC.public_jwk(kid="a", use="sig") == {**point, "kid": "a", "use": "sig"}


def test_a_file_is_read(tmp_path: Path) -> None:
    for private in (ec_key(), rsa_key()):
        file = tmp_path / "key.pem"
        file.write_text(pem_of(private))
        assert ClientKey.from_file(file).thumbprint == jwk.thumbprint(private.public_key())


def encrypted() -> str:
    secret = BestAvailableEncryption(b"p")
    return ec_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret).decode()


UNFIT = {
    "empty": "",
    "text": "SECRET text",
    "cut": pem_of(EC._private)[:120],
    "encrypted": encrypted(),
    "p384": pem_of(ec.generate_private_key(ec.SECP384R1())),
    "ed25519": pem_of(ed25519.Ed25519PrivateKey.generate()),
    "short": pem_of(rsa.generate_private_key(65537, 1024)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_file_that_is_no_key_says_which_file_and_nothing_of_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(UNFIT[name])
    with pytest.raises(
        ValueError, match=r"key\.pem: (not the unencrypted PEM|a key must be)"
    ) as raised:
        ClientKey.from_file(file)
    assert not any(line and line in str(raised.value) for line in UNFIT[name].splitlines())
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(("name", "said"), [("missing", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        ClientKey.from_file(tmp_path / name)


def test_no_text_and_no_pickle_has_the_key() -> None:
    assert repr(EC) == f"ClientKey(ES256, {EC.thumbprint})"
    with pytest.raises(TypeError, match="private key"):
        pickle.dumps(EC)


def test_something_else_is_no_key() -> None:
    thing: Any = b"bytes"
    with pytest.raises(ValueError, match="a key must be"):
        ClientKey(thing)
