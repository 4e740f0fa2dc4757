"""Commands at the product and at the model, and what must be seen after each of them.

Who plays says what is picked where there is a choice: hypothesis, or dice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import psycopg

from caracal import clock
from caracal.mandate import anchors_of, peek
from tests.backbone import eventually
from tests.model.scene import FREE, GOVERNED, SCOPES, Answer, Member, Scene
from tests.model.zone import AgentModel, EdgeModel, Limits, Said, Scopes, Token, Zone, is_narrower

T = TypeVar("T")
Row = dict[str, Any]
Whole = Callable[[], Awaitable[object]]
Effect = Callable[[Zone, Row], object]
_PREFLIGHT = 61  # s of life that a Gateway wants to see, at most
_KEPT = 6  # mandates that are looked at

OFTEN = (
    *("spawn",) * 5,
    *("delegate",) * 7,
    *("mint",) * 5,
    *("suspend", "resume") * 2,
    *("terminate", "revoke", "end_session", "wait"),
)
"""How often each command comes, one among the others."""
BEGINNING = (*("spawn",) * 7, *("delegate",) * 5, *("mint",) * 4)


class Pick(Protocol):
    """Chooses one."""

    def __call__(self, options: Sequence[T], /) -> T: ...


@dataclass(frozen=True)
class Command:
    """A request, what must come of it, and what it does.

    ``said`` asks the model; ``effect`` changes it, given the body of a success.
    """

    method: str
    path: str
    said: Callable[[Zone, float], Said]
    effect: Effect
    body: Row | None = None
    headers: Row | None = None
    by: Member | None = None


class Unclear(Exception):
    """Nobody knows whether, or in which state, the command was done.

    ``done`` is None when there was no answer.
    """

    def __init__(self, command: Command, before: Zone, answer: Answer) -> None:
        super().__init__(f"{command.method} {command.path}: {answer}")
        self.command, self.before, self.answer = command, before, answer
        self.done = None if answer.unknown else answer.status < 300


class Play:
    """One zone in play; a patient one, where things are killed meanwhile, may see less."""

    def __init__(self, scene: Scene, limits: Limits) -> None:
        self.scene, self.zone, self.patient = scene, Zone(limits), not scene.steady
        self.tokens: list[Token] = []
        self.outcomes: Counter[str] = Counter()
        self.position = self.turn = 0
        self.asking = False  # a command is under way
        self.trail: list[str] = []

    @property
    def commands(self) -> dict[str, Callable[[Pick], Awaitable[None]]]:
        """Everything that can be done, by name."""
        return {
            "spawn": self.spawn,
            "delegate": self.delegate,
            "suspend": self.suspend,
            "resume": self.resume,
            "terminate": self.terminate,
            "revoke": self.revoke,
            "mint": self.mint,
            "end_session": self.end_session,
            "wait": self.wait,
        }

    @property
    def _lives(self) -> tuple[int, int, int]:
        return self.scene.clock.lives

    def _some_agent(self, pick: Pick, rather: Sequence[str] = ()) -> str | None:
        """Pick an agent; more often one that lives, one of ``rather`` before all."""
        live, every = [row.id for row in self.zone.live()], list(self.zone.agents)
        return pick([*rather, *rather, *live, *live, *every[-2:]]) if every else None

    async def do(self, name: str, pick: Pick, whole: Whole | None = None) -> None:
        """Do one command; without an answer find out, once all is ``whole``, what came of it."""
        try:
            await self.commands[name](pick)
        except Unclear as unclear:
            if whole is not None:
                await whole()
            await self.settle(unclear)

    # --- agents ------------------------------------------------------------------------------

    async def spawn(self, pick: Pick) -> None:
        """Spawn an agent, below another one or not, with a key that may have been used."""
        await self.clear()
        member = pick(self.scene.members)
        parents = [row.id for row in self.zone.live(application=member.id)]
        others = [row.id for row in self.zone.agents.values() if row.id not in parents]
        parent = pick([None, *parents, *parents, *others[-2:]])
        asked = {
            "application_id": member.id,
            "subject_session_id": pick(list(member.sessions)),
            "parent_id": parent,
            "kind": pick(["instance", "instance", "ephemeral"]),
            "ttl_seconds": pick([self._lives[2], self._lives[2], self._lives[1], self._lives[0]]),
        }
        key = pick([None, None, "first", "second"])
        await self._do(
            Command(
                "POST",
                "/agents",
                lambda zone, now: zone.spawning(_agent_of(asked, key), now),
                lambda zone, body: _spawned(zone, asked, key, body),
                body=asked,
                headers={"Idempotency-Key": key} if key else None,
                by=member,
            )
        )

    async def suspend(self, pick: Pick) -> None:
        """Suspend an agent with those below it."""
        await self._walk("PATCH", self._some_agent(pick), "/suspend", "active", Zone.suspend)

    async def resume(self, pick: Pick) -> None:
        """Resume an agent with those below it."""
        suspended = [row.id for row in self.zone.live(status="suspended")]
        agent = self._some_agent(pick, suspended)
        await self._walk("PATCH", agent, "/resume", "suspended", Zone.resume)

    async def terminate(self, pick: Pick) -> None:
        """End an agent with those below it; again is no error."""
        await self._walk("DELETE", self._some_agent(pick), "", "", Zone.terminate)

    async def _walk(
        self,
        method: str,
        agent: str | None,
        verb: str,
        wanted: str,
        change: Callable[[Zone, str], Any],
    ) -> None:
        """Change a subtree whose root is to be in a status; without one it may be in any."""
        if agent is None:
            return
        await self.clear()

        def said(zone: Zone, now: float) -> Said:
            if not wanted:
                return Said(204)
            refused = Said(409, f"agent_not_found_or_not_{wanted}")
            return Said(200) if zone.agents[agent].status == wanted else refused

        def effect(zone: Zone, body: Row) -> None:
            changed = change(zone, agent)
            assert not wanted or body.get("affected", len(changed)) == len(changed)

        await self._do(Command(method, f"/agents/{agent}{verb}", said, effect))

    # --- edges -------------------------------------------------------------------------------

    async def delegate(self, pick: Pick) -> None:
        """Make an edge, often one that narrows what its source was given."""
        await self.clear()
        agents = [row.id for row in self.zone.live()]
        if not agents:
            return
        now = self.scene.clock.now()
        lent = [edge.target for edge in self.zone.edges.values() if self.zone.holds(edge.id, now)]
        source = pick([*agents, *lent, *lent])  # more often one that narrows what it was given
        others = [agent for agent in agents if agent != source]
        target = pick([*others, *others, source])
        inbound = self.zone.inbound(source, now)
        named = pick([None, *(edge.id for edge in inbound)])
        parent = self.zone.edges.get(named or "") or (inbound[0] if inbound else None)
        asked = self._terms(pick, source, target, parent)
        issuer, receiver = (self.zone.agents[one].application for one in (source, target))
        body = {
            "source_session_id": source,
            "target_session_id": target,
            "issuer_application_id": issuer,
            "receiver_application_id": receiver,
            "parent_edge_id": named,
            "resource_id": asked.resource and self.scene.resources[asked.resource],
            "scopes": sorted(asked.scopes),
            "expires_at": clock.rfc3339(datetime.fromtimestamp(asked.expires, UTC)),
            "constraints": {
                name: value
                for name, value in (
                    ("max_hops", asked.hops),
                    ("ttl_seconds", asked.ttl),
                    ("budget", asked.budget),
                )
                if value is not None
            },
        }
        await self._do(
            Command(
                "POST",
                "/delegations",
                lambda zone, now: zone.delegating(_copied(asked), named, now),
                lambda zone, body: _delegated(zone, asked, named, body),
                body=body,
                by=next(one for one in self.scene.members if one.id == issuer),
            )
        )

    def _terms(self, pick: Pick, source: str, target: str, parent: EdgeModel | None) -> EdgeModel:
        """What an edge is to say: as a rule within its parent, if it has one."""
        now = int(self.scene.clock.now())
        asked = EdgeModel(
            "",
            source,
            target,
            pick([frozenset(SCOPES), frozenset(["read"]), frozenset(["read"]), frozenset()]),
            now + pick([self._lives[2], self._lives[1], self._lives[0]]),
            hops=pick([3, 3, 2, 1]),
            ttl=pick([None, 600, 60]),
            budget=pick([None, 1, 2]),
            resource=pick([None, None, GOVERNED]),
        )
        if parent is not None:
            spoilt = pick(["", "", "scopes", "expires", "hops", "ttl", "budget", "resource"])
            for name, value in _narrowed(asked, parent).items():
                setattr(asked, name, value if name != spoilt else _WIDE.get(name, asked.expires))
        return asked

    async def revoke(self, pick: Pick) -> None:
        """Revoke an edge, and all that it leads to."""
        await self.clear()
        if not self.zone.edges:
            return
        now = self.scene.clock.now()
        holding = [edge for edge in self.zone.edges if self.zone.holds(edge, now)]
        edge = pick([*holding, *holding, *list(self.zone.edges)[-3:]])

        def said(zone: Zone, now: float) -> Said:
            return Said(200) if zone.holds(edge, now) else Said(404, "delegation_not_found")

        def effect(zone: Zone, body: Row) -> None:
            agents, edges, sessions = zone.revoke(edge)
            found = {
                "revoked_edges": len(edges),
                "affected_sessions": len(sessions),
                "terminated_agents": len(agents),
            }
            assert body in ({}, found), (body, found)

        await self._do(Command("PATCH", f"/delegations/{edge}/revoke", said, effect))

    # --- mandates and time -------------------------------------------------------------------

    async def mint(self, pick: Pick) -> None:
        """Have a mandate made for an agent, by an edge or without; it is kept, and looked at."""
        await self.clear()
        edges, now = list(self.zone.edges.values()), self.scene.clock.now()
        holding = [edge for edge in edges if self.zone.holds(edge.id, now)]
        edge = pick([None, None, *holding, *holding, *edges[-3:]])
        agents = [row.id for row in self.zone.live()][-6:]
        agent = edge.target if edge and pick([True, True, True, False]) else None
        if agent is None and not agents:
            return
        agent = agent or pick(agents)
        own = next(m for m in self.scene.members if m.id == self.zone.agents[agent].application)
        member = pick([own, own, own, *self.scene.members])
        scopes = pick([frozenset(["read"]), frozenset(["read"]), frozenset(SCOPES)])
        named = edge.id if edge else None
        await self._mint(member, agent, named, scopes, pick([GOVERNED, FREE]))

    async def _mint(
        self, member: Member, agent: str, edge: str | None, scopes: Scopes, resource: str
    ) -> None:
        began = self.scene.clock.now()
        answer = await self.scene.exchange(
            self.turn,
            member,
            agent_session_id=agent,
            delegation_edge_id=edge,
            resource=resource,
            scope=" ".join(sorted(scopes)),
            position=self.position,
        )
        ended = self.scene.clock.now()
        if self._is_excused(answer) or self._passed(began, ended):
            return
        said = self.zone.minting(member.id, agent, edge, scopes, resource, ended)
        described = answer.body.get("error_description", "") if answer.status != 200 else ""
        self.trail.append(f"mint {agent} {edge} {sorted(scopes)} {resource} -> {answer.status}")
        assert (answer.status, described) == said, (answer, said)
        self.outcomes[f"mint {answer.status} {described}"] += 1
        if answer.status == 200:
            text = answer.body["access_token"]
            self._keep(text, "ambient", member, agent, edge, resource, began)
            await self._mint_for_call(text, member, agent, edge, resource)

    async def _mint_for_call(
        self, text: str, member: Member, agent: str, edge: str | None, resource: str
    ) -> None:
        claims, began = peek(text).claims, self.scene.clock.now()
        named = {"scope": claims["scope"], "resource": resource, "position": self.position}
        answer = await self.scene.exchange(self.turn + 1, member, subject_token=text, **named)
        if self._is_excused(answer) or self._passed(began, self.scene.clock.now()):
            return
        assert answer.status == 200, answer
        self._keep(answer.body["access_token"], "per_call", member, agent, edge, resource, began)

    def _keep(
        self,
        text: str,
        kind: str,
        member: Member,
        agent: str,
        edge: str | None,
        resource: str,
        now: float,
    ) -> None:
        """Keep a mandate; it says no more than what it was minted by allows."""
        claims = peek(text).claims
        scopes, anchors = frozenset(claims["scope"].split()), self.zone.anchors(agent, edge)
        path = self.zone.path(edge) if edge else []
        assert anchors <= anchors_of(claims)
        assert claims.get("delegation_path", []) == [row.id for row in path]
        assert all(scopes <= row.scopes for row in path)
        assert claims["exp"] <= self.zone.latest(agent, edge, self.scene.clock.now())
        token = Token(text, member.id, kind, anchors, float(claims["exp"]), resource, scopes)
        self.tokens = [*self.tokens, token][-_KEPT:]

    async def end_session(self, pick: Pick) -> None:
        """Revoke a subject session: its agents live on, but nobody acts for it any more."""
        await self.clear()
        member = pick(self.scene.members)
        left = [sid for sid in member.sessions if sid not in self.zone.revoked]
        if len(left) < 2 or not pick([True, False]):
            return
        sid = pick(left)
        answer = await self.scene.ask_sts(
            self.turn, "revoke", member, token=member.sessions[sid], position=self.position
        )
        while answer.unknown and self.patient:  # again changes nothing
            await asyncio.sleep(0.2)
            answer = await self.scene.ask_sts(
                self.turn, "revoke", member, token=member.sessions[sid]
            )
        assert answer.status == 200, answer
        self.zone.revoked.add(sid)
        self._saw(answer)

    async def wait(self, pick: Pick) -> None:
        """Let time pass; perhaps what it ended is written down."""
        await self.scene.clock.forward(pick([self._lives[0] // 2, self._lives[0], self._lives[1]]))
        await self.clear()
        if pick([True, False]):
            await self.scene.clock.swept(self.scene.zone)
            self.zone.sweep(self.scene.clock.now())

    async def clear(self) -> None:
        """Go past a moment that is so near that nobody can say on which side a request falls."""
        clock_ = self.scene.clock
        while (moment := self.zone.unclear(clock_.now(), clock_.margin)) is not None:
            await clock_.forward(moment + 0.11 - clock_.now())
        now = clock_.now()
        if self.patient and (self.zone.overdue(now) or self.zone.outlived(now)):
            await clock_.swept(self.scene.zone)
            self.zone.sweep(clock_.now())

    # --- what comes of a command -------------------------------------------------------------

    async def _do(self, command: Command) -> None:
        self.turn += 1
        before, began = self.zone.copy(), self.scene.clock.now()
        said = command.said(self.zone, began)
        content: Row = {"headers": command.headers or {}}
        if command.body is not None:
            content["json"] = {k: v for k, v in command.body.items() if v is not None}
        self.asking = True
        answer = await self.scene.coordinate(
            self.turn,
            command.method,
            command.path,
            command.by or self.scene.members[0],
            **content,
        )
        self.asking = False
        if answer.unknown or self._passed(began, self.scene.clock.now()):
            raise Unclear(command, before, answer)
        code = answer.code if answer.status >= 400 else ""
        self.trail.append(f"{command.method} {command.path} {content} -> {answer.status} {code}")
        assert (answer.status, code) == said, (command.path, command.body, answer, said)
        self.outcomes[f"{_name_of(command)} {answer.status} {code}"] += 1
        if answer.status < 300:
            command.effect(self.zone, answer.body or {})
        self._saw(answer)

    def _saw(self, answer: Answer) -> None:
        self.position = max(self.position, answer.position)

    def _passed(self, began: float, ended: float) -> bool:
        """Something ended by its time while a request was under way."""
        return self.zone.passed(began, ended)

    def _is_excused(self, answer: Answer) -> bool:
        return self.patient and answer.unknown

    async def settle(self, unclear: Unclear) -> None:
        """Find out which state came of a command without an answer: one of those that may be.

        Whole, or not at all; before what time ended meanwhile was written down, or after.
        """
        self.zone, clock_ = unclear.before.copy(), self.scene.clock
        await self.clear()
        await clock_.swept(self.scene.zone)
        self.position, began = await self._settled_position(), clock_.now()
        seen = await eventually(lambda: self._after(unclear), seconds=40, what="readable lists")
        if seen is None or unclear.before.passed(began, clock_.now()):
            await self.settle(unclear)
            return
        (agents, edges, new), now = seen, clock_.now()
        for zone in _possible(unclear, new, now):
            if not _differences(zone, agents, edges, now):
                self.zone = zone
                self.outcomes[f"unclear, {'not ' if zone == unclear.before else ''}done"] += 1
                return
        found = _differences(unclear.before, agents, edges, now)
        raise AssertionError(f"{unclear} was done by half: {found}")

    async def _settled_position(self) -> int:
        """Whoever still appends holds this lock: what was on its way has come, or never will."""
        async with self.scene.database() as db:
            await db.execute("SELECT pg_advisory_lock(4846791580151137091)")
            row = await (await db.execute("SELECT max(position) FROM log")).fetchone()
        return int(row[0]) if row else 0

    async def _after(self, unclear: Unclear) -> tuple[list[Row], list[Row], Row] | None:
        """Return all agents, the edges that hold, and the thing that nobody knew before, if any."""
        body, before = unclear.command.body or {}, unclear.before
        outbound: list[Row] | None = []
        if source := body.get("source_session_id"):
            outbound = await self._read(f"/delegations/outbound/{source}?limit=500")
        seen = await self._observed()
        if seen is None or outbound is None:
            return None
        known = {*before.agents, *before.edges}
        new = [row for row in [*seen[0], *outbound] if row["id"] not in known]
        assert len(new) <= 1, new
        return (*seen, new[0] if new else {})

    # --- what must be seen -------------------------------------------------------------------

    async def check(self, *, everywhere: bool = False) -> bool:
        """Compare what is read with the model; ``everywhere``: mandates at every replica.

        False when it cannot be read now, or time has ended something meanwhile.
        """
        self.turn += 1
        await self.clear()
        began = self.scene.clock.now()
        if (seen := await self._observed()) is None:
            assert self.patient, "the lists cannot be read"
            return False
        if self._passed(began, self.scene.clock.now()):
            return False
        assert not _differences(self.zone, *seen, began)
        _check_sound(seen[1])
        if everywhere or self.turn % 3 == 0:
            await self._check_counters()
            await self._check_one_edge()
        else:
            await self._check_one_agent()
        await self._check_tokens(everywhere=everywhere)
        return True

    async def _observed(self) -> tuple[list[Row], list[Row]] | None:
        """All agents, and the edges that hold; None: they cannot be read now."""
        paths = ("/agents?limit=500", "/delegations/active?limit=500")
        answers = await asyncio.gather(*(self._read(path) for path in paths))
        if any(answer is None for answer in answers):
            return None
        return answers[0], answers[1]

    async def _read(self, path: str) -> Any:
        headers = {"Caracal-Min-Position": str(self.position)}
        answer = await self.scene.coordinate(
            self.turn, "GET", path, self.scene.members[1], headers=headers
        )
        if self._is_excused(answer):
            return None
        assert answer.status == 200, (path, answer)
        return answer.body

    async def _check_counters(self) -> None:
        wanted, parents = f"agents:{self.scene.zone}", [f"children:{a}" for a in self.zone.agents]
        statement = (
            "SELECT key, n FROM guard_count WHERE n > 0"
            " AND (key = %s OR key LIKE %s OR key = ANY(%s))"
        )
        try:
            async with self.scene.database() as db:
                cursor = await db.execute(statement, (wanted, f"{wanted}:%", parents))
                found = dict(await cursor.fetchall())
        except psycopg.OperationalError:
            assert self.patient
            return
        assert found == self.zone.counters(self.scene.zone)

    async def _check_one_agent(self) -> None:
        if not self.zone.agents:
            return
        agent = list(self.zone.agents)[self.turn % len(self.zone.agents)]
        began = self.scene.clock.now()
        children, inbound, outbound, authority = await asyncio.gather(
            self._read(f"/agents/{agent}/children?limit=500"),
            self._read(f"/delegations/inbound/{agent}?limit=500"),
            self._read(f"/delegations/outbound/{agent}?limit=500"),
            self._read(f"/agents/{agent}/effective-authority"),
        )
        if None in (children, inbound, outbound, authority) or self._passed(
            began, self.scene.clock.now()
        ):
            return
        below = [row.id for row in self.zone.agents.values() if row.parent == agent]
        assert [row["id"] for row in children] == sorted(below)
        for rows, end in ((inbound, "target"), (outbound, "source")):
            edges = [e for e in self.zone.edges.values() if getattr(e, end) == agent]
            assert {row["id"] for row in rows} == {edge.id for edge in edges}
            shown = {row["id"]: row["status"] for row in rows}
            for edge in edges:
                assert shown[edge.id] in self._shown_as(edge, began), (edge, shown[edge.id])
        _check_authority(self.zone.inbound(agent, began), authority)

    def _shown_as(self, edge: EdgeModel, now: float) -> Iterable[str]:
        over = edge.expires <= now
        if self.patient and over:  # which of the two was faster?
            return ("expired", "revoked")
        return ("expired",) if over and edge.status == "active" else (edge.status,)

    async def _check_one_edge(self) -> None:
        """What is reached from an edge is what the model reaches."""
        if not self.zone.edges:
            return
        edge = list(self.zone.edges)[self.turn % len(self.zone.edges)]
        now = self.scene.clock.now()
        if (nodes := await self._read(f"/delegations/{edge}/traverse")) is None:
            return
        if not self._passed(now, self.scene.clock.now()):
            assert {node["id"]: node["depth"] for node in nodes} == self._walked(edge, now)

    def _walked(self, edge: str, now: float) -> dict[str, int]:
        frontier = [edge] if self.zone.holds(edge, now) else []
        depths: dict[str, int] = {}
        for depth in range(1, self.zone.limits.depth + 1):
            depths = {**dict.fromkeys(frontier, depth), **depths}
            targets = {self.zone.edges[one].target for one in frontier}
            frontier = [
                row.id
                for row in self.zone.edges.values()
                if row.source in targets and self.zone.holds(row.id, now) and row.id not in depths
            ]
        return depths

    async def _check_tokens(self, *, everywhere: bool) -> None:
        """A mandate is accepted as long as all that it hangs on is; then nowhere."""
        replicas = len(self.scene.ports.stss)
        places = range(replicas + 1) if everywhere else (self.turn % (replicas + 1),)
        await asyncio.gather(
            *(self._check_token(token, place) for token in self.tokens for place in places)
        )

    async def _check_token(self, token: Token, place: int) -> None:
        began = self.scene.clock.now()
        through_gateway = place == len(self.scene.ports.stss)
        if through_gateway:
            if token.kind != "ambient":
                return
            scopes = " ".join(sorted(token.scopes))
            answer = await self.scene.pass_gateway(
                token.text, token.resource, scopes, self.position
            )
            accepted = answer.status == 200
            assert accepted or answer.status == 401 or self._is_excused(answer), answer
        else:
            member = self.scene.members[0]
            answer = await self.scene.ask_sts(
                place, "introspect", member, token=token.text, position=self.position
            )
            assert answer.status == 200 or self._is_excused(answer), answer
            accepted = not answer.unknown and answer.body["active"]
        stands, ended = self.zone.stands(token), self.scene.clock.now()
        if accepted:
            assert stands, ("accepted", place, token)
            assert token.expires + (61 if through_gateway else 1) > began, (place, token)
        elif not self._is_excused(answer):
            margin = _PREFLIGHT if through_gateway else 1
            assert not stands or token.expires - margin < ended, ("refused", place, token, answer)


def _agent_of(asked: Row, key: str | None, agent: str = "", ends: float = 0.0) -> AgentModel:
    return AgentModel(
        agent,
        asked["application_id"],
        asked["subject_session_id"],
        asked["parent_id"],
        0,
        ends,
        key,
        (asked["kind"], asked["ttl_seconds"]),
    )


def _spawned(zone: Zone, asked: Row, key: str | None, body: Row) -> None:
    if body["id"] in zone.agents:
        replayed = zone.replayed(_agent_of(asked, key))
        assert replayed is not None
        assert replayed.id == body["id"]
        return
    ends = clock.parse(body["spawned_at"]).timestamp() + asked["ttl_seconds"]
    zone.spawn(_agent_of(asked, key, body["id"], ends))
    assert body["depth"] == zone.agents[body["id"]].depth


def _delegated(zone: Zone, asked: EdgeModel, named: str | None, body: Row) -> None:
    made = _copied(asked)
    made.id = body["id"]
    made.parent = body["parent_edge_id"]
    zone.delegate(made)
    assert clock.parse(body["expires_at"]).timestamp() == made.expires


def _copied(edge: EdgeModel) -> EdgeModel:
    return replace(edge)


def _narrowed(asked: EdgeModel, parent: EdgeModel) -> dict[str, Any]:
    """What is asked for, as far as the parent lends it."""
    return {
        "scopes": asked.scopes & parent.scopes,
        "expires": min(asked.expires, parent.expires),
        "hops": max(min(asked.hops, parent.hops - 1), 1),
        "ttl": _least(asked.ttl, parent.ttl),
        "budget": _least(asked.budget, parent.budget),
        "resource": parent.resource or asked.resource,
    }


_WIDE = {"scopes": frozenset(SCOPES), "hops": 3, "ttl": None, "budget": None, "resource": None}


def _least(asked: int | None, given: int | None) -> int | None:
    return asked if given is None else min(asked or given, given)


def _name_of(command: Command) -> str:
    verbs = [part for part in command.path.split("/") if part.isalpha()]
    return f"{command.method} {'/'.join(verbs)}"


def _possible(unclear: Unclear, new: Row, now: float) -> Iterator[Zone]:
    """The states that may have come of a command: done or not, and time may have ended things."""
    before, swept = unclear.before, _swept(unclear.before, now)
    command, known = unclear.command, unclear.answer.body if unclear.done else new
    creates = command.method == "POST"
    for zone in (before, swept):
        if unclear.done is not True and not new:
            yield from (zone, _swept(zone, now))
        if unclear.done is not False and (known or not creates):
            after = zone.copy()
            command.effect(after, known or {})
            yield from (after, _swept(after, now))


def _swept(zone: Zone, now: float) -> Zone:
    copy = zone.copy()
    copy.sweep(now)
    return copy


def _differences(zone: Zone, agents: list[Row], edges: list[Row], now: float) -> str:
    """What is read and the model does not have, or the other way round; empty: nothing."""
    found: list[str] = []
    shown = {row["id"]: row["status"] for row in agents}
    told = {row.id: row.status for row in zone.agents.values()}
    if shown != told:
        found.append(f"agents (read, model): {set(shown.items()) ^ set(told.items())}")
    holding = {edge for edge in zone.edges if zone.holds(edge, now)}
    if (read := {row["id"] for row in edges}) != holding:
        found.append(f"edges only read {read - holding}, only in the model {holding - read}")
    return "; ".join(found)


def _check_sound(edges: list[Row]) -> None:
    """By what is read alone: no cycle, and nobody lends more than was lent to him."""
    rows = {row["id"]: row for row in edges}
    for row in edges:
        _check_leads_elsewhere(row, edges)
        if (parent := rows.get(row["parent_edge_id"])) is not None:
            assert parent["target_session_id"] == row["source_session_id"]
            assert is_narrower(_edge_of(row), _edge_of(parent)), (row, parent)


def _check_leads_elsewhere(first: Row, edges: list[Row]) -> None:
    reached, frontier = set[str](), {first["target_session_id"]}
    while frontier:
        reached |= frontier
        following = [row for row in edges if row["source_session_id"] in frontier]
        frontier = {row["target_session_id"] for row in following} - reached
    assert first["source_session_id"] not in reached, "a cycle"


def _edge_of(row: Row) -> EdgeModel:
    limits = row["constraints_json"]
    return EdgeModel(
        row["id"],
        row["source_session_id"],
        row["target_session_id"],
        frozenset(row["scopes"]),
        clock.parse(row["expires_at"]).timestamp(),
        limits.get("max_hops", 1),
        limits.get("ttl_seconds"),
        limits.get("budget"),
        row["resource_id"],
    )


def _check_authority(inbound: list[EdgeModel], shown: Row) -> None:
    """Effective authority is what all edges to an agent have in common."""
    scopes = frozenset.intersection(*(edge.scopes for edge in inbound)) if inbound else frozenset()
    lives = [edge.ttl for edge in inbound if edge.ttl is not None]
    assert set(shown["inbound_edges"]) == {edge.id for edge in inbound}
    assert shown["effective_scopes"] == sorted(scopes)
    assert shown["effective_resources"] == sorted({e.resource for e in inbound if e.resource})
    assert shown["effective_max_hops"] == min((edge.hops for edge in inbound), default=0)
    assert shown["effective_ttl_seconds"] == min(lives, default=None)
