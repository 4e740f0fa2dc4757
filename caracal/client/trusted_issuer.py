"""``client.trusted_issuers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from caracal.client.call import Call, Null
from caracal.client.method import D, one
from caracal.client.things import Editable

Algorithm = Literal["RS256", "PS256", "ES256"]


class TrustedIssuer(TypedDict):
    """An OpenID provider whose id_tokens begin sessions of users."""

    id: str
    zone_id: str
    name: str
    issuer: str
    audiences: list[str]
    algorithms: list[Algorithm]
    jwks_uri: str | None
    subject_claim: str
    required_claims: dict[str, str | bool | int]
    mapped_claims: list[str]
    application_ids: list[str]
    max_age_seconds: int
    session_seconds: int
    single_use: bool
    created_at: str
    updated_at: str


class _TrustedIssuerMembers(TypedDict, total=False):
    name: str | None
    algorithms: Sequence[Algorithm] | None
    jwks_uri: str | Null | None
    required_claims: Mapping[str, str | bool | int] | None
    mapped_claims: Sequence[str] | None
    application_ids: Sequence[str] | None
    max_age_seconds: int | None
    session_seconds: int | None
    single_use: bool | None


class TrustedIssuerInput(_TrustedIssuerMembers):
    """A new trusted issuer; ``audiences`` are the client ids that its id_tokens may be for."""

    issuer: str
    audiences: Sequence[str]
    subject_claim: NotRequired[str | None]


class TrustedIssuerPatch(_TrustedIssuerMembers, total=False):
    """Changes of a trusted issuer; who its users are cannot be changed."""

    audiences: Sequence[str] | None


class UserId(TypedDict):
    """What a user is called here."""

    user_id: str


class TrustedIssuers(Editable[D, TrustedIssuer, TrustedIssuerInput, TrustedIssuerPatch]):
    """Trusted issuers: who may say who a user is.

    >>> trusted = client.trusted_issuers.create(
    ...     zone_id, {"issuer": "https://login.example", "audiences": ["my-client"]}
    ... )
    >>> client.trusted_issuers.user_id(zone_id, trusted["id"], "248289761001")["user_id"]
    """

    _plural = "trusted-issuers"

    @one
    def user_id(self, zone_id: str, id: str, subject: str) -> Call[UserId]:
        """Say what the issuer's user ``subject`` is called here: the ``user_id`` of grants."""
        return self._call("POST", zone_id, id, "user-id", body={"subject": subject})
