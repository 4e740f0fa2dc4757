"""``caracal app``: applications, the clients that ask for mandates."""

from __future__ import annotations

from typing import Any, Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.given import Json, Secret, sent

_Credential = Literal["token", "password", "public-key", "url", "public"]

APPLICATIONS = Things(
    noun="application",
    namespace="applications",
    columns=("id", "name", "registration_method", "credential_type", "traits", "created_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("registration_method", Literal["managed", "dcr"], "Who made it.", patch=False),
        Field("credential_type", _Credential, "How it proves who it is."),
        Field("client_secret", Secret, "Its secret; one is made for token and password."),
        Field("jwks", Json, 'Its public keys, {"keys": [...]}.', null=True),
        Field("jwks_uri", str, "Where its public keys are; https.", null=True),
        Field("traits", list[str], "A trait; may be repeated.", option="trait"),
        Field("consent", Literal["implicit", "required"], "Whether its users are asked."),
    ),
    ending="its sessions, agents and open streams end at once.",
)
_OF_DCR = ("name", "credential_type", "client_secret", "jwks", "jwks_uri", "traits")
_REGISTRATION = (
    *(field for field in APPLICATIONS.fields if field.name in _OF_DCR),
    Field("expires_in", int, "Seconds it lives."),
)

app = group()
APPLICATIONS.add(app, "list", "get", "create", "patch", "delete")


@APPLICATIONS.command(app, "dcr", parameters=[each.option_of_create() for each in _REGISTRATION])
def dcr(cli: Cli, **given: Any) -> None:
    """Register a client as it would itself: the zone must allow that."""
    cli.out.record(APPLICATIONS.call(cli, "dcr", sent(_REGISTRATION, given)))
