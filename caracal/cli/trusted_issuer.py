"""``caracal issuer``: OpenID providers whose id_tokens begin sessions of users."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.given import Json

ISSUERS = Things(
    noun="issuer",
    namespace="trusted_issuers",
    columns=("id", "name", "issuer", "audiences", "application_ids", "created_at"),
    fields=(
        Field("issuer", str, "Its URL, as its tokens say it (iss).", needed=True, patch=False),
        Field(
            "audiences",
            list[str],
            "A client id that its tokens may be for; may be repeated.",
            needed=True,
            option="audience",
        ),
        Field("name", str, "What people call it; the URL when absent."),
        Field(
            "algorithms",
            list[str],
            "RS256, PS256 or ES256; may be repeated. All when absent.",
            option="algorithm",
        ),
        Field("jwks_uri", str, "Where its keys are; found by discovery when absent.", null=True),
        Field("subject_claim", str, "Which claim names the user; sub.", patch=False),
        Field("required_claims", Json, 'What its tokens must say, e.g. {"hd": "corp.example"}.'),
        Field(
            "mapped_claims",
            list[str],
            "A claim that policies see; may be repeated.",
            option="map-claim",
        ),
        Field(
            "application_ids",
            list[str],
            "Who may use its tokens; may be repeated. Any when absent.",
            option="app",
        ),
        Field("max_age_seconds", int, "How old a token may be."),
        Field("session_seconds", int, "How long a session lasts, at most."),
        Field("single_use", bool, "A token begins one session."),
    ),
    ending="the sessions that it began end at once.",
)

issuer = group()
ISSUERS.add(issuer, "list", "get", "create", "patch", "delete")


@ISSUERS.command(issuer, "user-id")
def user_id(
    cli: Cli,
    issuer_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the issuer.")],
    subject: Annotated[str, typer.Argument(help="What the issuer calls the user.")],
) -> None:
    """Say what a user is called here, as grants name users."""
    cli.out.record(ISSUERS.call(cli, "user_id", issuer_id, subject))
