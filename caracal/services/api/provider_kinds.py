"""What each typed kind of provider takes; the four kinds of the seeds are open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from caracal.provider_config import Config
from caracal.services.fields import HttpsUrl
from caracal.services.models import Body, Text
from caracal.services.provider_client import algorithm_of

_IDENTIFIER = re.compile(r"provider://[a-z0-9]+(-[a-z0-9]+)*")

_Host = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
_Hosts = Annotated[list[_Host], Field(min_length=1, max_length=32)]
# RFC 6749, section 3.3
_Scopes = Annotated[
    list[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,200}$")]], Field(max_length=64)
]
# token, RFC 9110 section 5.6.2; an empty scheme sends the bare credential
_HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
_Scheme = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{0,64}$")]
# what one header field can carry, RFC 9110 section 5.5, as far as it is ASCII
_HeaderValue = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,4094}[!-~])?$")]


def _private_key(pem: str) -> str:
    algorithm_of(pem)
    return pem


_PrivateKey = Annotated[str, Field(max_length=8192), AfterValidator(_private_key)]


class _Keys(Body):
    model_config = ConfigDict(extra="forbid")


class _NoSecrets(_Keys):
    pass


class _Upstream(_Keys):
    allowed_upstream_hosts: _Hosts | None = None


class _Carried(_Upstream):
    header_name: _HeaderName | None = None
    auth_scheme: _Scheme | None = None


class _ClientCredentials(_Carried):
    token_endpoint: HttpsUrl | None = None
    token_endpoint_auth_method: (
        Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"] | None
    ) = None
    assertion_key_id: Text | None = None
    assertion_audience: Text | None = None
    allowed_token_hosts: _Hosts | None = None
    scopes: _Scopes | None = None
    audience: Text | None = None


class _AuthorizationCode(_ClientCredentials):
    authorization_endpoint: HttpsUrl | None = None
    revocation_endpoint: HttpsUrl | None = None
    issuer: HttpsUrl | None = None
    authorization_response_iss_parameter_supported: bool | None = None
    allowed_return_urls: Annotated[list[HttpsUrl], Field(max_length=32)] | None = None


class _ClientSecret(_Keys):
    client_secret: Text | None = None
    private_key: _PrivateKey | None = None


class _ApiKey(_Keys):
    api_key: _HeaderValue | None = None


class _BearerToken(_Keys):
    bearer_token: _HeaderValue | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """The keys that a typed kind takes, public and secret."""

    public: type[_Keys]
    secret: type[_Keys]


KINDS: Mapping[str, Kind] = {
    "none": Kind(_Upstream, _NoSecrets),
    "caracal_mandate": Kind(_Carried, _NoSecrets),
    "oauth2_authorization_code": Kind(_AuthorizationCode, _ClientSecret),
    "oauth2_client_credentials": Kind(_ClientCredentials, _ClientSecret),
    "api_key": Kind(_Carried, _ApiKey),
    "bearer_token": Kind(_Carried, _BearerToken),
}
"""The typed kinds; every other kind takes what it is given."""


def check(kind: str, identifier: str, config: Config) -> None:
    """Refuse a provider that is not as its typed kind wants it.

    Raises:
        RequestValidationError: 400 ``invalid_body`` with an issue for each key that does not
            belong, or has a wrong value; no issue repeats a value.
    """
    if (typed := KINDS.get(kind)) is None:
        return
    issues = [
        *_identifier_issues(kind, identifier),
        *_issues(kind, typed.public, "config_json", config.public),
        *_issues(kind, typed.secret, "secret_config", config.secret),
    ]
    if issues:
        raise RequestValidationError(issues)


def refused(member: str, message: str) -> RequestValidationError:
    """Return the refusal of a member of the body for what has come of it."""
    return RequestValidationError([_issue([member], message)])


def _identifier_issues(kind: str, identifier: str) -> Iterable[dict[str, Any]]:
    if not _IDENTIFIER.fullmatch(identifier):
        form = f"of kind {kind} must be provider:// and lower-case words joined by single hyphens"
        yield _issue(["identifier"], form)


def _issues(
    kind: str, keys: type[_Keys], member: str, given: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    try:
        keys.model_validate(given)
    except ValidationError as problem:
        for error in problem.errors(include_input=False, include_url=False):
            message = error["msg"]
            if error["type"] == "extra_forbidden":
                names = ", ".join(sorted(keys.model_fields)) or "nothing"
                message = f"no key of kind {kind}, which takes {names} here"
            yield _issue([member, *error["loc"]], message)


def _issue(path: list[Any], message: str) -> dict[str, Any]:
    return {"type": "value_error", "loc": ("body", *path), "msg": message}
