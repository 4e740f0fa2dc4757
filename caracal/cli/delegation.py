"""``caracal delegation``: who handed what authority to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.delegation_graph import SOURCE, TARGET, show_graph
from caracal.cli.dot import dot as written_as_dot
from caracal.cli.outcome import USAGE, Failure
from caracal.cli.picture import All, Limit
from caracal.cli.reading import PAGE, whole_id


def _whole(cli: Cli, name: str) -> str:
    """Return the whole id of an edge, or of an agent at the end of one."""
    return whole_id(name, _known(cli))


def _known(cli: Cli) -> Iterator[str]:
    for edge in DELEGATIONS.call(cli, "iter", limit=PAGE):
        yield from (edge["id"], edge[SOURCE], edge[TARGET])


DELEGATIONS = Things(
    noun="delegation",
    namespace="delegations",
    columns=(
        *("id", "source_session_id", "target_session_id", "scopes"),
        *("status", "expires_at", "created_at"),
    ),
    ending="authority handed on from it ends at once, too.",
    found=_whole,
    named_by="Id, or its end as the graph shows it,",
    coordinator=True,
)
_NODES = ("depth", "id", "source_session_id", "target_session_id")

delegation = group()
DELEGATIONS.add(delegation, "list")


@DELEGATIONS.command(delegation, "graph")
def graph(
    cli: Cli,
    agent: Annotated[
        str | None, typer.Option(help="Only the paths that lead to this agent, or on from it.")
    ] = None,
    all: All = False,  # noqa: A002 - the option's name
    dot: Annotated[bool, typer.Option("--dot", help="Write it for Graphviz.")] = False,
    limit: Limit = None,
) -> None:
    """Draw who handed what to whom, each delegation below the one it was narrowed from."""
    if dot and cli.as_json:
        raise Failure("invalid_option", "it is --dot or --json", exit_code=USAGE)
    agent_id = None if agent is None else _whole(cli, agent)
    show_graph(cli, agent_id, all, limit, written_as_dot if dot else None)


@DELEGATIONS.command(delegation, "active")
def active(cli: Cli) -> None:
    """List the delegations in force."""
    cli.out.rows(DELEGATIONS.call(cli, "active"), DELEGATIONS.columns, "No delegations.")


DELEGATIONS.list_of(
    delegation, "inbound", "inbound", "List what an agent was given.", DELEGATIONS.columns
)
DELEGATIONS.list_of(
    delegation, "outbound", "outbound", "List what an agent gave on.", DELEGATIONS.columns
)
DELEGATIONS.list_of(delegation, "traverse", "traverse", "List what hangs on it.", _NODES)
DELEGATIONS.show(delegation, "impact", "impact", "Show what revoking it would end.")

DELEGATIONS.end(delegation, "revoke", "revoke", "revoked")
