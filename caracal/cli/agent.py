"""``caracal agent``: the sessions of agents, and how to stop one."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.agent_tree import show_tree
from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.picture import All, Limit
from caracal.cli.reading import PAGE, whole_id


def _whole(cli: Cli, name: str) -> str:
    rows = (agent["id"] for agent in AGENTS.call(cli, "iter", limit=PAGE))
    return whole_id(name, rows)


AGENTS = Things(
    noun="agent",
    namespace="agents",
    columns=("id", "application_id", "parent_id", "kind", "status", "depth", "spawned_at"),
    filters=(
        Field("status", str, "active, suspended or terminated."),
        Field("root", str, "Only this one, and all below it."),
    ),
    ending="it and all agents below it, their delegations and open streams end at once.",
    found=_whole,
    named_by="Id, or its end as the tree shows it,",
    coordinator=True,
)

agent = group()
AGENTS.add(agent, "list", "get")


@AGENTS.command(agent, "tree")
def tree(
    cli: Cli,
    root: Annotated[
        str | None,
        typer.Argument(metavar="ROOT", help="Only this agent, and all below it."),
    ] = None,
    all: All = False,  # noqa: A002 - the option's name
    limit: Limit = None,
) -> None:
    """Draw which agents act, each below the one that spawned it."""
    show_tree(cli, None if root is None else _whole(cli, root), all, limit)


AGENTS.list_of(
    agent, "children", "children", "List the agents that it spawned itself.", AGENTS.columns
)
AGENTS.show(agent, "effective-authority", "effective_authority", "Show what it may do now.")
AGENTS.show(agent, "suspend", "suspend", "Stop it and all below it, until it is resumed.")
AGENTS.show(agent, "resume", "resume", "Let it go on, with all below it.")
AGENTS.end(agent, "terminate", "terminate", "terminated", Field("reason", str, "For the record."))
