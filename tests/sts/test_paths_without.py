"""What each path of the STS does with a part gone (design, section 1.5): one table for all.

An allow needs the view, Redis for its evidence, and the log where it writes; a refusal needs
nothing. Whatever is gone, nothing is allowed that the log forbids.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from caracal import clock
from caracal.embedded import EmbeddedServers
from caracal.events.agent import Agent
from caracal.events.base import Fall
from caracal.events.challenge import Challenge
from caracal.events.grant import Grant
from caracal.events.session import Session
from caracal.ids import new_id
from caracal.services import gateway_signature
from caracal.services.sts.client_assertion import ASSERTION_TYPE
from tests.backbone import eventually
from tests.making import in_zone, new_session
from tests.signing import dpop_proof, ec_key, public_jwk
from tests.sts.brokering import broker
from tests.sts.test_agents import Chain, new_chain
from tests.sts.test_client_assertion import assertion
from tests.sts.test_policies import DENY_ALL
from tests.sts.world import GATEWAY_KEY, ISSUER, World, new_world, working

pytestmark = pytest.mark.chaos

KEY = ec_key()
TOKEN, METADATA = "/oauth/2/token", "/.well-known/oauth-authorization-server"
POLICY = """package caracal.authz

import rego.v1

default result := {"decision": "deny", "evaluation_status": "complete"}

allow := {"decision": "allow", "evaluation_status": "complete"}

scopes := {scope | some scope in input.context.requested_scopes}

result := allow if count(scopes - {"read"}) == 0

result := allow if {
	scopes == {"odd"}
	input.context.challenge_resolved
}

result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"diagnostics": [{"step_up_required": "mfa"}],
} if {
	scopes == {"odd"}
	not input.context.challenge_resolved
}
"""

GRANTED, ASKED, DENIED = (200, ""), (401, "interaction_required"), (403, "access_denied")
REFUSED, STALE = (401, "access_denied"), (503, "state_stale")
NO_EVIDENCE, GONE = (503, "audit_unavailable"), (503, "unavailable")

Told = tuple[int, str]


@dataclass
class Scene:
    """A world with one thing of each kind."""

    world: World
    worker: AsyncExitStack
    session: Session
    agent: Agent
    chain: Chain
    grant: Grant
    provided: dict[str, Any]
    signing: str
    challenge: dict[str, Any] = field(default_factory=dict)
    fresh: str = ""

    def form(self, **members: Any) -> dict[str, Any]:
        """The form of a mandate for one call."""
        token = self.world.tenant.token(sid=self.session.aggregate_id)
        return self.world.tenant.form(**{"subject_token": token, "scope": "read"} | members)

    @property
    def last_of_chain(self) -> str:
        return self.chain.applications[-1].aggregate_id

    def of(self, app_id: str, **members: Any) -> dict[str, Any]:
        """Whose token and call it is."""
        token = self.world.tenant.token(client_id=app_id, sub=app_id)
        return {"application_id": app_id, "subject_token": token, **members}

    async def post(self, form: dict[str, Any], path: str = TOKEN, **headers: str) -> httpx.Response:
        """Post at once: what waits for a position needs what may be gone."""
        return await self.world.http.post(self.world.url + path, data=form, headers=headers)

    async def about(self, what: str, **claims: Any) -> httpx.Response:
        token = self.world.tenant.token(**claims)
        form = self.world.tenant.form(resource=None, token=token)
        return await self.post(form, f"/oauth/2/{what}")

    async def get(self, path: str) -> httpx.Response:
        return await self.world.http.get(self.world.url + path)

    async def signed(self, form: dict[str, Any]) -> httpx.Response:
        """Post as the Gateway does."""
        request = self.world.http.build_request("POST", f"{self.world.url}{TOKEN}", data=form)
        request_id = new_id()
        signature = gateway_signature.sign(
            GATEWAY_KEY,
            request_id=request_id,
            method="POST",
            path=TOKEN,
            body=request.content,
            now=clock.now().timestamp(),
        )
        request.headers.update({"X-Request-Id": request_id, **signature})
        return await self.world.http.send(request)

    async def asserted(self) -> httpx.Response:
        proof = {"client_assertion": assertion(self.signing, KEY), "client_secret": None}
        proof |= {"client_assertion_type": ASSERTION_TYPE}
        return await self.post(self.form(**self.of(self.signing, **proof)))

    async def told(self, *paths: str) -> dict[str, Told]:
        """What is said on these paths, asked at once; else on all."""
        names = paths or tuple(PATHS)
        answers = await asyncio.gather(*(PATHS[name](self) for name in names))
        return dict(zip(names, map(told, answers), strict=True))

    async def renew(self) -> None:
        """Make again what an exchange uses up; the STS knows all there is."""
        tenant, world = self.world.tenant, self.world
        body = (await world.exchange(scope="odd")).json()
        challenge = await world.log.find(Challenge, body["challenge_id"])
        session = new_session(tenant.app_id, zone_id=tenant.id)
        assert challenge is not None
        with in_zone(tenant.id):
            challenge.satisfy("operator", clock.now())
        await tenant.save(challenge, session)
        self.challenge = {
            "challenge_id": challenge.aggregate_id,
            "challenge_response": body["challenge_secret"],
        }
        self.fresh = session.aggregate_id
        await world.exchange(client_secret="wrong")

    @asynccontextmanager
    async def without_worker(self) -> AsyncIterator[None]:
        await self.worker.aclose()
        try:
            yield
        finally:
            await self.worker.enter_async_context(working(self.world.settings))

    async def usual(self) -> bool:
        return await self.told("ambient", "per call") == {"ambient": GRANTED, "per call": GRANTED}


def told(answer: httpx.Response) -> Told:
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    code = answer.json()["error"] if answer.status_code >= 400 else ""
    return answer.status_code, code


Asking = Callable[[Scene], Awaitable[httpx.Response]]
MADE: dict[str, Asking] = {
    "per call": lambda it: it.post(it.form()),
    "agent": lambda it: it.post(it.form(agent_session_id=it.agent.aggregate_id)),
    "edge": lambda it: it.post(it.chain.form(it.world, **it.of(it.last_of_chain))),
    "gateway": lambda it: it.signed(it.form(client_secret=None)),
    "provider": lambda it: it.signed(it.provided),
    "assertion": Scene.asserted,
    "proof": lambda it: it.post(it.form(), DPoP=dpop_proof(KEY, "POST", f"{ISSUER}{TOKEN}")),
}
"""Mandates for one call: nothing is written but the evidence."""
PATHS: dict[str, Asking] = MADE | {
    "ambient": lambda it: it.post(it.world.tenant.form()),
    "step-up": lambda it: it.post(it.world.tenant.form(scope="odd")),
    "retry": lambda it: it.post(it.world.tenant.form(scope="odd", **it.challenge)),
    "denied": lambda it: it.post(it.form(scope="write")),
    "wrong secret": lambda it: it.post(it.form(client_secret="wrong")),
    "unknown client": lambda it: it.post(it.form(application_id=new_id())),
    "introspect": lambda it: it.about("introspect"),
    "revoke": lambda it: it.about("revoke", sid=it.fresh),
    "jwks": lambda it: it.get(f"/zones/{it.world.tenant.id}/.well-known/jwks.json"),
    "metadata": lambda it: it.get(f"{METADATA}/zones/{it.world.tenant.id}"),
    "status": lambda it: it.get(f"/step-up/{it.challenge['challenge_id']}"),
}

USUAL = dict.fromkeys(PATHS, GRANTED) | {
    "step-up": ASKED,
    "denied": DENIED,
    "wrong secret": REFUSED,
    "unknown client": REFUSED,
}
WITHOUT_REDIS = USUAL | dict.fromkeys(("ambient", "retry", *MADE), NO_EVIDENCE)
WITHOUT_POSTGRES = USUAL | {
    **dict.fromkeys(("ambient", "step-up", "retry", "revoke", "status"), GONE),
    **dict.fromkeys(("unknown client", "introspect"), STALE),
}
WITH_A_STALE_VIEW = dict.fromkeys(PATHS, STALE) | {
    "jwks": GRANTED,
    "metadata": GRANTED,
    "status": GONE,
}


@pytest.fixture(scope="module")
def servers(
    _stopped_servers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServers]:
    """Servers of this module alone."""
    directory = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(_stopped_servers, directory)
    own = EmbeddedServers(directory)
    own.start()
    yield own
    own.stop()


@pytest.fixture(scope="module")
async def whole(servers: EmbeddedServers) -> AsyncIterator[Scene]:
    """With a worker; whoever takes away a part brings it back."""
    fresh = httpx.Limits(max_keepalive_connections=0)  # a kept one is closed while we wait
    impatient = {"MAX_STALENESS": "4s", "DB_CONNECTION_TIMEOUT_MS": "500"}
    async with (
        new_world(servers.database_url, servers.redis_url, **impatient) as made,
        httpx.AsyncClient(timeout=20, limits=fresh) as http,
        AsyncExitStack() as worker,
    ):
        world = replace(made, http=http)
        await worker.enter_async_context(working(world.settings))
        tenant = world.tenant
        await tenant.activate(POLICY)
        by_key = await broker(tenant, "apikey", {"header_name": "X-Key"}, secrets={"api_key": "K"})
        grant, session = await by_key.grant(), await tenant.add_session()
        keys = {"keys": [public_jwk(KEY, kid="ec")]}
        yield Scene(
            world,
            worker,
            session,
            await tenant.add_agent(session=session),
            await new_chain(world),
            grant,
            by_key.form(client_secret=None, scope="read"),
            (await tenant.add_application(jwks=keys)).aggregate_id,
        )


@pytest.fixture
async def scene(whole: Scene) -> Scene:
    """Everything is there, and known to the STS."""
    await eventually(whole.usual, what="all as usual")
    await whole.renew()
    return whole


async def test_with_all_there(scene: Scene) -> None:
    assert await scene.told() == USUAL


async def test_without_redis(scene: Scene, servers: EmbeddedServers) -> None:
    os.kill(servers.valkey_pid, signal.SIGKILL)
    servers.valkey.process.wait()
    try:
        assert await scene.told() == WITHOUT_REDIS
    finally:
        servers.restart_valkey()
    await eventually(scene.usual, what="all as usual")


async def test_without_postgres_and_when_the_view_is_too_old(
    scene: Scene, servers: EmbeddedServers
) -> None:
    os.kill(servers.postgres_pid, signal.SIGKILL)
    servers.postgres.process.wait()
    try:
        assert await scene.told() == WITHOUT_POSTGRES

        async def stale() -> bool:
            return await scene.told("per call") == {"per call": STALE}

        await eventually(stale, what="stale")
        assert await scene.told() == WITH_A_STALE_VIEW
    finally:
        servers.restart_postgres()
    await eventually(scene.usual, what="all as usual")
    await eventually(lambda: reconnected(scene.world), what="the test's own connections")


async def reconnected(world: World) -> bool:
    try:
        return await world.position() > 0
    except psycopg.Error:
        return False


async def test_without_worker_and_redis_what_ended_is_refused_all_the_same(
    scene: Scene, servers: EmbeddedServers
) -> None:
    made = new_session(scene.world.tenant.app_id, zone_id=scene.world.tenant.id)
    await scene.world.tenant.save(made)
    token = scene.world.tenant.token(sid=made.aggregate_id)
    form = scene.form(subject_token=token)
    async with scene.without_worker():
        os.kill(servers.valkey_pid, signal.SIGKILL)
        servers.valkey.process.wait()
        try:
            assert told(await scene.post(form)) == NO_EVIDENCE
            await revoke(scene, made)

            async def refused() -> bool:
                answer = told(await scene.post(form))
                assert answer in (NO_EVIDENCE, DENIED)
                return answer == DENIED

            await eventually(refused, what="refused by the log")
        finally:
            servers.restart_valkey()
    assert told(await scene.post(form)) == DENIED
    await eventually(scene.usual, what="all as usual")


async def test_without_the_worker(scene: Scene) -> None:
    """All is served, and the view follows the log: what ends there is refused at once.

    The last test: afterwards there is not much left of the zone.
    """
    async with scene.without_worker():
        assert await scene.told() == USUAL
        assert (await PATHS["ambient"](scene)).headers["caracal-consistency"] == "pending"
        await ended_is_refused(scene)


async def ended_is_refused(scene: Scene) -> None:
    """End one thing after the other; the paths that hang on it are refused from then on."""
    tenant = scene.world.tenant
    assert await after(scene, await end_grant(scene), "provider") == {"provider": DENIED}
    agents, edges = scene.chain.agents, scene.chain.edges
    await after(scene, await tenant.end(edges[0], *edges[1:], *agents), "edge")
    assert await scene.told("edge") == {"edge": DENIED}
    assert await after(scene, await tenant.suspend(scene.agent), "agent") == {"agent": DENIED}
    assert await scene.told("per call") == {"per call": GRANTED}
    await after(scene, await revoke(scene, scene.session), "per call")
    assert await scene.told("per call", "gateway", "proof") == dict.fromkeys(
        ("per call", "gateway", "proof"), DENIED
    )
    assert await scene.told("ambient") == {"ambient": GRANTED}
    assert await after(scene, await tenant.activate(DENY_ALL), "ambient") == {"ambient": DENIED}
    assert await after(scene, await end_zone(scene), *PATHS) == {
        **dict.fromkeys(PATHS, REFUSED),
        "jwks": GRANTED,
        "metadata": (400, "zone_invalid"),
        "status": GRANTED,
    }


async def after(scene: Scene, position: int, *paths: str) -> dict[str, Told]:
    """What is said once the STS has seen a position."""
    headers = {"Caracal-Min-Position": str(position)}
    seen = await scene.world.http.get(f"{scene.world.url}{METADATA}", headers=headers)
    assert seen.status_code == 200
    return await scene.told(*paths)


async def end_grant(scene: Scene) -> int:
    with in_zone(scene.world.tenant.id):
        scene.grant.revoke(Fall())
    return await scene.world.tenant.save(scene.grant)


async def revoke(scene: Scene, session: Session) -> int:
    with in_zone(scene.world.tenant.id):
        session.revoke("test")
    return await scene.world.tenant.save(session)


async def end_zone(scene: Scene) -> int:
    with in_zone(scene.world.tenant.id):
        scene.world.tenant.zone.archive(Fall())
    return await scene.world.tenant.save(scene.world.tenant.zone)
