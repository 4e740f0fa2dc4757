"""``caracal agent tree``: which agents act, below whom, and for how long still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from caracal import clock
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

Status = Literal["active", "suspended", "terminated"]

LIVE: tuple[Status, ...] = ("active", "suspended")


@dataclass(frozen=True)
class Life:
    """Whether an agent acts, for how long it has, and how long it still may or has been dead."""

    state: State
    age: timedelta
    rest: timedelta
    reason: str

    @classmethod
    def of(cls, agent: Row, now: datetime) -> Life:
        """Return it at ``now``; past its time an agent is dead, swept up or not."""
        spawned, until = clock.parse(agent["spawned_at"]), ends_at(agent)
        reason = agent.get("status_reason") or ""
        if agent["status"] in LIVE and until > now:
            state: State = "live" if agent["status"] == "active" else "suspended"
            return cls(state, now - spawned, until - now, reason)
        ended = until if agent["terminated_at"] is None else clock.parse(agent["terminated_at"])
        return cls("dead", ended - spawned, now - ended, reason or "ttl")

    def told(self) -> str:
        """Return it in words."""
        age, rest = (span(each.total_seconds()) for each in (self.age, self.rest))
        if self.state == "dead":
            return f"dead: {self.reason} {rest} ago"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.state}{why}, {age} old, {rest} left"


def agents_of_zone(cli: Cli, ended_too: bool, root: str | None = None) -> list[Iterable[Row]]:
    """Return the lists in which a zone's agents, or one and those below it, are found."""
    statuses: tuple[Status | None, ...] = (None,) if ended_too else LIVE
    agents = cli.client.agents
    return [agents.iter(cli.zone_id, status=each, root=root, limit=PAGE) for each in statuses]


def ends_at(agent: Row) -> datetime:
    """Return when an agent's time is up."""
    return clock.parse(agent["spawned_at"]) + timedelta(seconds=agent["ttl_seconds"])


def able(agent: Row | None) -> str:
    """Return what an agent says that it can do, to stand after its application's name."""
    capabilities = (agent or {}).get("capabilities")
    return f"/{named(','.join(capabilities))}" if capabilities else ""


@dataclass(frozen=True)
class AgentTree:
    """Agents that were read, to be drawn each below the one that spawned it.

    Args:
        names: of applications, by id.
        now: the moment to show.
    """

    agents: Read
    names: Mapping[str, str]
    now: datetime

    @classmethod
    def read(cls, cli: Cli, root: str | None, ended_too: bool) -> AgentTree:
        """Read a zone's agents, or one with those below it.

        Raises:
            AdminApiError: 404 ``agent_not_found``, there is no such ``root``.
        """
        top = [] if root is None else [cli.client.agents.get(cli.zone_id, root)]
        found = Read.of(*agents_of_zone(cli, ended_too, root), top)
        return cls(found, names_of(cli, "applications", "name"), clock.now())

    def life(self, agent: Row) -> Life:
        """Return an agent's life so far."""
        return Life.of(agent, self.now)

    def state(self, agent: Row) -> State:
        """Return whether an agent acts."""
        return self.life(agent).state

    def part(self, limit: int | None) -> Part:
        """Return what of it is shown."""
        return Part.of(Forest(self.agents.rows, "parent_id"), limit, self.state)

    def document(self, part: Part) -> dict[str, Any]:
        """Return it for programs: the agents that are shown, parents first."""
        return {
            **part.counts(self.agents.complete),
            "agents": [
                {
                    **agent,
                    "application_name": self.names.get(agent["application_id"]),
                    "state": self.state(agent),
                    "ends_at": clock.rfc3339(ends_at(agent)),
                }
                for agent in part.rows()
            ],
        }

    def label(self, part: Part, *, ascii_only: bool) -> Callable[[Row], Text]:
        """Return what writes the line of an agent."""
        ids, symbols = shortened(agent["id"] for agent in part.rows()), symbols_of(ascii_only)

        def of(agent: Row) -> Text:
            life, app = self.life(agent), agent["application_id"]
            line = symbol(life.state, symbols)
            line.append(ids[agent["id"]], style="bold")
            line.append(f" {named(self.names.get(app, app))}{able(agent)}")
            line.append(f" {printable(agent.get('kind') or '')}  ", style="dim")
            return line.append(printable(life.told()), style=COLOURS[life.state])

        return of


def show_tree(cli: Cli, root: str | None, ended_too: bool, limit: int | None) -> None:
    """Print the agents of a zone, or one with those below it."""
    tree = AgentTree.read(cli, root, ended_too)
    part = tree.part(limit if cli.as_json else limit or DRAWN)
    if cli.as_json:
        cli.out.document(tree.document(part))
    elif not tree.agents.rows:
        cli.out.done("No agents." if ended_too else "No live agents; --all shows those that ended.")
    else:
        plain = cli.out.is_ascii
        foot = part.foot("agent", tree.agents.complete, ascii_only=plain)
        cli.out.picture(drawn(part, tree.label(part, ascii_only=plain)), "", *foot)
