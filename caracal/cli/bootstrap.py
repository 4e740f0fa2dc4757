"""``caracal bootstrap``: a zone to try things in, on a server for development."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.command import command, single
from caracal.cli.connection import Cli
from caracal.cli.outcome import Failure
from caracal.errors import CaracalError

bootstrap = single()

_HOW = "start it in dev mode with CARACAL_LOCAL_BOOTSTRAP_ENABLED=true"


@command(bootstrap, "bootstrap", zoned=False)
def run(
    cli: Cli,
    force: Annotated[bool, typer.Option("--force", help="Give the client a new secret.")] = False,
) -> None:
    """Make the local zone with an application, a resource and a policy that allows all."""
    try:
        made = cli.client.bootstrap(force=force)
    except CaracalError as error:
        if error.code != "not_found":
            raise
        raise Failure("not_found", "this server makes no local zone", _HOW) from None
    cli.out.record(made)
