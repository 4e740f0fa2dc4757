"""The command line: ``caracal``."""

from __future__ import annotations

import typer

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
main.command()(up)
main.command()(serve)
main.command()(flow)
main.command()(topics)
main.add_typer(dead, name="dead")
main.command()(rebuild)
main.command()(as_of)

__all__ = ["main"]
