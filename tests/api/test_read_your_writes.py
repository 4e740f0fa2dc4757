"""What one replica of the API has answered, every other shows: not now and then, but always."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import pytest

from caracal.ids import new_id
from tests.api.running import Plane, plane

CHANGES, CALLERS = 2_000, 16
_NEW: dict[str, Callable[[], dict[str, Any]]] = {
    "applications": lambda: {"name": "a", "credential_type": "token"},
    "resources": lambda: {"identifier": f"resource://{new_id()}", "scopes": ["read"]},
    "providers": lambda: {"identifier": f"provider://{new_id()}", "kind": "apikey"},
}
_ONCE = ("client_secret",)  # answered when it is made, never again


@dataclass
class Caller:
    """Creates, patches and deletes at random, each at one replica; reads it at the other."""

    replicas: tuple[Plane, Plane]
    zone: str
    random: Random
    live: list[str] = field(default_factory=list)
    done: int = 0
    pending: int = 0

    async def change(self) -> None:
        """Make one change, and look at once."""
        here, there = self.random.sample(self.replicas, 2)
        verb = self.random.choice(("create", "patch", "delete")) if self.live else "create"
        if verb == "create":
            await self._create(here, there)
        elif verb == "patch":
            await self._patch(here, there, self.random.choice(self.live))
        else:
            await self._delete(here, there)
        self.done += 1

    async def _create(self, here: Plane, there: Plane) -> None:
        plural = self.random.choice(list(_NEW))
        answer = await _asked(here, "POST", f"/zones/{self.zone}/{plural}", _NEW[plural]())
        assert answer.status_code == 201, answer.text
        path = f"/zones/{self.zone}/{plural}/{answer.json()['id']}"
        await self._same(there, path, answer)
        self.live.append(path)

    async def _patch(self, here: Plane, there: Plane, path: str) -> None:
        answer = await _asked(here, "PATCH", path, {"name": new_id()})
        assert answer.status_code == 200, answer.text
        await self._same(there, path, answer)

    async def _delete(self, here: Plane, there: Plane) -> None:
        path = self.live.pop(self.random.randrange(len(self.live)))
        answer = await _asked(here, "DELETE", path)
        assert answer.status_code == 204, answer.text
        assert (await self._read(there, path, answer)).status_code == 404

    async def _same(self, there: Plane, path: str, written: httpx.Response) -> None:
        expected = {name: value for name, value in written.json().items() if name not in _ONCE}
        assert (await self._read(there, path, written)).json() == expected

    async def _read(self, there: Plane, path: str, written: httpx.Response) -> httpx.Response:
        """Read at once; after `pending` with the position that it gave, as the clients do."""
        headers: dict[str, Any] = {}
        if written.headers.get("Caracal-Consistency") == "pending":
            self.pending += 1
            headers["Caracal-Min-Position"] = written.headers["Caracal-Position"]
        return await _asked(there, "GET", path, headers=headers)


async def _asked(
    replica: Plane, method: str, path: str, body: Any = None, **more: Any
) -> httpx.Response:
    """Ask a replica, without the look into the OpenAPI that ``Plane.call`` takes each time."""
    return await replica.client.request(method, f"/v1{path}", json=body, **more)


@pytest.mark.timeout(240)
async def test_two_thousand_changes_none_stale_on_another_replica(api: Plane) -> None:
    async with plane(api.database_url, api.redis_url, api.log) as other:
        zones = [await api.zone() for _ in range(CALLERS)]
        callers = [Caller((api, other), zone, Random(number)) for number, zone in enumerate(zones)]

        async def run(caller: Caller) -> None:
            for _ in range(CHANGES // CALLERS):
                await caller.change()

        await asyncio.gather(*(run(caller) for caller in callers))
    assert sum(caller.done for caller in callers) == CHANGES
    assert sum(caller.pending for caller in callers) < CHANGES / 20
