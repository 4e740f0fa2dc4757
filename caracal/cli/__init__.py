"""The command line: ``caracal``."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal import __version__
from caracal.cli.dead import dead
from caracal.cli.flow import flow
from caracal.cli.rebuild import as_of, rebuild
from caracal.cli.serve import serve
from caracal.cli.topics import topics
from caracal.cli.up import up

main = typer.Typer(
    name="caracal",
    help="Decides what an AI agent may do, proves what it did, and ends its authority at once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"caracal {__version__}")
        raise typer.Exit


@main.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


main.command()(up)
main.command()(serve)
main.command()(flow)
main.command()(topics)
main.add_typer(dead, name="dead")
main.command()(rebuild)
main.command()(as_of)

__all__ = ["main"]
