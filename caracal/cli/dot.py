"""The delegation graph in the language of Graphviz: ``caracal delegation graph --dot``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from caracal.cli.delegation_graph import SOURCE, TARGET, DelegationGraph, agents_of
from caracal.cli.forest import Row
from caracal.cli.picture import Part, State, shortened
from caracal.cli.reading import READ_MOST
from caracal.cli.text import printable

_LINE = {"live": "solid", "suspended": "dashed", "dead": "dotted"}
_INK = {"live": "#1a7f37", "suspended": "#9a6700", "dead": "#cf222e"}


def dot(graph: DelegationGraph, part: Part) -> str:
    """Return what is shown as a digraph: an agent a node, a delegation an edge.

    The same graph gives the same text: times are said as they are, not how far off.
    """
    return "\n".join(("digraph delegations {", *_body(graph, part), "}", ""))


def _body(graph: DelegationGraph, part: Part) -> Iterator[str]:
    edges = list(part.rows())
    if part.not_shown:
        yield f"  // {part.not_shown} of {len(part.forest.rows)} delegations are not shown"
    if not graph.complete:
        yield f"  // only the newest {READ_MOST} were read: there are more"
    yield '  graph [rankdir="LR", fontname="Helvetica"];'
    yield '  node [shape="box", fontname="Helvetica"];'
    yield '  edge [fontname="Helvetica", fontsize="10"];'
    agents = agents_of(edges)
    ids = shortened(agents)
    for agent_id, app in agents.items():
        state = graph.state_of_agent(agent_id)
        lines = (graph.called(agent_id, app), ids[agent_id], state)
        yield f"  {quoted(agent_id)} [{_attributes(state, lines)}];"
    for edge in edges:
        ends = " -> ".join(quoted(edge[end]) for end in (SOURCE, TARGET))
        yield f"  {ends} [{_attributes(graph.state(edge), _said(graph, edge))}];"


def _said(graph: DelegationGraph, edge: Row) -> tuple[str, ...]:
    over = f"{edge['status']} {edge['revoked_at'] or ''}".rstrip()
    when = f"until {edge['expires_at']}" if edge["status"] == "active" else over
    return ", ".join(edge["scopes"]), graph.lends(edge), when, graph.state(edge), edge["id"]


def _attributes(state: State, lines: Iterable[str]) -> str:
    # In a label, not in an id, entities of HTML are read.
    label = "\\n".join(_escaped(printable(line).replace("&", "&amp;")) for line in lines)
    colours = f'color="{_INK[state]}", fontcolor="{_INK[state]}"'
    return f'label="{label}", style="{_LINE[state]}", {colours}'


def quoted(text: str) -> str:
    """Return any text as one id of the language."""
    return f'"{_escaped(printable(text))}"'


def _escaped(text: str) -> str:
    """Return text that ends no string, and begins no escape of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
