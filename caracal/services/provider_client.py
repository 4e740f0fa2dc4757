"""How we are known to a provider: its endpoints, and our authentication there.

By a secret (RFC 6749, section 2.3.1) or by an assertion that we sign (``private_key_jwt``, RFC
7523, section 2.2), made anew for each request: it is good for one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jose import jws
from yarl import URL

from caracal import clock
from caracal.ids import new_id
from caracal.services.provider_kind import NOT_PROVISIONED, REFRESH_FAILED, NoCredential

METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS = 60
_SECRET_OF = {
    "client_secret_basic": "client_secret",
    "client_secret_post": "client_secret",
    "private_key_jwt": "private_key",
}
_RSA_BITS = range(2048, 8192 + 1)
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": "caracal",
}


@dataclass(frozen=True, slots=True)
class Client:
    """How we are known to a provider.

    Attributes:
        url: of the token endpoint, checked but for its addresses.
        secret: the client secret, or the private key in PEM; empty without one.
        method: one of :data:`METHODS` (RFC 7591, section 2).
        key_id: ``kid`` of assertions, where the provider wants one.
        audience: whom assertions are for; empty: the token endpoint.
        revocation_url: of the revocation endpoint, if there is one that may be called.
    """

    url: URL
    client_id: str
    secret: str = field(repr=False)
    method: str
    key_id: str = ""
    audience: str = ""
    revocation_url: URL | None = None

    def request(self, form: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a request with these fields.

        Raises:
            NoCredential: the private key is none.
        """
        headers, fields = dict(_HEADERS), dict(form)
        if self.method == "client_secret_basic":
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            fields |= {"client_id": self.client_id, **self._proof()}
        return urlencode(fields).encode(), headers

    def _proof(self) -> dict[str, str]:
        if self.method == "client_secret_post":
            return {"client_secret": self.secret}
        if self.method == "private_key_jwt":
            return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self._assertion()}
        return {}

    def _assertion(self) -> str:
        try:
            alg = algorithm_of(self.secret)
        except ValueError as problem:
            raise NoCredential(NOT_PROVISIONED, f"private_key {problem}") from None
        now = int(clock.now().timestamp())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.audience or str(self.url),
            "jti": new_id(),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }
        header = {"kid": self.key_id} if self.key_id else {}
        return str(jws.sign(claims, self.secret, headers=header, algorithm=alg))


def algorithm_of(pem: str) -> str:
    """Return what a private key signs with: ``ES256`` or ``RS256``.

    Raises:
        ValueError: it is no unencrypted PEM of a P-256 key, or of an RSA key of 2048-8192 bits.
    """
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their texts may tell of the key
        raise ValueError("must be an unencrypted PEM key") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size in _RSA_BITS:
        return "RS256"
    raise ValueError("must be on P-256, or of RSA with 2048-8192 bits")


def client_of(provider: Mapping[str, Any], secrets: Mapping[str, Any]) -> Client:
    """Return how we are known to the provider; ``secrets`` are those of its configuration.

    Raises:
        NoCredential: something is missing, or the token endpoint is not to be called.
    """
    config = provider["config"]
    client_id = provider["client_id"] or config.get("client_id")
    if not (isinstance(client_id, str) and client_id):
        raise NoCredential(NOT_PROVISIONED, "the provider has no client_id")
    method = config.get("token_endpoint_auth_method") or _default(secrets)
    if method not in METHODS:
        raise NoCredential(NOT_PROVISIONED, "unknown token_endpoint_auth_method")
    name = _SECRET_OF.get(method, "")
    secret = secrets.get(name) or ""
    if not isinstance(secret, str) or (name and not secret):
        raise NoCredential(NOT_PROVISIONED, f"the provider has no {name}")
    return Client(
        _token_endpoint(config),
        client_id,
        secret,
        method,
        *_assertion_members(config),
        _revocation_endpoint(config),
    )


def endpoint_of(config: Mapping[str, Any], name: str) -> URL | None:
    """Return an endpoint that we call by ourselves; None when the configuration has none.

    Who registered the provider chose it: https, and literally one of ``allowed_token_hosts``.

    Raises:
        NoCredential: it is not to be called.
    """
    given, hosts = config.get(name), config.get("allowed_token_hosts")
    if not given:
        return None
    if not isinstance(given, str) or not isinstance(hosts, list) or not hosts:
        raise NoCredential(NOT_PROVISIONED, f"{name} is no text, or no allowed_token_hosts")
    try:
        url = URL(given)
    except ValueError:
        raise NoCredential(NOT_PROVISIONED, f"{name} is no URL") from None
    if url.scheme != "https":
        raise NoCredential(REFRESH_FAILED, f"{name} is not https")
    if (url.raw_host or "").lower() not in {str(host).lower() for host in hosts}:
        raise NoCredential(REFRESH_FAILED, f"{name} is not one of allowed_token_hosts")
    return url


def wanted(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what tokens are asked for: ``scope`` and ``audience``, as far as configured."""
    scopes, audience = config.get("scopes") or config.get("scope"), config.get("audience")
    scope = " ".join(map(str, scopes)) if isinstance(scopes, list) else scopes
    found = {"scope": scope, "audience": audience}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _token_endpoint(config: Mapping[str, Any]) -> URL:
    found = endpoint_of(config, "token_endpoint") or endpoint_of(config, "token_url")
    if found is None:
        raise NoCredential(NOT_PROVISIONED, "no token_endpoint")
    return found


def _revocation_endpoint(config: Mapping[str, Any]) -> URL | None:
    try:
        return endpoint_of(config, "revocation_endpoint")
    except NoCredential:  # no reason to get no tokens
        return None


def _default(secrets: Mapping[str, Any]) -> str:
    for method in ("client_secret_basic", "private_key_jwt"):
        if secrets.get(_SECRET_OF[method]):
            return method
    return "none"


def _assertion_members(config: Mapping[str, Any]) -> tuple[str, str]:
    key_id, audience = config.get("assertion_key_id"), config.get("assertion_audience")
    if not all(isinstance(one or "", str) for one in (key_id, audience)):
        raise NoCredential(NOT_PROVISIONED, "assertion_key_id or assertion_audience is no text")
    return key_id or "", audience or ""
