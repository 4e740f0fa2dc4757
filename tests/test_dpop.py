"""DPoP proofs (RFC 9449): which one proves that its sender holds the key."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import jwk
from caracal.dpop import InvalidProof, Proof, Sent, Unproven, bound_to, check, holder
from tests.signing import ec_key, public_jwk, rsa_key, signed

KEY, RSA = ec_key(), rsa_key()
URI = "https://server.example.com/token"
NOW = 1_000_000_000.0
TOKEN = "an.access.token"
ATH = urlsafe_b64encode(sha256(TOKEN.encode()).digest()).rstrip(b"=").decode()

# RFC 9449, sections 4.1 and 7.1: one key, a proof for the token endpoint, one for a resource.
RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
RFC_HEADER = (
    b"eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0V"
    b"jNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10Nn"
    b"Y5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
RFC_PROOF = (
    RFC_HEADER + b".eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2Vyd"
    b"mVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLv"
    b"qRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_RESOURCE_PROOF = (
    RFC_HEADER + b".eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvd"
    b"XJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycj"
    b"JaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1"
    b"plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"


def proof(key: Any = KEY, header: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A proof that is in order; a member given as None is left out."""
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(KEY)} | (header or {})
    said = {"jti": "once", "htm": "POST", "htu": URI, "iat": NOW} | claims
    head, said = ({k: v for k, v in part.items() if v is not None} for part in (head, said))
    return signed(key, head, said).encode()


def checked(*sent: bytes, **members: Any) -> Proof:
    given = {"method": "POST", "uri": URI, "now": NOW} | members
    return check(sent, **given)


def test_the_proof_of_rfc_9449_section_4() -> None:
    found = checked(RFC_PROOF, now=1562262616)
    assert found.jkt == RFC_JKT


def test_the_proof_of_rfc_9449_section_7() -> None:
    uri = "https://resource.example.org/protectedresource"
    found = checked(RFC_RESOURCE_PROOF, method="GET", uri=uri, now=1562262618, token=RFC_TOKEN)
    assert found.jkt == RFC_JKT
    with pytest.raises(InvalidProof):
        checked(RFC_RESOURCE_PROOF, method="GET", uri=uri, now=1562262618, token="another")


def test_a_proof_is_known_by_its_key_and_id() -> None:
    found = checked(proof())
    assert found == checked(proof(ath=ATH))
    assert found.use != checked(proof(jti="twice")).use
    other = ec_key()
    assert found.use != checked(proof(other, {"jwk": public_jwk(other)})).use
    assert found.jkt == jwk.thumbprint(KEY.public_key())


@pytest.mark.parametrize("alg", ["RS256", "PS256"])
def test_rsa_keys(alg: str) -> None:
    sent = proof(RSA, {"alg": alg, "jwk": public_jwk(RSA)})
    assert checked(sent).jkt == jwk.thumbprint(RSA.public_key())


@pytest.mark.parametrize("at", [-60, 0, 59.5, 60])
def test_times_that_fit(at: float) -> None:
    assert checked(proof(), now=NOW + at)


WRONG: dict[str, bytes] = {
    "typ": proof(header={"typ": "JWT"}),
    "no typ": proof(header={"typ": None}),
    "none": proof(None, {"alg": "none"}),
    "HMAC": proof(b"key", {"alg": "HS256", "jwk": {"kty": "oct", "k": "a2V5"}}),
    "RS256 by an EC key": proof(header={"alg": "RS256"}),
    "ES256 by an RSA key": proof(RSA),
    "no key": proof(header={"jwk": None}),
    "no key but its id": proof(header={"jwk": None, "kid": "k"}),
    "a private key": proof(header={"jwk": public_jwk(KEY, d="AAAA")}),
    "another key": proof(header={"jwk": public_jwk(ec_key())}),
    "a key for encryption": proof(header={"jwk": public_jwk(KEY, use="enc")}),
    "critical members": proof(header={"crit": ["b64"]}),
    "no jti": proof(jti=None),
    "an empty jti": proof(jti=""),
    "a long jti": proof(jti="j" * 257),
    "no htm": proof(htm=None),
    "another method": proof(htm="GET"),
    "a method in other letters": proof(htm="post"),
    "no htu": proof(htu=None),
    "another path": proof(htu=URI + "/"),
    "another host": proof(htu="https://server.example.org/token"),
    "another scheme": proof(htu="http://server.example.com/token"),
    "another port": proof(htu="https://server.example.com:8443/token"),
    "a port that is none": proof(htu="https://server.example.com:x/token"),
    "a user": proof(htu="https://u@server.example.com/token"),
    "htu of another type": proof(htu=[URI]),
    "no iat": proof(iat=None),
    "iat as text": proof(iat="now"),
    "too old": proof(iat=NOW - 61),
    "too new": proof(iat=NOW + 61),
    "iat without end": proof(iat=1e308),
    "cut": proof()[:-1],
    "not ASCII": proof() + "é".encode(),
    "empty": b"",
    "two in one": proof() + b"," + proof(),
    "large": b"a" * 10_000,
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_proofs(what: str) -> None:
    with pytest.raises(InvalidProof):
        checked(WRONG[what])


def test_it_is_one_proof() -> None:
    for sent in ([], [proof(), proof()]):
        with pytest.raises(InvalidProof):
            checked(*sent)


@pytest.mark.parametrize("ath", [None, "", ATH[:-1], ATH + "=", 1])
def test_a_proof_for_a_resource_names_its_token(ath: Any) -> None:
    assert checked(proof(ath=ATH), token=TOKEN)
    with pytest.raises(InvalidProof):
        checked(proof(ath=ath), token=TOKEN)


@pytest.mark.parametrize(
    ("htu", "uri"),
    [
        ("HTTPS://Server.Example.com:443/token?a=b#c", URI),
        ("https://server.example.com", "https://server.example.com/"),
        ("https://server.example.com/%7euser/%2f", "https://server.example.com/~user/%2F"),
        ("http://[::1]:80/a", "http://[::1]/a"),
    ],
)
def test_ways_to_write_a_uri(htu: str, uri: str) -> None:
    assert checked(proof(htu=htu), uri=uri)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_proof_or_none(sent: bytes) -> None:
    with pytest.raises(InvalidProof):
        checked(sent)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, None),
        ({"cnf": {"jkt": "a"}}, "a"),
        ({"cnf": {"x5t#S256": "a"}}, ""),
        ({"cnf": "a"}, ""),
        ({"cnf": {"jkt": 1}}, ""),
    ],
)
def test_what_a_token_is_bound_to(claims: dict[str, Any], expected: str | None) -> None:
    assert bound_to(claims) == expected


JKT = jwk.thumbprint(jwk.public_key(public_jwk(KEY)))
BOUND = {"cnf": {"jkt": JKT}}
UNBOUND: dict[str, Any] = {}


def sent(*proofs: bytes, method: str = "POST", uri: str = URI) -> Sent:
    return Sent(method, uri, proofs)


def test_the_holder_of_a_bound_token() -> None:
    found = holder(BOUND, TOKEN, sent(proof(ath=ATH)), NOW)
    assert found is not None
    assert found.jkt == JKT
    assert holder(UNBOUND, TOKEN, None, NOW) is None


OTHER = ec_key()
OTHERS = proof(OTHER, {"jwk": public_jwk(OTHER)}, ath=ATH)


@pytest.mark.parametrize(
    ("claims", "request_", "code"),
    [
        (BOUND, None, "invalid_token"),
        (UNBOUND, sent(proof(ath=ATH)), "invalid_token"),
        ({"cnf": {}}, sent(proof(ath=ATH)), "invalid_token"),
        ({"cnf": {}}, None, "invalid_token"),
        ({"cnf": {"jkt": ""}}, sent(proof(ath=ATH)), "invalid_token"),
        (BOUND, sent(OTHERS), "invalid_token"),
        (BOUND, sent(), "invalid_dpop_proof"),
        (BOUND, sent(proof()), "invalid_dpop_proof"),  # of no token
        (BOUND, sent(proof(ath=ATH[::-1])), "invalid_dpop_proof"),
        (BOUND, sent(proof(ath=ATH), method="GET"), "invalid_dpop_proof"),
        (BOUND, sent(proof(ath=ATH), uri="https://other.example"), "invalid_dpop_proof"),
        (BOUND, sent(*[proof(ath=ATH)] * 2), "invalid_dpop_proof"),
    ],
    ids=[
        *("as bearer", "bound to none", "no thumbprint", "nor proof", "empty thumbprint"),
        *("another key", "no proof", "no ath", "wrong ath", "method", "uri", "two proofs"),
    ],
)
def test_who_is_not_the_holder(claims: dict[str, Any], request_: Sent | None, code: str) -> None:
    with pytest.raises(Unproven) as raised:
        holder(claims, TOKEN, request_, NOW)
    assert raised.value.code == code
    assert raised.value.challenge == f'DPoP error="{code}", algs="ES256 RS256 PS256"'
