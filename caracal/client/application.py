"""``client.applications``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

from caracal.client.call import Call, Null
from caracal.client.method import D, one
from caracal.client.things import Editable

RegistrationMethod = Literal["managed", "dcr"]
CredentialType = Literal["token", "password", "public-key", "url", "public"]


class Application(TypedDict):
    """An application. ``client_secret`` is there once: when the server has made it."""

    id: str
    zone_id: str
    name: str
    registration_method: RegistrationMethod
    credential_type: CredentialType
    traits: list[str]
    consent: str
    created_at: str
    expires_at: NotRequired[str | None]
    jwks: NotRequired[dict[str, Any] | None]
    jwks_uri: NotRequired[str | None]
    client_secret: NotRequired[str]


class _Credentials(TypedDict, total=False):
    credential_type: CredentialType | None
    client_secret: str | None
    jwks: dict[str, Any] | Null | None
    jwks_uri: str | Null | None
    traits: Sequence[str] | None


class ApplicationInput(_Credentials):
    """A new application."""

    name: str
    registration_method: NotRequired[RegistrationMethod | None]
    consent: NotRequired[str | None]


class ApplicationPatch(_Credentials, total=False):
    """Changes of an application; ``registration_method`` stays."""

    name: str | None
    consent: str | None


class DCRInput(_Credentials):
    """A dynamic registration; ``expires_in`` in seconds, without it for ever."""

    name: str
    expires_in: NotRequired[int | None]


class Applications(Editable[D, Application, ApplicationInput, ApplicationPatch]):
    """Applications: OAuth clients of a zone.

    >>> app = client.applications.create(
    ...     zone_id, {"name": "crawler", "credential_type": "token"}
    ... )
    >>> app["client_secret"]
    """

    _plural = "applications"

    @one
    def dcr(self, zone_id: str, input: DCRInput) -> Call[Application]:
        """Register an application dynamically; the zone must allow it."""
        return self._call("POST", zone_id, "dcr", body=input)
