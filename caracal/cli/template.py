"""``caracal template``: policies to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

TEMPLATES = Things(
    noun="template",
    namespace="policy_templates",
    columns=("id", "name", "description"),
    zoned=False,
)

template = group()


@TEMPLATES.command(template, "list")
def list_(cli: Cli) -> None:
    """List the templates."""
    cli.out.rows(TEMPLATES.call(cli, "list"), TEMPLATES.columns, "No templates.")


@TEMPLATES.command(template, "get")
def get(
    cli: Cli,
    template_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the template.")],
) -> None:
    """Print a template's policy, ready to be kept in a file."""
    found = TEMPLATES.call(cli, "get", template_id)
    if cli.as_json:
        cli.out.document(found)
    else:
        typer.echo(found["content"].rstrip("\n"))
