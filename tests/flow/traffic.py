"""Operators who change things and agents who call, and a book of what each was told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from caracal.ids import new_id
from tests.flow.tenant import Answer, Caller, Tenant

_PAUSE = 0.02  # s, at most, between two requests of one client
_AGAIN = 0.05  # s, before a request is sent again whose outcome nobody knows


@dataclass
class Book:
    """What the clients were told, by request id."""

    answered: dict[str, int | None] = field(default_factory=dict)
    """Acknowledged mutations: the position they were told, None when nothing had to change."""
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    things: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """By table and id: the name that a thing must have, None when it must have ended."""
    allowed: set[str] = field(default_factory=set)
    """Exchanges that were allowed, alone or on the way through the Gateway."""
    outcomes: Counter[str] = field(default_factory=Counter)

    def note(self, answer: Answer) -> None:
        """Write down what came of a mutation; whoever does not do it says so."""
        assert answer.status < 300 or answer.code, answer
        if answer.unknown:
            self.unknown.add(answer.request_id)
        elif answer.status < 300:
            self.answered[answer.request_id] = answer.position
        else:
            self.refused.add(answer.request_id)
        self.outcomes[f"mutation {answer.status} {answer.code}"] += 1

    def note_call(self, what: str, answer: Answer) -> None:
        """Write down what came of an exchange or a call."""
        if answer.status == 200:
            self.allowed.add(answer.request_id)
        self.outcomes[f"{what} {answer.status} {answer.code}"] += 1


class Traffic:
    """Clients that go on until they are told to stop."""

    def __init__(self, book: Book, dice: random.Random) -> None:
        self.book, self.dice = book, dice
        self.stopping = False

    async def breathe(self) -> None:
        """Leave some time to the others."""
        await asyncio.sleep(self.dice.uniform(0, _PAUSE))


@dataclass
class _Zone:
    path: str
    id: str
    things: dict[str, list[str]]


class Operator:
    """Makes, changes and ends things of its own zones, and remembers what it was promised."""

    def __init__(self, traffic: Traffic, caller: Caller) -> None:
        self._traffic, self._caller = traffic, caller
        self._book, self._dice = traffic.book, traffic.dice
        self._zones: list[_Zone] = []
        self._asked_again = False

    async def run(self) -> None:
        """Go on until stopped."""
        while not self._traffic.stopping:
            await self._one()
            await self._traffic.breathe()

    async def _one(self) -> None:
        if not self._zones or self._dice.random() < 0.08:
            await self._make_zone()
            return
        zone = self._dice.choice(self._zones)
        kind = self._dice.choice(("applications", "resources", "grants"))
        dice = self._dice.random()
        if dice < 0.02:
            await self._end("zones", zone, zone.id, f"/zones/{zone.id}")
        elif dice < 0.1:
            await self._rename("zones", zone, zone.id, zone.path)
        elif dice < 0.6 or not zone.things[kind]:
            await self._make(kind, zone)
        elif dice < 0.85 and kind != "grants":
            thing = self._dice.choice(zone.things[kind])
            await self._rename(kind, zone, thing, f"{zone.path}/{kind}/{thing}")
        else:
            thing = self._dice.choice(zone.things[kind])
            await self._end(kind, zone, thing, f"{zone.path}/{kind}/{thing}")

    async def _make_zone(self) -> None:
        """Make a zone; who does not know whether it is there asks again for the same slug."""
        name = new_id()
        answer = await self._settled("POST", "/zones", {"name": name, "slug": name})
        if answer.status == 201:
            zone_id = answer.body["id"]
            things: dict[str, list[str]] = {"applications": [], "resources": [], "grants": []}
            self._zones.append(_Zone(f"/zones/{zone_id}", zone_id, things))
            self._book.things["zones", zone_id] = name
        else:
            there = answer.code == "zone_slug_conflict" and self._asked_again
            assert there or answer.unknown, answer

    async def _make(self, kind: str, zone: _Zone) -> None:
        name = new_id()
        body: dict[str, Any] = {"name": name}
        if kind == "resources":
            body |= {"identifier": f"resource://{name}", "scopes": ["read"]}
        elif kind == "grants":
            if not (zone.things["applications"] and zone.things["resources"]):
                return
            application = self._dice.choice(zone.things["applications"])
            resource = self._dice.choice(zone.things["resources"])
            body = {"application_id": application, "resource_id": resource, "scopes": ["read"]}
        answer = await self._mutate("POST", f"{zone.path}/{kind}", body)
        assert answer.status == 201 or answer.unknown, answer
        if answer.status == 201:
            zone.things[kind].append(answer.body["id"])
            if kind != "grants":
                self._book.things[kind, answer.body["id"]] = name

    async def _rename(self, kind: str, zone: _Zone, thing: str, path: str) -> None:
        name = new_id()
        answer = await self._settled("PATCH", path, {"name": name})
        assert answer.status == 200 or answer.unknown, answer
        if answer.status == 200:
            self._book.things[kind, thing] = name
        else:
            self._forget(kind, zone, thing)

    async def _end(self, kind: str, zone: _Zone, thing: str, path: str) -> None:
        answer = await self._settled("DELETE", path)
        gone = answer.status == 404 and self._asked_again  # the first try had done it
        assert answer.status == 204 or gone or answer.unknown, answer
        self._forget(kind, zone, thing)
        if not answer.unknown:
            self._book.things[kind, thing] = None

    def _forget(self, kind: str, zone: _Zone, thing: str) -> None:
        self._book.things.pop((kind, thing), None)
        if kind != "zones":
            zone.things[kind].remove(thing)
        elif zone in self._zones:
            self._zones.remove(zone)

    async def _settled(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask again, as a new request, until the outcome is known; the tries must agree."""
        answer = await self._mutate(method, path, body)
        self._asked_again = answer.unknown
        while answer.unknown and not self._traffic.stopping:
            await asyncio.sleep(_AGAIN)
            answer = await self._mutate(method, path, body)
        return answer

    async def _mutate(self, method: str, path: str, body: Any = None) -> Answer:
        api = self._dice.choice(("api", "api2"))
        answer = await self._caller.operate(method, path, body, api=api)
        self._book.note(answer)
        return answer


class Agent:
    """Calls with a standing grant: may be told to wait, must never be refused."""

    def __init__(self, traffic: Traffic, tenant: Tenant, token: str) -> None:
        self._traffic, self._tenant, self._token = traffic, tenant, token

    async def run(self) -> None:
        """Go on until stopped."""
        while not self._traffic.stopping:
            what, ask = self._traffic.dice.choice(self._ways(self._token))
            answer = await ask()
            self._traffic.book.note_call(what, answer)
            assert answer.status == 200 or answer.unknown, (what, answer)
            await self._traffic.breathe()

    def _ways(self, token: str) -> list[tuple[str, Callable[[], Awaitable[Answer]]]]:
        return [
            ("ambient", self._tenant.exchange),
            ("mint", lambda: self._tenant.mint(token)),
            ("call", lambda: self._tenant.call(token)),
        ]


class Victim:
    """Loses its grant again and again; what is forbidden then must never be allowed."""

    def __init__(self, traffic: Traffic, tenant: Tenant) -> None:
        self._traffic, self._tenant = traffic, tenant
        self.revoked: list[tuple[str, int]] = []

    async def run(self) -> None:
        """Go on until stopped."""
        while not self._traffic.stopping:
            await self._lose_one()
            await self._traffic.breathe()

    async def _lose_one(self) -> None:
        book, tenant = self._traffic.book, self._tenant
        body = {"application_id": tenant.application["id"], "resource_id": tenant.resource["id"]}
        path = f"{tenant.path}/grants"
        made = await tenant.caller.operate("POST", path, {**body, "scopes": ["read"]})
        book.note(made)
        if made.status != 201:
            return
        ambient = await tenant.exchange()
        book.note_call("victim's ambient", ambient)
        if ambient.status != 200:
            assert ambient.unknown, ambient
            return
        token = ambient.body["access_token"]
        book.note_call("victim's call", await tenant.call(token))
        revoked = await tenant.revoke(made.body["id"])
        book.note(revoked)
        if revoked.status == 204 and revoked.position is not None:
            self.revoked.append((token, revoked.position))
            await self.look(token, revoked.position)

    async def look(self, token: str, position: int) -> None:
        """Check that a call and an exchange are refused, or cannot be answered now."""
        for ask in (self._tenant.call, self._tenant.mint):
            answer = await ask(token, position=position)
            self._traffic.book.note_call("revoked", answer)
            assert answer.status in (401, 403) or answer.unknown, answer


async def other_application(tenant: Tenant) -> Tenant:
    """The same tenant with an application of its own."""
    path = f"{tenant.path}/applications"
    made = await tenant.caller.made(path, name="other", credential_type="token")
    return replace(tenant, application=made)
