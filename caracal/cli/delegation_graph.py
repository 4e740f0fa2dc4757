"""``caracal delegation graph``: who handed which authority to whom, path by path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caracal import clock
from caracal.cli.agent_tree import Life, able, agents_of_zone
from caracal.cli.connection import Cli
from caracal.cli.forest import Forest, Row
from caracal.cli.picture import (
    COLOURS,
    DRAWN,
    Part,
    State,
    drawn,
    named,
    shortened,
    symbol,
    symbols_of,
)
from caracal.cli.reading import PAGE, Read, names_of
from caracal.cli.text import printable, span

if TYPE_CHECKING:
    from rich.text import Text

SOURCE, TARGET = "source_session_id", "target_session_id"
_APPLICATION = {SOURCE: "issuer_application_id", TARGET: "receiver_application_id"}
_WORST: tuple[State, ...] = ("dead", "suspended")
_INDENT = "    "


@dataclass(frozen=True)
class DelegationGraph:
    """Edges that were read, to be drawn each below the one that it was narrowed from.

    Args:
        agents: of the zone; whoever is not among them is dead.
        applications: names by id.
        resources: identifiers by id.
        now: the moment to show.
    """

    edges: Read
    agents: Read
    applications: Mapping[str, str]
    resources: Mapping[str, str]
    now: datetime

    @classmethod
    def read(cls, cli: Cli, ended_too: bool) -> DelegationGraph:
        """Read a zone's edges, and the agents that live."""
        client, zone = cli.client, cli.zone_id
        edges: Iterable[Row] = (
            client.delegations.iter(zone, limit=PAGE)
            if ended_too
            else client.delegations.iter_active(zone, limit=PAGE)
        )
        found, agents = Read.of(edges), Read.of(*agents_of_zone(cli, ended_too))
        names = names_of(cli, "applications", "name"), names_of(cli, "resources", "identifier")
        return cls(found, agents, *names, clock.now())

    @cached_property
    def forest(self) -> Forest:
        """Return the edges, each below its parent: a path from the top is a path of authority."""
        return Forest(self.edges.rows, "parent_edge_id")

    @cached_property
    def known(self) -> dict[str, Row]:
        """Return the agents that were read, by id."""
        return {agent["id"]: agent for agent in self.agents.rows}

    @property
    def complete(self) -> bool:
        """Whether all that there is was read."""
        return self.edges.complete and self.agents.complete

    def through(self, agent_id: str) -> DelegationGraph:
        """Return the paths that lead to an agent, and all that hangs on them beyond it."""
        rows = self.forest.rows
        ends = {edge_id for edge_id, row in rows.items() if agent_id in (row[SOURCE], row[TARGET])}
        kept = {each for edge_id in ends for each in self.forest.path(edge_id)}
        kept |= set(self.forest.walk(ends))
        return replace(self, edges=Read([rows[each] for each in kept], self.edges.complete))

    def state_of_agent(self, agent_id: str) -> State:
        """Return whether an agent acts."""
        agent = self.known.get(agent_id)
        return "dead" if agent is None else Life.of(agent, self.now).state

    def called(self, agent_id: str, application_id: str) -> str:
        """Return what an agent is called: its application, and what it can do."""
        name = named(self.applications.get(application_id, application_id))
        return f"{name}{able(self.known.get(agent_id))}"

    def state(self, edge: Row) -> State:
        """Return whether an edge lends anything now: both its ends must act for that."""
        if edge["status"] != "active" or clock.parse(edge["expires_at"]) <= self.now:
            return "dead"
        ends = [self.state_of_agent(edge[end]) for end in (SOURCE, TARGET)]
        return next((each for each in _WORST if each in ends), "live")

    def lends(self, edge: Row) -> str:
        """Return what an edge is for: its resources, for how many hops."""
        count = hops(edge)
        return f"{', '.join(self.resources_of(edge)) or 'any resource'}, {count} hop" + (
            "" if count == 1 else "s"
        )

    def resources_of(self, edge: Row) -> list[str]:
        """Return the identifiers of the resources that an edge is bound to."""
        bound = edge["resource_id"]
        listed = edge["constraints_json"].get("resources") or []
        return [self.resources.get(bound, bound)] if bound is not None else list(listed)

    def time_of(self, edge: Row) -> str:
        """Return for how long an edge still holds, or since when it does not."""
        until, revoked = clock.parse(edge["expires_at"]), edge["revoked_at"]
        if revoked is None and until > self.now:
            return f"{span((until - self.now).total_seconds())} left"
        ended, word = (until, "expired") if revoked is None else (clock.parse(revoked), "revoked")
        return f"{word} {span((self.now - ended).total_seconds())} ago"

    def part(self, limit: int | None) -> Part:
        """Return what of it is shown."""
        return Part.of(self.forest, limit, self.state)

    def document(self, part: Part) -> dict[str, Any]:
        """Return it for programs: agents, and the edges that are shown, parents first."""
        edges = list(part.rows())
        return {
            **part.counts(self.complete),
            "agents": [self._agent(*each) for each in agents_of(edges).items()],
            "edges": [
                {
                    **edge,
                    "state": self.state(edge),
                    "path": self.forest.path(edge["id"])[::-1],
                    "max_hops": hops(edge),
                    "resources": self.resources_of(edge),
                }
                for edge in edges
            ],
        }

    def _agent(self, agent_id: str, application_id: str) -> dict[str, Any]:
        return {
            "id": agent_id,
            "application_id": application_id,
            "application_name": self.applications.get(application_id),
            "state": self.state_of_agent(agent_id),
        }

    def lines(self, part: Part, *, ascii_only: bool, mark: str | None) -> Lines:
        """Return what writes the lines of the picture; ``mark`` is an agent to stand out."""
        edges = list(part.rows())
        ids = shortened({*(edge["id"] for edge in edges), *agents_of(edges)})
        return Lines(self, ids, symbols_of(ascii_only), "->" if ascii_only else "→", mark)


@dataclass(frozen=True)
class Lines:
    """Writes the lines of a picture."""

    graph: DelegationGraph
    ids: Mapping[str, str]
    symbols: Mapping[State, str]
    arrow: str
    mark: str | None

    def source(self, edge: Row) -> Text:
        """Return the line of an agent whose authority is its own."""
        state = self.graph.state_of_agent(edge[SOURCE])
        line = symbol(state, self.symbols)
        return self._agent(line, edge, SOURCE).append(f" {state}", style=COLOURS[state])

    def edge(self, edge: Row) -> Text:
        """Return the two lines of an edge: to whom, what; then on which terms."""
        state = self.graph.state(edge)
        line = symbol(state, self.symbols).append(f"{self.arrow} ", style=COLOURS[state])
        scopes = printable(", ".join(edge["scopes"])) or "no scope"
        self._agent(line, edge, TARGET).append(f": {scopes}", style=COLOURS[state])
        terms = f"\n{_INDENT}{self.ids[edge['id']]} {printable(self.graph.lends(edge))}, "
        return line.append(terms, style="dim").append(self._when(edge, state), style="dim")

    def _when(self, edge: Row, state: State) -> str:
        return ("" if state != "suspended" else "suspended, ") + self.graph.time_of(edge)

    def _agent(self, line: Text, edge: Row, end: str) -> Text:
        style = "bold reverse" if edge[end] == self.mark else "bold"
        line.append(self.ids[edge[end]], style=style)
        return line.append(f" {self.graph.called(edge[end], edge[_APPLICATION[end]])}")


def hops(edge: Row) -> int:
    """Return the length of the chain that an edge may start, itself included."""
    return int(edge["constraints_json"].get("max_hops") or 1)


def agents_of(edges: Iterable[Row]) -> dict[str, str]:
    """Return the application of each agent at an end of these edges."""
    return {edge[end]: edge[_APPLICATION[end]] for edge in edges for end in (SOURCE, TARGET)}


def _around(cli: Cli, graph: DelegationGraph, agent: str) -> DelegationGraph:
    """Return what is around an agent; where that is nothing, it may be that there is no agent."""
    part = graph.through(agent)
    if not part.edges.rows:
        cli.client.agents.get(cli.zone_id, agent)
    return part


def show_graph(
    cli: Cli,
    agent: str | None,
    ended_too: bool,
    limit: int | None,
    written: Callable[[DelegationGraph, Part], str] | None,
) -> None:
    """Print the delegations of a zone, or those around one agent.

    Args:
        written: writes the graph in another language.

    Raises:
        AdminApiError: 404 ``agent_not_found``, there is no such ``agent``.
    """
    graph = DelegationGraph.read(cli, ended_too)
    graph = graph if agent is None else _around(cli, graph, agent)
    part = graph.part(limit if cli.as_json or written else limit or DRAWN)
    if cli.as_json:
        cli.out.document(graph.document(part))
    elif written:
        cli.out.text(written(graph, part))
    elif not graph.edges.rows:
        hint = "" if ended_too else " in force; --all shows those that ended"
        cli.out.done(f"No delegations{hint}.")
    else:
        plain = cli.out.is_ascii
        lines = graph.lines(part, ascii_only=plain, mark=agent)
        foot = part.foot("delegation", graph.complete, ascii_only=plain)
        cli.out.picture(drawn(part, lines.edge, lines.source), "", *foot)
