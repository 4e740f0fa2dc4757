"""Trees of agents with edges between them, as tests of cascades need them."""

from __future__ import annotations

from dataclasses import dataclass

from caracal.events.agent import Agent
from caracal.events.delegation import Delegation
from tests.coordinator.running import Crew
from tests.making import new_edge


@dataclass(frozen=True)
class Tree:
    """root -> (child -> grandchild, sibling); outside and further stand alone."""

    root: str
    child: str
    grandchild: str
    sibling: str
    outside: str
    further: str

    def statuses(self, status: str) -> dict[str, str]:
        """The tree with this status; who stands outside is active."""
        below = (self.root, self.child, self.grandchild, self.sibling)
        return dict.fromkeys(below, status) | dict.fromkeys((self.outside, self.further), "active")


async def planted(crew: Crew) -> Tree:
    """Spawn a tree."""
    root = (await crew.spawn())["id"]
    child = (await crew.spawn(parent_id=root))["id"]
    grandchild = (await crew.spawn(parent_id=child))["id"]
    sibling = (await crew.spawn(parent_id=root))["id"]
    outside, further = [(await crew.spawn())["id"] for _ in range(2)]
    return Tree(root, child, grandchild, sibling, outside, further)


async def edge(
    crew: Crew,
    source: str,
    target: str,
    parent: Delegation | None = None,
    *,
    worker: bool = True,
) -> Delegation:
    """Delegate from one agent to another, as the log knows them; a worker applies it."""
    agents = {
        agent.aggregate_id: agent for agent in await crew.log.find_all(Agent, (source, target))
    }
    made = new_edge(agents[source], agents[target], parent=parent, zone_id=crew.zone)
    saved = await crew.save(made)
    assert not worker or await crew.waiter.applied(saved, timeout=30)
    return made
