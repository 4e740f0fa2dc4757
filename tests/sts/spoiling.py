"""Ways to spoil a right token, whatever it is for: what may not work on any path."""

from __future__ import annotations

import base64
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from caracal.mandate import encode_base64url
from tests.signing import ec_key, public_jwk, rsa_key, signature_of

FOREIGN, RSA = ec_key(), rsa_key()
P384 = ec.generate_private_key(ec.SECP384R1())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@dataclass(frozen=True)
class Token:
    """What a right token is made of."""

    key: ec.EllipticCurvePrivateKey
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    def text(
        self,
        key: Any = None,
        header: Mapping[str, Any] | bytes | None = None,
        claims: Mapping[str, Any] | bytes | None = None,
    ) -> str:
        """The token with other members; one given as None is left out, bytes stand as they are."""
        signed = b".".join(
            encode_base64url(part if isinstance(part, bytes) else _json(part))
            for part in (_merged(self.header, header), _merged(self.claims, claims))
        )
        alg = header.get("alg", "ES256") if isinstance(header, Mapping) else "ES256"
        signature = signature_of(key or self.key, str(alg), signed)
        return (signed + b"." + encode_base64url(signature)).decode()

    @property
    def parts(self) -> tuple[str, str, str]:
        header, payload, signature = self.text().split(".")
        return header, payload, signature

    @property
    def pem(self) -> bytes:
        public = self.key.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


Spoiling = Callable[[Token], str]


def _merged(
    members: Mapping[str, Any], more: Mapping[str, Any] | bytes | None
) -> Mapping[str, Any] | bytes:
    return more if isinstance(more, bytes) else {**members, **(more or {})}


def _json(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in members.items() if value is not None})


def _appended(members: Mapping[str, Any], text: bytes) -> bytes:
    """JSON in which a member comes once more, behind the right one."""
    return _json(members)[:-1] + b"," + text + b"}"


def unsigned(alg: Any) -> Spoiling:
    def spoil(token: Token) -> str:
        return token.text(header={"alg": alg}).rpartition(".")[0] + "."

    return spoil


def header(**members: Any) -> Spoiling:
    """Signed by the right key."""
    return lambda token: token.text(header=members)


def claims(**members: Any) -> Spoiling:
    return lambda token: token.text(claims=members)


def by_foreign(**members: Any) -> Spoiling:
    """Signed by a key of the forger's, which the header may name or bring."""
    return lambda token: token.text(FOREIGN, header=members)


def hmac_of(secret: Callable[[Token], bytes], alg: str) -> Spoiling:
    def spoil(token: Token) -> str:
        signed = token.text(header={"alg": alg}).rpartition(".")[0]
        return f"{signed}.{_b64(hmac.new(secret(token), signed.encode(), sha256).digest())}"

    return spoil


def es384(token: Token) -> str:
    signed = token.text(header={"alg": "ES384"}).rpartition(".")[0]
    r, s = decode_dss_signature(P384.sign(signed.encode(), ec.ECDSA(SHA384())))
    return f"{signed}.{_b64(r.to_bytes(48) + s.to_bytes(48))}"


def signature(made: Callable[[bytes], bytes]) -> Spoiling:
    """The right text under another signature."""

    def spoil(token: Token) -> str:
        head, payload, right = token.parts
        return f"{head}.{payload}.{_b64(made(_bytes(right)))}"

    return spoil


def spelt(form: Callable[[str, str, str], str]) -> Spoiling:
    """The right token in another spelling."""
    return lambda token: form(*token.parts)


def payload(made: Callable[[bytes], bytes]) -> Spoiling:
    """Other bytes for the claims, signed by the right key."""
    return lambda token: token.text(claims=made(_json(token.claims)))


def negated(right: bytes) -> bytes:
    """The other signature that ECDSA takes for the same text."""
    return right[:32] + (ORDER - int.from_bytes(right[32:])).to_bytes(32)


def _b64(data: bytes) -> str:
    return encode_base64url(data).decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def _der(right: bytes) -> bytes:
    parts = (right[:32], right[32:])
    numbers = b"".join(b"\x02\x21\x00" + part for part in parts)
    return b"\x30" + bytes([len(numbers)]) + numbers


def _other_bits(text: str) -> str:
    """The same bytes in base64, but for bits that no byte has: the last character's."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


ALGORITHMS: dict[str, Spoiling] = {
    "none": unsigned("none"),
    "nOnE": unsigned("nOnE"),
    "no alg": unsigned(None),
    "empty alg": unsigned(""),
    "alg of another type": unsigned(["ES256"]),
    "unsigned ES256": unsigned("ES256"),
    "HS256 by the public key in PEM": hmac_of(lambda token: token.pem, "HS256"),
    "HS256 by the public JWK": hmac_of(lambda token: _json(public_jwk(token.key)), "HS256"),
    "HS256 by nothing": hmac_of(lambda token: b"", "HS256"),
    "HMAC called ES256": hmac_of(lambda token: token.pem, "ES256"),
    "RS256": lambda token: token.text(RSA, header={"alg": "RS256"}),
    "PS256": lambda token: token.text(RSA, header={"alg": "PS256"}),
    "RS256 called ES256": lambda token: token.text(RSA),
    "ES384": es384,
    "ES256K": header(alg="ES256K"),
    "es256": header(alg="es256"),
    "EdDSA": header(alg="EdDSA"),
    "ES256 and a space": header(alg="ES256 "),
    "A128KW": header(alg="A128KW", enc="A128GCM"),
}
CRITICAL: dict[str, Spoiling] = {
    "crit": header(crit=["exp"]),
    "empty crit": header(crit=[]),
    "b64": header(crit=["b64"], b64=False),
}
KIDS: dict[str, Spoiling] = {
    "no kid": header(kid=None),
    "empty kid": header(kid=""),
    "unknown kid": header(kid="unknown"),
    "kid of a number": header(kid=0),
    "kid of a list": lambda token: token.text(header={"kid": [token.header["kid"]]}),
    "kid of an object": lambda token: token.text(header={"kid": {"kid": token.header["kid"]}}),
    "kid of true": header(kid=True),
    "kid of a path": header(kid="../../../../dev/null"),
    "kid of SQL": header(kid="x' UNION SELECT 'AA' -- "),
    "kid of a command": header(kid="|/usr/bin/id"),
    "kid of a URL": header(kid="https://evil.example/keys"),
    "kid and NUL": lambda token: token.text(header={"kid": f"{token.header['kid']}\x00"}),
    "kid and a space": lambda token: token.text(header={"kid": f" {token.header['kid']}"}),
    "long kid": header(kid="k" * 1000),
    "kid in capitals": lambda token: token.text(header={"kid": token.header["kid"].upper() + "K"}),
}
"""For tokens whose key is picked by its id."""

BROUGHT: dict[str, Spoiling] = {
    "a foreign key": by_foreign(),
    "jwk": by_foreign(jwk=public_jwk(FOREIGN)),
    "jwk of no kid": by_foreign(jwk=public_jwk(FOREIGN), kid=None),
    "jku": by_foreign(jku="https://127.0.0.1:9/keys", kid="evil"),
    "x5u": by_foreign(x5u="https://127.0.0.1:9/chain"),
    "x5c": by_foreign(x5c=["MIIB", "MIIC"]),
    "x5t": by_foreign(**{"x5t#S256": "AA"}),
}
"""For tokens whose key is known beforehand: what they bring along counts for nothing."""

SIGNATURES: dict[str, Spoiling] = {
    "zeros": signature(lambda right: bytes(64)),
    "the order": signature(lambda right: ORDER.to_bytes(32) * 2),
    "all ones": signature(lambda right: b"\xff" * 64),
    "r alone": signature(lambda right: right[:32] + bytes(32)),
    "swapped": signature(lambda right: right[32:] + right[:32]),
    "DER": signature(_der),
    "a byte more": signature(lambda right: right + b"\x00"),
    "a byte less": signature(lambda right: right[:-1]),
    "a bit": signature(lambda right: bytes([right[0] ^ 1]) + right[1:]),
    "long": signature(lambda right: right * 20),
}
SPELLINGS: dict[str, Spoiling] = {
    "nothing": lambda token: ".",
    "dots": lambda token: "..",
    "two parts": spelt(lambda h, p, s: f"{h}.{p}"),
    "four parts": spelt(lambda h, p, s: f"{h}.{p}.{s}.{s}"),
    "five parts": spelt(lambda h, p, s: f"{h}.{p}.{s}.{s}.{s}"),
    "no header": spelt(lambda h, p, s: f".{p}.{s}"),
    "no payload": spelt(lambda h, p, s: f"{h}..{s}"),
    "another order": spelt(lambda h, p, s: f"{p}.{h}.{s}"),
    "padded header": spelt(lambda h, p, s: f"{h}=.{p}.{s}"),
    "padded payload": spelt(lambda h, p, s: f"{h}.{p}==.{s}"),
    "padded signature": spelt(lambda h, p, s: f"{h}.{p}.{s}=="),
    "other bits": spelt(lambda h, p, s: f"{h}.{p}.{_other_bits(s)}"),
    "space inside": spelt(lambda h, p, s: f"{h}. {p}.{s}"),
    "line break inside": spelt(lambda h, p, s: f"{h}.{p[:9]}\t{p[9:]}.{s}"),
    "in capitals": spelt(lambda h, p, s: f"{h}.{p}.{s}".upper()),
    "standard base64": spelt(lambda h, p, s: f"{h}.{p}.{s[:-4]}+/+/"),
    "twice": spelt(lambda h, p, s: f"{h}.{p}.{s}{h}.{p}.{s}"),
    "very long": spelt(lambda h, p, s: f"{h}.{p * 20}.{s}"),
    "JSON": spelt(lambda h, p, s: f'{{"protected":"{h}","payload":"{p}","signature":"{s}"}}'),
    "with its scheme": spelt(lambda h, p, s: f"Bearer {h}.{p}.{s}"),
}
AROUND: dict[str, Spoiling] = {
    "space before": spelt(lambda h, p, s: f" {h}.{p}.{s}"),
    "space behind": spelt(lambda h, p, s: f"{h}.{p}.{s} "),
    "line break behind": spelt(lambda h, p, s: f"{h}.{p}.{s}\n"),
    "NUL behind": spelt(lambda h, p, s: f"{h}.{p}.{s}\x00"),
    "text": spelt(lambda h, p, s: f"{h}.{p}.{s}é"),
}
"""For tokens in a form: around a header's value spaces do not count, and these do not pass."""

PAYLOADS: dict[str, Spoiling] = {
    "no JSON": payload(lambda text: b"claims"),
    "a list": payload(lambda text: b"[" + text + b"]"),
    "null": payload(lambda text: b"null"),
    "two objects": payload(lambda text: text + text),
    "compressed": payload(zlib.compress),
    "deflated, and said so": lambda token: token.text(
        header={"zip": "DEF"}, claims=zlib.compress(_json(token.claims), wbits=-15)
    ),
    "UTF-16": payload(lambda text: text.decode().encode("utf-16")),
    "byte order mark": payload(lambda text: b"\xef\xbb\xbf" + text),
    "lone surrogate": payload(lambda text: text[:-1] + b',"x":"\\ud800"}'),
    "not a number": payload(lambda text: text[:-1] + b',"x":NaN}'),
    "bytes": payload(lambda text: text[:-1] + b',"x":"\xff"}'),
    "deep": payload(lambda text: text[:-1] + b',"x":' + b"[" * 1100 + b"]" * 1100 + b"}"),
    "endless": payload(lambda text: text[:-1] + b',"x":' + b"[" * 1100),
    "a header that is no object": lambda token: token.text(header=b'"ES256"'),
    "a header that is deep": lambda token: token.text(header=b"[" * 1500),
    "a second alg": lambda token: token.text(header=_appended(token.header, b'"alg":"none"')),
}


def once_more(member: bytes) -> Spoiling:
    """A claim comes a second time: the last one holds (RFC 7519, section 4)."""
    return lambda token: token.text(claims=_appended(token.claims, member))
