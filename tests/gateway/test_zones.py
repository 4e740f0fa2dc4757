"""Zones in memory: loaded for genuine bearers, put out and loaded again, never half or old.

What the rows of section 4 answer without a zone in memory is in ``test_flow_rows.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from psycopg import AsyncConnection

from caracal.embedded import EmbeddedServers
from caracal.events.base import Fall
from caracal.events.resource import Resource
from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services import look_ups, zones
from caracal.services.consistency import state_stale
from caracal.services.look_ups import LookUps
from tests.backbone import eventually
from tests.gateway.doubles import Feed, Wire
from tests.gateway.scene import ADMIN, Scene, new_scene
from tests.making import in_zone
from tests.sts.world import Tenant, new_tenant, working

ROUNDS = int(os.environ.get("ZONES_ROUNDS", "1"))
"""More make the run with changes under way longer."""

WELL_KNOWN = "/.well-known/oauth-protected-resource"
SIGNATURE = (401, "invalid_token", "bearer signature invalid")
UNBOUND = (403, "access_denied", "resource not configured")


def told(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    return answer.status_code, body["error"], body["error_description"]


def forged(tenant: Tenant) -> dict[str, str]:
    """A bearer of the tenant's zone that none of its keys has signed."""
    token = SigningKey.generate(tenant.key.kid).sign(tenant.claims())
    return {"Authorization": f"Bearer {token}"}


async def cold(scene: Scene) -> Scene:
    """The same Gateway as a tenant sees it whose zone is not in memory; its keys are."""
    one = scene.of(await new_tenant(scene.tenant.log))

    async def at_head() -> bool:
        return await scene.gateway.view.following.probe()

    await eventually(at_head, what="the log's head")
    return one


async def metadata(scene: Scene, resource: str) -> int:
    path = f"{WELL_KNOWN}/{scene.tenant.id}/{resource}"
    return (await scene.http.get(scene.url + path)).status_code


async def loads(scene: Scene) -> dict[str, int]:
    """What the metrics tell of zones, but for bytes."""
    found = await scene.counted()
    return {name: found[name] for name in found if name[:6] == "zones_" and "bytes" not in name}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who has had something looked up alone, in order."""
    askers, turn = list[str](), LookUps.turn

    def noted(self: LookUps, zone_id: str, asker: str) -> Any:
        askers.append(asker)
        return turn(self, zone_id, asker)

    monkeypatch.setattr(LookUps, "turn", noted)
    return askers


async def test_a_zone_that_is_put_out_and_loaded_again_answers_the_same(
    module_database_url: str, module_redis_url: str
) -> None:
    more = {"ZONE_VIEW_MAX_BYTES": "1"}
    async with new_scene(module_database_url, module_redis_url, **more) as scene:
        scenes = [await cold(scene) for _ in range(3)]
        before = await loads(scene)
        for _ in range(3):
            for one in scenes:
                unknown = {"X-Caracal-Resource": "resource://none"}
                assert (await one.call()).status_code == 200
                assert told(await one.call(headers=unknown)) == UNBOUND
        after = await loads(scene)
        assert after["zones_loads_total"] == before["zones_loads_total"] + 9
        assert after["zones_evictions_total"] == before["zones_evictions_total"] + 8
        assert (after["zones_loaded"], after["zones_load_failures_total"]) == (1, 0)
        assert (await scene.counted())["bindings_loaded"] == 1
        text = (await scene.http.get(f"{scene.url}/metrics")).text
        assert "caracal_gateway_zones_evictions_total" in text


async def test_many_callers_of_a_zone_load_it_once(scene: Scene) -> None:
    one = await cold(scene)
    before = await loads(scene)
    answers = await asyncio.gather(*(one.call() for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}
    after = await loads(scene)
    assert after["zones_loads_total"] == before["zones_loads_total"] + 1


async def test_strangers_load_nothing_put_out_nothing_and_are_told_the_same(scene: Scene) -> None:
    """Forged, of unknown zones, revoked, and without a bearer: by memory or by the log alone."""
    others = [await cold(scene) for _ in range(2)]
    assert (await scene.call()).status_code == 200
    before = await loads(scene)
    for one in others:
        tenant = one.tenant
        revoked = await one.session()
        await one.revoke(revoked)
        unknown = {"X-Caracal-Resource": f"resource://{new_id()}"}
        elsewhere = SigningKey.generate(new_id()).sign(tenant.claims(zone_id=new_id()))
        for _ in range(2):
            assert told(await one.call(headers=forged(tenant))) == SIGNATURE
            assert told(await one.call(headers=forged(tenant) | unknown)) == UNBOUND
            assert told(await one.call(headers={"Authorization": f"Bearer {elsewhere}"})) == UNBOUND
            answer = await one.call(claims={"sid": revoked.aggregate_id})
            assert told(answer) == (401, "invalid_token", "session revoked")
            assert await metadata(one, one.resource) == 200
            for none in (unknown["X-Caracal-Resource"], "%00", "a%00b"):
                assert await metadata(one, none) == 404
    assert await loads(scene) == before
    for one in others:
        assert (await one.call()).status_code == 200
    assert (await loads(scene))["zones_loads_total"] == before["zones_loads_total"] + len(others)


async def test_a_stranger_does_not_count_as_use(scene: Scene) -> None:
    first, second = [await cold(scene) for _ in range(2)]
    for one in (first, second):
        assert (await one.call()).status_code == 200
    session = await first.session()
    await first.revoke(session)
    assert told(await first.call(headers=forged(first.tenant))) == SIGNATURE
    assert (await first.call(claims={"sid": session.aggregate_id})).status_code == 401
    kept = scene.gateway.view.zones.kept
    assert [zone.id for zone in kept()][:2] == [second.tenant.id, first.tenant.id]
    assert (await first.call()).status_code == 200
    assert [zone.id for zone in kept()][:2] == [first.tenant.id, second.tenant.id]


async def test_what_strangers_ask_again_is_not_looked_up_again(
    scene: Scene, looks: list[str]
) -> None:
    one = await cold(scene)
    late = f"resource://{new_id()}"
    for _ in range(5):
        assert (await metadata(one, one.resource), await metadata(one, late)) == (200, 404)
        nowhere = f"{scene.url}{WELL_KNOWN}/{new_id()}/{one.resource}"
        assert (await scene.http.get(nowhere)).status_code == 404
    assert looks == ["127.0.0.1"] * 2
    await one.tenant.add_resource(identifier=late, upstream_url="http://127.0.0.1:9")
    assert await metadata(one, late) == 200  # nobody has to wait until it is forgotten
    with in_zone(one.tenant.id):
        one.tenant.resource.archive()
    await one.save(one.tenant.resource)
    assert await metadata(one, one.resource) == 404
    assert await metadata(one, late) == 200


async def test_a_stranger_is_answered_by_prefix_too(scene: Scene) -> None:
    one = await cold(scene)
    base = f"resource://{new_id()}"
    for identifier, more in {
        base: {"prefix_match": True, "upstream_url": "http://127.0.0.1:9"},
        f"{base}/a": {"prefix_match": True},
        f"{base}/b": {"prefix_match": False, "upstream_url": "http://127.0.0.1:9"},
    }.items():
        await one.resource_with(identifier=identifier, **more)
    expected = {"": 200, "/x": 200, "/a": 404, "/a/x": 404, "/b": 200, "/b/x": 200, "x": 404}
    for suffix, status in {**expected, "/b/..%2Fx": 404}.items():
        assert await metadata(one, base + suffix) == status, suffix
    assert scene.gateway.view.zones.peek(one.tenant.id) is None


async def test_ids_that_are_no_uuids_are_found_alone(scene: Scene) -> None:
    one = await cold(scene)
    with in_zone(one.tenant.id):
        made = Resource.create(
            "resource1",
            zone_id=one.tenant.id,
            quota=10,
            identifier="resource://fixed",
            name="fixed",
            upstream_url="http://127.0.0.1:9",
            scopes=[],
            prefix_match=False,
            provider_id=None,
            gateway_application_id=None,
            protocol="http",
            rate_limit=None,
        )
    await one.save(made)
    assert await metadata(one, "resource://fixed") == 200


Change = Callable[[Scene], Awaitable[int]]


async def _archive(scene: Scene) -> int:
    with in_zone(scene.tenant.id):
        scene.tenant.resource.archive()
    return await scene.tenant.save(scene.tenant.resource)


async def _take_away_the_upstream(scene: Scene) -> int:
    with in_zone(scene.tenant.id):
        scene.tenant.resource.change({"upstream_url": None})
    return await scene.tenant.save(scene.tenant.resource)


async def _archive_application(scene: Scene) -> int:
    with in_zone(scene.tenant.id):
        scene.tenant.application.archive(Fall())
    return await scene.tenant.save(scene.tenant.application)


async def _archive_zone(scene: Scene) -> int:
    with in_zone(scene.tenant.id):
        scene.tenant.zone.archive(Fall())
    return await scene.tenant.save(scene.tenant.zone)


CHANGES: dict[str, tuple[Change, tuple[int, str]]] = {
    "resource archived": (_archive, (403, "resource not configured")),
    "upstream taken away": (_take_away_the_upstream, (403, "resource not configured")),
    "application archived": (_archive_application, (401, "session revoked")),
    "zone archived": (_archive_zone, (401, "session revoked")),
}


@pytest.mark.parametrize("placed", ["in memory", "put out", "never met"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_acts_at_once_wherever_the_zone_is(
    scene: Scene, change: str, placed: str
) -> None:
    one = await cold(scene)
    headers = one.headers()
    if placed != "never met":
        assert (await one.call()).status_code == 200
    if placed == "put out":
        one.put_out()
    act, expected = CHANGES[change]
    position = await act(one)
    headers["Caracal-Min-Position"] = str(position)
    scene.sts.calls.clear()
    answer = await one.call(headers=headers)
    assert (answer.status_code, answer.json()["error_description"]) == expected
    assert not scene.sts.calls


async def test_a_stream_outlives_its_zone_and_is_cut_without_it(scene: Scene) -> None:
    one = await cold(scene)
    session = await one.session()
    scene.upstream.behaviour = feed = Feed()
    async with Wire.opened(scene.url) as wire:
        feed.give(b"one")
        assert (await wire.ask("/", one.headers(sid=session.aggregate_id))).status_code == 200
        assert await wire.piece() == b"one"
        one.put_out()
        feed.give(b"two")
        assert await wire.piece() == b"two"
        await one.revoke(session)
        assert await wire.rest() == (b"", {"x-caracal-revoked": "true"})
    assert scene.gateway.view.zones.peek(one.tenant.id) is None


async def test_hints_are_read_of_memory_and_else_of_the_log(scene: Scene, looks: list[str]) -> None:
    one = await cold(scene)
    agent, other, ended = [await one.tenant.add_agent() for _ in range(3)]
    edge = await one.tenant.add_edge(other, agent)
    await one.save()

    async def bound(said: Any, by: Any = None) -> tuple[str | None, str | None]:
        baggage = f"caracal.agent_session={said.aggregate_id}"
        baggage += f",caracal.delegation_edge={by.aggregate_id}" if by is not None else ""
        scene.sts.calls.clear()
        assert (await one.call(headers={"baggage": baggage})).status_code == 200
        (form,) = scene.sts.calls
        return form.get("agent_session_id"), form.get("delegation_edge_id")

    expected = agent.aggregate_id, edge.aggregate_id
    assert await bound(agent, edge) == expected
    assert await bound(ended) == (ended.aggregate_id, None)
    assert not looks
    await one.tenant.end(ended)
    one.put_out()
    assert await bound(agent, edge) == expected
    assert not looks
    zone = scene.gateway.view.zones.peek(one.tenant.id)
    assert zone is not None
    zone.tables["agents"]._remove(ended.aggregate_id)  # as it is when it had ended long before
    for _ in range(3):  # the STS says that it has, not we
        assert await bound(ended) == (ended.aggregate_id, None)
    assert looks == [one.tenant.id]
    stranger = await (await cold(scene)).tenant.add_agent()
    assert await bound(stranger) == (None, None)


async def test_an_agent_that_was_named_as_an_edge_is_still_found(scene: Scene) -> None:
    one = await cold(scene)
    agent, ended = [await one.tenant.add_agent() for _ in range(2)]
    await one.save()
    await one.tenant.end(ended)
    zone = await scene.gateway.view.zones.load(one.tenant.id)
    zone.tables["agents"]._remove(ended.aggregate_id)
    said = [f"caracal.agent_session={of.aggregate_id}" for of in (agent, ended)]
    said[0] += f",caracal.delegation_edge={ended.aggregate_id}"
    scene.sts.calls.clear()
    for baggage in said:
        assert (await one.call(headers={"baggage": baggage})).status_code == 200
    assert [form.get("agent_session_id") for form in scene.sts.calls] == [
        agent.aggregate_id,
        ended.aggregate_id,
    ]


async def test_a_parked_resource_is_not_routed_wherever_its_zone_is(
    database_url: str, redis_url: str
) -> None:
    async with (
        new_scene(database_url, redis_url) as scene,
        await AsyncConnection.connect(database_url, autocommit=True) as db,
    ):
        other = await cold(scene)
        assert (await scene.call()).status_code == 200
        assert await metadata(other, other.resource) == 200
        view, ids = scene.gateway.view, [scene.tenant.resource.aggregate_id]
        ids.append(other.tenant.resource.aggregate_id)
        await db.execute(
            "INSERT INTO parked"
            " (projection, aggregate_id, topic, position, n, ids, error, attempts)"
            " VALUES ('resources', 'any', 't', 1, 0, %s, 'broken', 5)",
            (ids,),
        )
        await _told_of_parked(db, scene, 2)
        assert told(await scene.call()) == UNBOUND
        assert told(await other.call(headers=forged(other.tenant))) == UNBOUND
        assert told(await other.call()) == UNBOUND
        await db.execute("DELETE FROM parked")
        await _told_of_parked(db, scene, 0)
        assert (await scene.call()).status_code == 200
        assert (await other.call()).status_code == 200
        assert view.following.snapshots == 2


async def _told_of_parked(db: AsyncConnection[Any], scene: Scene, number: int) -> None:
    await db.execute("SELECT pg_notify('caracal_parked', '')")

    async def known() -> bool:
        return len(scene.gateway.view.following.parked) == number

    await eventually(known, what=f"{number} parked")


async def test_a_reload_brings_back_the_zones_that_were_in_memory(scene: Scene) -> None:
    one = await cold(scene)
    assert (await one.call()).status_code == 200
    old = scene.gateway.view.zones.kept()
    before = {zone.id for zone in old}
    headers = {"Authorization": f"Bearer {ADMIN}"}

    async def reloaded() -> bool:
        answer = await scene.http.post(f"{scene.url}/.well-known/caracal/reload", headers=headers)
        return answer.status_code == 204

    await eventually(reloaded, what="a new snapshot")
    assert all(zone.outdated for zone in old)

    async def back() -> bool:
        return bool(before & {zone.id for zone in scene.gateway.view.zones.kept()})

    await eventually(back, what="zones loaded that nobody has asked for")
    assert not {*old} & {*scene.gateway.view.zones.kept()}
    assert (await one.call()).status_code == 200


async def test_a_load_that_stalls_refuses_its_zone_and_no_other(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zones, "PATIENCE_SECONDS", 0.3)
    async with new_scene(database_url, redis_url) as scene:
        one = await cold(scene)
        assert (await scene.call()).status_code == 200
        async with await AsyncConnection.connect(database_url) as holding:
            await holding.execute("LOCK TABLE resources IN ACCESS EXCLUSIVE MODE")
            stalled = await asyncio.gather(*(one.call() for _ in range(8)))
            assert {told(answer)[:2] for answer in stalled} == {(503, "state_stale")}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in stalled)
            assert (await scene.call()).status_code == 200
            # Strangers are told by the log, and a revocation needs no zone.
            assert told(await one.call(headers=forged(one.tenant))) == SIGNATURE
            session = await one.session()
            await one.revoke(session)
            answer = await one.call(claims={"sid": session.aggregate_id})
            assert told(answer) == (401, "invalid_token", "session revoked")
            await _take_away_the_upstream(one)  # what comes now waits with the load
        monkeypatch.undo()
        assert told(await one.call()) == UNBOUND
        assert (await loads(scene))["zones_loads_total"] == 2


async def test_a_flood_of_look_ups_holds_up_nobody_else(scene: Scene) -> None:
    """Whoever asks for a hundred things waits behind itself, in a zone and beside it."""
    order, hold = list[str](), asyncio.Event()
    looking = LookUps(scene.tenant.log._pool, state_stale)

    async def look(zone_id: str, asker: str) -> None:
        async with looking.turn(zone_id, asker):
            order.append(asker)
            await hold.wait()

    flood = [asyncio.create_task(look("one", "flood")) for _ in range(50)]

    async def full() -> bool:
        return len(order) == look_ups.PARALLEL

    await eventually(full, what="all turns taken")
    others = [asyncio.create_task(look(zone, f"other of {zone}")) for zone in ("one", "two")]
    await asyncio.sleep(0)
    hold.set()
    await asyncio.gather(*flood, *others)
    assert max(map(order.index, ("other of one", "other of two"))) <= look_ups.PARALLEL + 4


async def _killed(servers: EmbeddedServers) -> None:
    os.kill(servers.postgres_pid, signal.SIGKILL)
    servers.postgres.process.wait()


async def test_without_postgres_zones_in_memory_serve_and_others_are_refused(
    own_servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (zones, look_ups):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)
    urls = own_servers.database_url, own_servers.redis_url
    async with new_scene(*urls, MAX_STALENESS="60s") as scene:
        one, met = await cold(scene), await cold(scene)
        agent = await scene.tenant.add_agent()
        session = await one.session()
        await one.revoke(session)
        await scene.save()
        assert (await scene.call()).status_code == 200
        assert await metadata(met, met.resource) == 200
        await _killed(own_servers)
        for _ in range(2):
            assert (await scene.call()).status_code == 200
            hint = {"baggage": f"caracal.agent_session={agent.aggregate_id}"}
            assert (await scene.call(headers=hint)).status_code == 200
            refused = [await one.call(), await one.call(headers=forged(one.tenant))]
            refused += [await met.call(), await one.call(claims={"sid": session.aggregate_id})]
            hint = {"baggage": f"caracal.agent_session={new_id()}"}
            refused += [await scene.call(headers=hint)]
            refused += [await scene.call(headers={"X-Caracal-Resource": "resource://none"})]
            assert {told(answer)[:2] for answer in refused} == {(503, "state_stale")}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert await metadata(one, one.resource) == 503
        # What a stranger was told before is known still, and that its bearer is forged.
        assert await metadata(met, met.resource) == 200
        assert told(await met.call(headers=forged(met.tenant))) == SIGNATURE
        monkeypatch.undo()
        own_servers.restart_postgres()

        async def allowed() -> bool:
            return (await one.call()).status_code == 200

        await eventually(allowed, what="loaded")


async def test_without_redis_a_zone_is_loaded_and_without_both_it_serves(
    own_servers: EmbeddedServers,
) -> None:
    urls = own_servers.database_url, own_servers.redis_url
    async with new_scene(*urls, MAX_STALENESS="60s") as scene:
        one, other = await cold(scene), await cold(scene)
        assert (await scene.call()).status_code == 200
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        assert (await one.call()).status_code == 200  # the double needs no Redis
        position = await _take_away_the_upstream(one)
        at = {"Caracal-Min-Position": str(position)}
        assert told(await one.call(headers=at)) == UNBOUND
        await _killed(own_servers)
        assert told(await other.call())[:2] == (503, "state_stale")
        assert (await scene.call()).status_code == 200
        own_servers.restart_postgres()
        own_servers.restart_valkey()

        async def allowed() -> bool:
            return (await other.call()).status_code == 200

        await eventually(allowed, what="loaded")


class Changing:
    """A zone whose resource has an upstream and has none in turn; what holds, and since where."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.headers, self.strange = scene.headers(), forged(scene.tenant)
        self.changes = self.position = 0
        self.routable = True

    async def change(self) -> None:
        """Change; odd while that is underway."""
        if self.changes % 2:
            return
        self.changes += 1
        self.routable = not self.routable
        tenant = self.scene.tenant
        with in_zone(tenant.id):
            url = "http://127.0.0.1:9" if self.routable else None
            tenant.resource.change({"upstream_url": url})
        self.position = await tenant.save(tenant.resource)
        self.changes += 1

    async def ask(self, *, strange: bool) -> bool:
        """Ask; False when the answer cannot be judged, because something changed meanwhile."""
        before, routable = self.changes, self.routable
        headers = self.headers | (self.strange if strange else {})
        headers["Caracal-Min-Position"] = str(self.position)
        answer = await self.scene.call(headers=headers)
        if answer.status_code == 503 or before % 2 or before != self.changes:
            return False
        expected = 403 if not routable else 401 if strange else 200
        assert answer.status_code == expected, answer.text
        return True


async def test_zones_that_come_and_go_under_load_route_as_the_log_says(
    database_url: str, redis_url: str
) -> None:
    numbers = random.Random(11)
    more = {"ZONE_VIEW_MAX_BYTES": "10000"}  # a few of them
    async with new_scene(database_url, redis_url, **more) as scene, working(scene.settings):
        made = await asyncio.gather(*(cold(scene) for _ in range(50)))
        changing = [Changing(one) for one in made]

        async def work() -> int:
            judged = 0
            for _ in range(16 * ROUNDS):
                zone = numbers.choice(changing)
                if numbers.random() < 0.5:
                    await zone.change()
                judged += await zone.ask(strange=numbers.random() < 0.3)
            return judged

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(8)]
        found = await scene.counted()
        assert sum(worker.result() for worker in workers) > 60 * ROUNDS
        assert found["zones_evictions_total"] > 30
        assert found["zones_bytes"] <= 10_000
