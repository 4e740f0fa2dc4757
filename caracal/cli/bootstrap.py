"""``caracal bootstrap``: a zone to try things in, on a server for development."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.command import command, single
from caracal.cli.connection import Cli

bootstrap = single()


@command(bootstrap, "bootstrap", zoned=False)
def run(
    cli: Cli,
    force: Annotated[bool, typer.Option("--force", help="Give the client a new secret.")] = False,
) -> None:
    """Make the local zone with an application, a resource and a policy that allows all."""
    cli.out.record(cli.client.bootstrap(force=force))
