"""``caracal agent`` and ``caracal delegation`` at a running Coordinator."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.caracal import Caracal
from tests.coordinator.edges import HOPS, delegated
from tests.coordinator.running import Crew, ids, unknown
from tests.coordinator.trees import Tree, planted


def short(thing: str) -> str:
    return thing[-8:]


def shown_by(result: Result) -> list[str]:
    """The lines of a picture; how fast this machine is does not show in them."""
    return re.sub(r"\b\d+ (s|min)\b", r"n \1", result.stdout).splitlines()


def lines_of(result: Result) -> list[str]:
    """What a picture shows, without its guides: the symbol and what stands behind it."""
    return [line.lstrip("│├└─ ") for line in shown_by(result) if line]


async def chain(crew: Crew) -> tuple[list[str], list[dict[str, Any]]]:
    """Agents a, b, c, d with edges a -> b -> c and b -> d."""
    a, b, c, d = [await crew.spawn(capabilities=[name]) for name in "abcd"]
    first = await delegated(crew, a, b, scopes=["read", "write"], constraints=HOPS)
    resource = crew.tenant.resource.aggregate_id
    crew_owns = {"resource_id": resource, "constraints": {"max_hops": 2}}
    await crew.tenant.add_grant(crew.tenant.resource)
    second = await delegated(crew, b, c, **crew_owns)
    third = await delegated(crew, b, d)
    return ids([a, b, c, d]), [first, second, third]


async def test_agents_are_listed_shown_stopped_and_ended(crew: Crew, aboard: Caracal) -> None:
    tree = await planted(crew)
    assert len(await aboard.ajson("agent", "list")) == 6
    below = await aboard.ajson("agent", "list", "--root", tree.child)
    assert ids(below) == [tree.grandchild, tree.child]
    assert (await aboard.ajson("agent", "get", short(tree.root)))["id"] == tree.root
    assert ids(await aboard.ajson("agent", "children", tree.root)) == [tree.child, tree.sibling]
    authority = await aboard.ajson("agent", "effective-authority", tree.root)
    assert authority["inbound_edges"] == []
    assert (await aboard.ajson("agent", "suspend", short(tree.child)))["affected"] == 2
    suspended = await aboard.ajson("agent", "list", "--status", "suspended", "--limit", "1")
    assert ids(suspended) == [tree.grandchild]
    assert (await aboard.ajson("agent", "resume", tree.child))["affected"] == 2
    said = (await aboard.arun("agent", "terminate", short(tree.child), "--reason", "done")).stdout
    assert said == f"agent {short(tree.child)} terminated\n"
    ended = await aboard.ajson("agent", "list", "--status", "terminated")
    assert {(row["id"], row["status_reason"]) for row in ended} == {
        (tree.child, "done"),
        (tree.grandchild, "done"),
    }


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("agent get {}", "agent_not_found"),
        ("agent tree {}", "agent_not_found"),
        ("agent suspend {}", "agent_not_found"),
        ("agent terminate 0123abcd", "agent_not_found"),
        ("agent list --status asleep", "invalid_query"),
        ("delegation graph --agent {}", "agent_not_found"),
        ("delegation graph --agent {} --all --dot", "agent_not_found"),
        ("delegation revoke {}", "delegation_not_found"),
        ("delegation impact {}", "delegation_not_found"),
    ],
)
async def test_refusals(aboard: Caracal, command: str, code: str) -> None:
    line = await aboard.arefused(*command.format(unknown()).split())
    assert line.startswith(f"{code}: ")


async def test_another_token_opens_nothing(crew: Crew, aboard: Caracal) -> None:
    line = await aboard.arefused("agent", "tree", "--coordinator-token", "another")
    assert line.startswith("invalid_token: ")
    assert line.endswith("CARACAL_COORDINATOR_TOKEN is not this Coordinator's")


# --- the tree ----------------------------------------------------------------------------------


@pytest.fixture
async def tree(crew: Crew, aboard: Caracal) -> Tree:
    """A tree of which a part is suspended and a part has ended."""
    tree = await planted(crew)
    await aboard.arun("agent", "suspend", tree.child)
    await aboard.arun("agent", "terminate", tree.sibling, "--reason", "done")
    return tree


async def test_the_tree(crew: Crew, aboard: Caracal, tree: Tree) -> None:
    name = crew.tenant.application.name
    assert shown_by(await aboard.arun("agent", "tree")) == [
        f"● {short(tree.root)} {name} ephemeral  live, n s old, n min left",
        f"└── ◐ {short(tree.child)} {name} ephemeral  suspended (requested), n s old, n min left",
        f"    └── ◐ {short(tree.grandchild)} {name} ephemeral  suspended (requested), n s old,"
        " n min left",
        f"● {short(tree.outside)} {name} ephemeral  live, n s old, n min left",
        f"● {short(tree.further)} {name} ephemeral  live, n s old, n min left",
        "",
        "5 agents: ● 3 live, ◐ 2 suspended",
    ]
    everything = lines_of(await aboard.arun("agent", "tree", "--all"))
    assert f"✗ {short(tree.sibling)} {name} ephemeral  dead: done n s ago" in everything
    assert everything[-1] == "6 agents: ● 3 live, ◐ 2 suspended, ✗ 1 dead"


async def test_the_tree_below_one(aboard: Caracal, tree: Tree) -> None:
    for root in (tree.child, short(tree.child)):
        shown = lines_of(await aboard.arun("agent", "tree", root))
        assert [line.split()[1] for line in shown[:-1]] == [
            short(tree.child),
            short(tree.grandchild),
        ]
    ended = lines_of(await aboard.arun("agent", "tree", tree.sibling))
    assert ended[-1] == "1 agent: ✗ 1 dead"


async def test_the_tree_for_programs(crew: Crew, aboard: Caracal, tree: Tree) -> None:
    document = await aboard.ajson("agent", "tree", "--all", "--limit", "5")
    assert (document["found"], document["not_shown"], document["complete"]) == (6, 1, True)
    states = {row["id"]: row["state"] for row in document["agents"]}
    assert states == {
        tree.root: "live",
        tree.child: "suspended",
        tree.grandchild: "suspended",
        tree.outside: "live",
        tree.further: "live",
    }
    first = document["agents"][0]
    shown = await aboard.ajson("agent", "get", first["id"])
    more = {"application_name": crew.tenant.application.name, "state": "live"}
    assert first == {**shown, **more, "ends_at": first["ends_at"]}
    assert first["spawned_at"] < first["ends_at"]


async def test_no_agents(aboard: Caracal) -> None:
    assert (await aboard.arun("agent", "tree")).stdout == (
        "No live agents; --all shows those that ended.\n"
    )
    assert (await aboard.arun("agent", "tree", "--all")).stdout == "No agents.\n"
    assert await aboard.ajson("agent", "tree") == {
        "found": 0,
        "not_shown": 0,
        "complete": True,
        "agents": [],
    }


async def test_ten_thousand_agents(crew: Crew, aboard: Caracal) -> None:
    """By pages of the API, drawn to a bound that is told: here of one and those below it."""
    root = await crew.spawn()
    async with crew.database() as db:
        await db.execute(
            "INSERT INTO agents SELECT (jsonb_populate_record(a, jsonb_build_object("
            " 'id', left(a.id, 24) || lpad(to_hex(n), 12, '0'), 'parent_id', a.id,"
            " 'ancestors', jsonb_build_array(a.id), 'depth', 1))).*"
            " FROM agents a, generate_series(1, 9999) n WHERE a.id = %s",
            (root["id"],),
        )
    shown = (await aboard.arun("agent", "tree")).stdout.splitlines()
    assert len(shown) == 100 + 4
    assert shown[0].startswith(f"● {short(root['id'])} ")
    assert shown[-4:] == [
        "└── … 9900 more",
        "",
        "10000 agents: ● 10000 live",
        "9900 of them not shown; --limit 10000 shows all.",
    ]


# --- the graph ---------------------------------------------------------------------------------


async def test_delegations_are_listed_walked_and_revoked(crew: Crew, aboard: Caracal) -> None:
    (a, b, c, d), (first, second, third) = await chain(crew)
    newest = ids([third, second, first])
    assert ids(await aboard.ajson("delegation", "list")) == newest
    assert ids(await aboard.ajson("delegation", "list", "--limit", "2")) == newest[:2]
    assert ids(await aboard.ajson("delegation", "active")) == newest
    assert ids(await aboard.ajson("delegation", "inbound", short(c))) == [second["id"]]
    assert ids(await aboard.ajson("delegation", "outbound", a)) == [first["id"]]
    walked = await aboard.ajson("delegation", "traverse", short(first["id"]))
    assert [node["depth"] for node in walked] == [1, 2, 2]
    impact = await aboard.ajson("delegation", "impact", first["id"])
    assert set(impact["affected_agents"]) == {b, c, d}
    revoked = await aboard.ajson("delegation", "revoke", short(second["id"]))
    assert (revoked["revoked_edges"], revoked["terminated_agents"]) == (1, 1)
    assert ids(await aboard.ajson("delegation", "active")) == ids([third, first])
    assert ids(await aboard.ajson("delegation", "list")) == newest


async def test_the_graph(crew: Crew, aboard: Caracal) -> None:
    (a, b, c, d), (first, second, third) = await chain(crew)
    name, resource = crew.tenant.application.name, crew.tenant.resource.identifier
    assert shown_by(await aboard.arun("delegation", "graph")) == [
        f"● {short(a)} {name}/a live",
        f"└── ● → {short(b)} {name}/b: read, write",
        f"        {short(first['id'])} any resource, 5 hops, n min left",
        f"    ├── ● → {short(c)} {name}/c: read",
        f"    │       {short(second['id'])} {resource}, 2 hops, n min left",
        f"    └── ● → {short(d)} {name}/d: read",
        f"            {short(third['id'])} any resource, 1 hop, n min left",
        "",
        "3 delegations: ● 3 live",
    ]
    await aboard.arun("agent", "suspend", d)
    await aboard.arun("delegation", "revoke", second["id"])
    live = lines_of(await aboard.arun("delegation", "graph"))
    assert f"◐ → {short(d)} {name}/d: read" in live
    assert live[-1] == "2 delegations: ● 1 live, ◐ 1 suspended"
    ended = lines_of(await aboard.arun("delegation", "graph", "--all"))
    at = ended.index(f"✗ → {short(c)} {name}/c: read")
    assert ended[at + 1] == f"{short(second['id'])} {resource}, 2 hops, revoked n s ago"


async def test_the_graph_around_one_agent(crew: Crew, aboard: Caracal) -> None:
    """The path that leads to it, and what it gave on; not what its giver gave to others."""
    (_, b, c, d), (first, second, third) = await chain(crew)
    alone = await delegated(crew, await crew.spawn(), await crew.spawn())

    async def around(agent: str) -> list[str]:
        return ids((await aboard.ajson("delegation", "graph", "--agent", agent))["edges"])

    assert await around(c) == [first["id"], second["id"]]
    assert await around(short(b)) == ids([first, second, third])
    assert await around(alone["source_session_id"]) == [alone["id"]]
    assert await around((await crew.spawn())["id"]) == []
    shown = (await aboard.arun("delegation", "graph", "--agent", d)).stdout
    assert short(third["id"]) in shown
    assert short(second["id"]) not in shown
    _, a_path, *_ = shown.splitlines()
    assert short(b) in a_path


async def test_the_graph_for_programs(crew: Crew, aboard: Caracal) -> None:
    (a, b, c, d), (first, second, third) = await chain(crew)
    document = await aboard.ajson("delegation", "graph")
    assert set(document) == {"found", "not_shown", "complete", "agents", "edges"}
    assert {agent["id"]: agent["state"] for agent in document["agents"]} == dict.fromkeys(
        (a, b, c, d), "live"
    )
    name = crew.tenant.application.name
    assert {agent["application_name"] for agent in document["agents"]} == {name}
    paths = {edge["id"]: edge["path"] for edge in document["edges"]}
    assert paths == {
        first["id"]: [first["id"]],
        second["id"]: [first["id"], second["id"]],
        third["id"]: [first["id"], third["id"]],
    }
    shown = {edge["id"]: edge for edge in document["edges"]}[second["id"]]
    (active,) = [
        edge for edge in await aboard.ajson("delegation", "active") if edge["id"] == second["id"]
    ]
    more = {
        "state": "live",
        "path": paths[second["id"]],
        "max_hops": 2,
        "resources": [crew.tenant.resource.identifier],
    }
    assert shown == {**active, **more}
    await aboard.arun("delegation", "revoke", first["id"])
    ended = await aboard.ajson("delegation", "graph", "--all")
    assert {edge["state"] for edge in ended["edges"]} == {"dead"}
    assert {agent["id"]: agent["state"] for agent in ended["agents"]}[a] == "live"


async def test_no_delegations(aboard: Caracal) -> None:
    assert (await aboard.arun("delegation", "graph")).stdout == (
        "No delegations in force; --all shows those that ended.\n"
    )
    assert (await aboard.arun("delegation", "graph", "--all")).stdout == "No delegations.\n"
    both = await aboard.arefused("delegation", "graph", "--dot", "--json", code=2)
    assert both == "invalid_option: it is --dot or --json"
