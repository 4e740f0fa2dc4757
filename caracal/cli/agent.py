"""``caracal agent``: the sessions of agents, and how to stop one."""

from __future__ import annotations

from caracal.cli.collection import Field, Things
from caracal.cli.command import group

AGENTS = Things(
    noun="agent",
    namespace="agents",
    columns=("id", "application_id", "parent_id", "kind", "status", "depth", "spawned_at"),
    ending="it and all agents below it, their delegations and open streams end at once.",
    coordinator=True,
)

agent = group()
AGENTS.add(agent, "list", "get")
AGENTS.list_of(
    agent, "children", "children", "List the agents that it spawned itself.", AGENTS.columns
)
AGENTS.show(agent, "effective-authority", "effective_authority", "Show what it may do now.")
AGENTS.show(agent, "suspend", "suspend", "Stop it and all below it, until it is resumed.")
AGENTS.show(agent, "resume", "resume", "Let it go on, with all below it.")
AGENTS.end(agent, "terminate", "terminate", "terminated", Field("reason", str, "For the record."))
