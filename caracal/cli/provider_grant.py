"""``caracal provider-grant``: users who let an application use what they have at a provider."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.outcome import USAGE, Failure

POLL_SECONDS = 1.0
_WAITS = ("pending", "answered")

PROVIDER_GRANTS = Things(
    noun="provider grant",
    namespace="provider_grants",
    columns=(),
    fields=(
        Field("application_id", str, "Who may use it.", needed=True, option="app"),
        Field("resource_id", str, "For what.", needed=True, option="resource"),
        Field("scopes", list[str], "A scope; may be repeated.", needed=True, option="scope"),
        Field("user_id", str, "Whose it is.", needed=True, option="user"),
    ),
    ending="its tokens are erased and, if the provider helps, ended there; what relies on it ends.",
)

provider_grant = group()
PROVIDER_GRANTS.add(provider_grant, "get", "create")
PROVIDER_GRANTS.end(provider_grant, "revoke", "revoke", "revoked")

GrantId = Annotated[str, typer.Argument(metavar="ID", help="Id of the provider grant.")]
ReturnTo = Annotated[
    str | None,
    typer.Option(help="Where the browser goes then; one the provider allows.", show_default=False),
]


@PROVIDER_GRANTS.command(provider_grant, "authorize")
def authorize(cli: Cli, grant_id: GrantId, return_to: ReturnTo = None) -> None:
    """Ask a user for consent: print where to give it."""
    cli.out.record(PROVIDER_GRANTS.call(cli, "authorize", grant_id, return_to=return_to))


@PROVIDER_GRANTS.command(provider_grant, "connect")
def connect(
    cli: Cli,
    grant_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A grant that is there; else one is made."),
    ] = None,
    app: Annotated[str | None, typer.Option(help="Who may use it.", show_default=False)] = None,
    resource: Annotated[str | None, typer.Option(help="For what.", show_default=False)] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope; may be repeated.", show_default=False)
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose it is.", show_default=False)] = None,
    return_to: ReturnTo = None,
) -> None:
    """Ask a user for consent, and wait until there is an answer: at most ten minutes."""
    given = {"application_id": app, "resource_id": resource, "scopes": scope, "user_id": user}
    grant_id = grant_id or _made(cli, given)
    asked = PROVIDER_GRANTS.call(cli, "authorize", grant_id, return_to=return_to)
    cli.out.note("The user opens this address and consents; it is for nobody else:")
    cli.out.note(asked["authorization_url"])
    cli.out.note(f"Waiting until {asked['expires_at']} …")
    cli.out.record(_answered(cli, grant_id))


def _made(cli: Cli, given: dict[str, Any]) -> str:
    if not all(given.values()):
        said = "name a grant, or --app, --resource, --scope and --user of a new one"
        raise Failure("missing_option", said, exit_code=USAGE)
    return str(PROVIDER_GRANTS.call(cli, "create", given)["id"])


def _answered(cli: Cli, grant_id: str) -> dict[str, Any]:
    while True:
        grant: dict[str, Any] = PROVIDER_GRANTS.call(cli, "get", grant_id)
        status = grant["authorization_status"]
        if status == "connected":
            return grant
        if status not in _WAITS:
            code = grant["authorization_error"] or f"authorization_{status}"
            raise Failure(code, "there are no tokens for this grant")
        time.sleep(POLL_SECONDS)
