"""Trees and graphs as they are drawn: bounded, of any names, on any output, and for Graphviz."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.cli.agent_tree import AgentTree, Life
from caracal.cli.delegation_graph import DelegationGraph
from caracal.cli.dot import dot
from caracal.cli.forest import Forest
from caracal.cli.outcome import Failure
from caracal.cli.picture import shortened
from caracal.cli.reading import READ_MOST, Read, whole_id
from caracal.cli.text import printable
from caracal.ids import new_id
from tests.cli.caracal import Caracal
from tests.cli.dot_reader import label, read
from tests.cli.stand_in import Answer, Asked, StandIn
from tests.cli.test_output import on_terminal

ZONE = new_id()
NOW = clock.parse("2026-05-11T20:00:00Z")
Row = dict[str, Any]
HOSTILE = '\x1b]0;pwned\x07"];\n\u202e\\N<b>&lt;[bold red]'


def at(seconds: float) -> str:
    """A time so many seconds after now."""
    return clock.rfc3339(NOW + timedelta(seconds=seconds))


def agent(agent_id: str, parent: str | None = None, **members: Any) -> Row:
    """An agent as the Coordinator shows it, in the middle of its hour."""
    return {
        "id": agent_id,
        "application_id": "app",
        "parent_id": parent,
        "kind": "instance",
        "capabilities": [],
        "status": "active",
        "status_reason": None,
        "spawned_at": at(-1800),
        "terminated_at": None,
        "ttl_seconds": 3600,
        **members,
    }


def edge(edge_id: str, source: str, target: str, parent: str | None = None, **more: Any) -> Row:
    """A delegation as the Coordinator shows it."""
    return {
        "id": edge_id,
        "source_session_id": source,
        "target_session_id": target,
        "issuer_application_id": "app",
        "receiver_application_id": "app",
        "parent_edge_id": parent,
        "resource_id": None,
        "scopes": ["read"],
        "constraints_json": {"max_hops": 2},
        "status": "active",
        "expires_at": at(600),
        "revoked_at": None,
        **more,
    }


def graph_of(*edges: Row, agents: tuple[Row, ...] = (), **names: str) -> DelegationGraph:
    """A graph of edges whose ends live, unless ``agents`` says otherwise."""
    ends = {each[end]: agent(each[end]) for each in edges
            for end in ("source_session_id", "target_session_id")}  # fmt: skip
    known = ends | {each["id"]: each for each in agents}
    return DelegationGraph(
        Read(list(edges), True), Read(list(known.values()), True), names, {"r": "resource://r"}, NOW
    )


# --- lives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({}, "live, 30 min old, 30 min left"),
        ({"spawned_at": at(-3)}, "live, 3 s old, 59 min left"),
        ({"status": "suspended"}, "suspended, 30 min old, 30 min left"),
        (
            {"status": "suspended", "status_reason": "service_heartbeat_lost"},
            "suspended (service_heartbeat_lost), 30 min old, 30 min left",
        ),
        (
            {"status": "terminated", "status_reason": "done", "terminated_at": at(-5)},
            "dead: done 5 s ago",
        ),
        ({"ttl_seconds": 1740}, "dead: ttl 1 min ago"),
        ({"spawned_at": at(5)}, "live, 0 s old, 1 h left"),
    ],
)
def test_a_life_in_words(members: Row, told: str) -> None:
    assert Life.of(agent("a", **members), NOW).told() == told


@pytest.mark.parametrize(
    ("members", "agents", "state", "time"),
    [
        ({}, (), "live", "10 min left"),
        ({"status": "revoked", "revoked_at": at(-2)}, (), "dead", "revoked 2 s ago"),
        ({"status": "expired", "expires_at": at(-60)}, (), "dead", "expired 1 min ago"),
        ({"expires_at": at(-1)}, (), "dead", "expired 1 s ago"),
        ({}, (agent("b", status="suspended"),), "suspended", "10 min left"),
        ({}, (agent("a", ttl_seconds=60),), "dead", "10 min left"),
    ],
)
def test_what_an_edge_lends(members: Row, agents: tuple[Row, ...], state: str, time: str) -> None:
    one = edge("e", "a", "b", **members)
    graph = graph_of(one, agents=agents)
    assert (graph.state(one), graph.time_of(one)) == (state, time)


@pytest.mark.parametrize(
    ("members", "lends"),
    [
        ({}, "any resource, 2 hops"),
        ({"constraints_json": {}}, "any resource, 1 hop"),
        ({"resource_id": "r"}, "resource://r, 2 hops"),
        ({"resource_id": "unknown"}, "unknown, 2 hops"),
        ({"constraints_json": {"resources": ["resource://a", "x"]}}, "resource://a, x, 1 hop"),
    ],
)
def test_for_what_an_edge_is(members: Row, lends: str) -> None:
    one = edge("e", "a", "b", **members)
    assert graph_of(one).lends(one) == lends


# --- bounds ------------------------------------------------------------------------------------


@given(
    parents=st.lists(st.integers(0, 30) | st.none(), max_size=30),
    dead=st.sets(st.integers(0, 30)),
    limit=st.integers(1, 31),
)
def test_what_is_chosen_hangs_together(
    parents: list[int | None], dead: set[int], limit: int
) -> None:
    """Of any rows, cycles included: none without its parent, every one counted once."""
    rows = [
        {"id": f"{number:02}", "above": None if parent is None else f"{parent:02}"}
        for number, parent in enumerate(parents)
    ]
    forest = Forest(rows, "above")
    reached = list(forest.walk())
    assert len(reached) == len(set(reached)) <= len(rows)
    for row_id in forest.rows:
        path = forest.path(row_id)
        assert len(path) == len(set(path))
    shown = forest.chosen(limit, lambda row: int(row["id"]) in dead)
    assert len(shown) == min(limit, len(reached))
    for row_id in shown:
        assert set(forest.path(row_id)) <= shown
    assert forest.hidden(shown).total() == len(reached) - len(shown)


def test_what_lives_is_shown_before_what_does_not() -> None:
    rows = [agent(f"a{number}", status="terminated", terminated_at=at(0)) for number in range(5)]
    rows += [agent("b"), agent("c", "b"), agent("d", "c")]
    part = AgentTree(Read(rows, True), {}, NOW).part(4)
    assert part.shown == {"b", "c", "d", "a4"}
    assert part.counts(True) == {"found": 8, "not_shown": 4, "complete": True}


def test_more_than_is_read_is_told() -> None:
    rows = ({"id": str(number)} for number in range(READ_MOST + 7))
    found = Read.of(rows, [{"id": "0"}])
    assert (len(found.rows), found.complete) == (READ_MOST, False)
    part = graph_of(edge("e", "a", "b")).part(1)
    said = [line.plain for line in part.foot("delegation", False, ascii_only=False)]
    assert said == ["1 delegation: ● 1 live", f"Only the newest {READ_MOST} were read: there are"
                    " more."]  # fmt: skip


def test_ten_thousand_delegations() -> None:
    edges = [edge(f"{n:05}", f"a{n // 10}", f"a{n + 1}", f"{n // 10:05}" if n > 9 else None)
             for n in range(10_000)]  # fmt: skip
    graph = graph_of(*edges)
    part = graph.part(100)
    assert (len(part.shown), part.not_shown) == (100, 9_900)
    document = graph.document(graph.part(None))
    assert len(document["edges"]) == 10_000
    assert max(len(each["path"]) for each in document["edges"]) == 4
    text = dot(graph, graph.part(None))
    assert len(text.splitlines()) > 20_000


# --- short ids ---------------------------------------------------------------------------------


def test_short_ids_tell_things_apart() -> None:
    one, other = "00000000-0000-7000-8000-aaaa0000000a", "00000000-0000-7000-8000-bbbb0000000a"
    assert shortened([one]) == {one: "0000000a"}
    assert shortened([one, other]) == {one: "aaaa0000000a", other: "bbbb0000000a"}
    twin = "00000000-0000-7000-9000-aaaa0000000a"
    assert shortened([one, twin]) == {one: one, twin: twin}
    assert shortened(["zone1", "a\x1b"]) == {"zone1": "zone1", "a\x1b": r"a\x1b"}


def test_what_a_short_id_names() -> None:
    one, other = "00000000-0000-7000-8000-aaaa0000000a", "00000000-0000-7000-8000-bbbb0000000a"
    assert whole_id("aaaa0000000a", [one, other, one]) == one
    assert whole_id("0000000b", [one, other]) == "0000000b"
    assert whole_id("service-7", [one]) == "service-7"
    with pytest.raises(Failure, match="0000000a is the end of 2 ids"):
        whole_id("0000000a", [one, other])


# --- hostile names, other outputs --------------------------------------------------------------


def serving(stand_in: StandIn, *, name: str = "Crawler", **members: Any) -> list[Row]:
    """Let the server know three agents and two edges; return the agents."""
    ids = [new_id() for _ in range(3)]
    now = {"spawned_at": clock.rfc3339(clock.now())}
    rows = [
        agent(each, parent, **now, **members)
        for each, parent in zip(ids, (None, *ids[:2]), strict=True)
    ]
    until = {"expires_at": clock.rfc3339(clock.now() + timedelta(hours=2))}
    first = edge(new_id(), ids[0], ids[1], **until)
    second = edge(new_id(), ids[1], ids[2], first["id"], **until, resource_id="r")

    def answer(asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path.endswith("/agents"):
            return 200, [] if "status=suspended" in asked.path else rows
        if path.endswith("/delegations/active"):
            return 200, [first, second]
        if path.endswith("/applications"):
            return 200, [{"id": "app", "name": name}]
        if path.endswith("/resources"):
            return 403, {"error": "admin_token_capability"}
        return 404, {"error": "not_found"}

    stand_in.answer = answer
    return rows


PICTURES = ("agent tree", "delegation graph")


def commands(stand_in: StandIn, **variables: str) -> Caracal:
    return Caracal(variables_of(stand_in) | variables)


def variables_of(stand_in: StandIn) -> dict[str, str]:
    return {
        "CARACAL_API_URL": stand_in.url,
        "CARACAL_ADMIN_TOKEN": "t",
        "CARACAL_COORDINATOR_URL": stand_in.url,
        "CARACAL_COORDINATOR_TOKEN": "c",
        "CARACAL_ZONE": ZONE,
    }


@pytest.mark.parametrize("picture", PICTURES)
def test_names_steer_no_terminal(stand_in: StandIn, picture: str) -> None:
    serving(stand_in, name=HOSTILE, capabilities=[HOSTILE], kind=HOSTILE, status_reason=HOSTILE)
    shown = commands(stand_in).run(*picture.split()).stdout
    assert all(line.isprintable() for line in shown.splitlines())
    assert r"\x1b]0;pwned\x07" in shown
    document = commands(stand_in).run(*picture.split(), "--json").stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", document)
    named = json.loads(document)["agents"]
    assert {each["application_name"] for each in named} == {HOSTILE}


@pytest.mark.parametrize("picture", PICTURES)
def test_colours_on_a_terminal_only_and_never_alone(
    stand_in: StandIn, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(stand_in)
    for name, value in variables_of(stand_in).items():
        monkeypatch.setenv(name, value)
    code, shown = on_terminal(stand_in, *picture.split(), columns=80)
    assert code == 0, shown
    assert "\x1b[32m● " in shown
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(len(line) for line in bare.splitlines()) <= 80
    piped = commands(stand_in).run(*picture.split()).stdout
    assert "\x1b" not in piped
    seconds = re.compile(r"\d+ s\b")
    assert seconds.sub("", piped) == seconds.sub("", bare)


@pytest.mark.parametrize(
    ("encoding", "symbols"), [("ascii", ("* ", "`-- ")), ("utf-8", ("● ", "└── "))]
)
def test_symbols_that_the_output_can_say(
    stand_in: StandIn, encoding: str, symbols: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(stand_in)
    caracal = commands(stand_in)
    monkeypatch.setattr(caracal._runner, "charset", encoding)
    for picture in PICTURES:
        shown = caracal.run(*picture.split()).stdout
        assert all(symbol in shown for symbol in symbols)
        assert "\\u" not in shown


def test_applications_that_nobody_names(stand_in: StandIn) -> None:
    """Who may not read them, or cannot reach the control plane, sees ids in their place."""
    serving(stand_in)
    known = stand_in.answer
    stand_in.answer = lambda asked: (
        (403, {"error": "admin_token_capability"})
        if asked.path.partition("?")[0].endswith("/applications")
        else known(asked)
    )
    assert " app instance  live" in commands(stand_in).run("agent", "tree").stdout


# --- Graphviz ----------------------------------------------------------------------------------


def test_the_graph_for_graphviz() -> None:
    edges = (
        edge("e1", "a", "b", scopes=["read", "write"]),
        edge("e2", "b", "c", "e1", resource_id="r", status="revoked", revoked_at=at(-1)),
    )
    graph = graph_of(*edges, agents=(agent("c", terminated_at=at(-1), status="terminated"),),
                     app="Crawler")  # fmt: skip
    found = read(dot(graph, graph.part(None)))
    assert {node: label(attributes) for node, attributes in found.nodes.items()} == {
        "a": ["Crawler", "a", "live"],
        "b": ["Crawler", "b", "live"],
        "c": ["Crawler", "c", "dead"],
    }
    (a, b, first), (b_too, c, second) = found.edges
    assert (a, b, b_too, c) == ("a", "b", "b", "c")
    assert label(first) == [
        *("read, write", "any resource, 2 hops", f"until {at(600)}", "live", "e1")
    ]
    assert label(second) == [*("read", "resource://r, 2 hops", f"revoked {at(-1)}", "dead", "e2")]
    assert [first["style"], second["style"]] == ["solid", "dotted"]
    assert found.comments == []
    assert read(dot(graph, graph.part(1))).comments == ["// 1 of 2 delegations are not shown"]


def test_a_label_is_no_html() -> None:
    graph = graph_of(edge("e", "a", "b"), app="&lt;b&gt;")
    (drawn, _) = read(dot(graph, graph.part(None))).nodes.values()
    assert label(drawn)[0] == "&lt;b&gt;"


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2, unique=True), st.text(max_size=2))
def test_any_names_for_graphviz(ids: list[str], name: str) -> None:
    graph = graph_of(edge("e", *ids, scopes=[name]), app=name)
    found = read(dot(graph, graph.part(None)))
    assert len(found.edges) == 1
    assert {label(attributes)[2] for attributes in found.nodes.values()} == {"live"}
    for attributes in (*found.nodes.values(), found.edges[0][2]):
        said = label(attributes)[0]
        assert said.isprintable()
        assert said == printable(name)


@pytest.mark.parametrize("asked", [("--dot",), ("--dot", "--all"), ("--dot", "--limit", "1")])
def test_graphviz_by_the_command(stand_in: StandIn, asked: tuple[str, ...]) -> None:
    rows = serving(stand_in, name=HOSTILE)
    known: Callable[[Asked], Answer] = stand_in.answer
    stand_in.answer = lambda each: (
        (200, []) if each.path.partition("?")[0].endswith("/delegations") else known(each)
    )
    found = read(commands(stand_in).run("delegation", "graph", *asked).stdout)
    expected = {("--dot",): 3, ("--dot", "--all"): 0}.get(asked, 2)
    assert len(found.nodes) == expected
    assert set(found.nodes) <= {row["id"] for row in rows}
