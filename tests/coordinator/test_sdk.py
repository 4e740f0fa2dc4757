"""The agents' side at a running Coordinator and STS: what it begins it ends, and in whose name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal.client import AdminApiError, AdminTransportError, Caracal, CaracalError
from caracal.client.envelope import current
from caracal.events.session import Session
from caracal.mandate import peek
from tests.backbone import eventually
from tests.coordinator.running import Crew
from tests.making import in_zone


def options(crew: Crew, **more: Any) -> dict[str, Any]:
    """What the crew's application is made with."""
    return {
        "zone_id": crew.zone,
        "application_id": crew.application_id,
        "client_secret": crew.tenant.secret,
        "sts_url": crew.settings.sts_url,
        "coordinator_url": crew.url,
        "resources": [crew.tenant.resource.identifier],
        **more,
    }


@pytest.fixture
async def caracal(crew: Crew) -> AsyncIterator[Caracal]:
    async with Caracal(**options(crew)) as made:
        yield made


async def test_an_agent_lives_as_long_as_its_context(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn(capabilities=["search"], ttl_seconds=60, metadata={"n": 1}) as agent:
        assert current().hint.agent_session == agent["id"]
        assert (agent["application_id"], agent["depth"]) == (crew.application_id, 0)
        assert (agent["kind"], agent["metadata"]) == ("instance", {"n": 1})
        assert await crew.statuses() == {agent["id"]: "active"}
    assert await crew.statuses() == {agent["id"]: "terminated"}
    assert current().hint.agent_session is None


async def test_a_nested_agent_is_a_child(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn() as lead:
        async with caracal.spawn() as child, caracal.spawn() as grandchild:
            assert (child["parent_id"], child["depth"]) == (lead["id"], 1)
            assert (grandchild["parent_id"], grandchild["depth"]) == (child["id"], 2)
        async with caracal.spawn(parent_id=lead["id"]) as sibling:
            assert sibling["parent_id"] == lead["id"]
        assert (await crew.statuses())[lead["id"]] == "active"
    assert set((await crew.statuses()).values()) == {"terminated"}


async def test_tasks_stand_each_at_their_own_place(crew: Crew, caracal: Caracal) -> None:
    async def one(lead_id: str) -> tuple[str | None, str]:
        async with caracal.spawn() as agent:
            await asyncio.sleep(0)
            assert current().hint.agent_session == agent["id"]
            async with caracal.spawn() as child:
                assert child["parent_id"] == agent["id"]
            return agent["parent_id"], agent["id"]

    async with caracal.spawn() as lead:
        made = await asyncio.gather(*(one(lead["id"]) for _ in range(8)))
        assert current().hint.agent_session == lead["id"]
    assert {parent for parent, _ in made} == {lead["id"]}
    assert len({agent for _, agent in made}) == 8, "like children are not folded into one"


async def test_an_error_ends_the_agent_and_stays_the_error(crew: Crew, caracal: Caracal) -> None:
    with pytest.raises(ZeroDivisionError):
        async with caracal.spawn(), caracal.spawn():
            raise ZeroDivisionError
    assert set((await crew.statuses()).values()) == {"terminated"}


async def test_a_cancelled_task_ends_its_agents_first(crew: Crew, caracal: Caracal) -> None:
    began = asyncio.Event()

    async def work() -> None:
        async with caracal.spawn(), caracal.delegate_to_spawn(scopes=["read"]):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # impatience changes nothing
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted((await crew.statuses()).values()) == ["terminated"] * 2
    assert set((await crew.statuses("/delegations/active")).values()) == set()


class Slow(httpx.AsyncHTTPTransport):
    """Holds the answer to a spawn back until it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.holding, self.go = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if request.url.path.endswith("/agents"):
            self.holding.set()
            await self.go.wait()
        return answer


async def test_cancelled_while_spawning_leaves_nothing(crew: Crew) -> None:
    slow = Slow()
    async with (
        httpx.AsyncClient(transport=slow) as http,
        Caracal(**options(crew, http_client=http)) as caracal,
    ):

        async def work() -> None:
            async with caracal.spawn():
                raise AssertionError("it was cancelled")

        task = asyncio.create_task(work())
        await slow.holding.wait()
        assert list((await crew.statuses()).values()) == ["active"]
        task.cancel()
        await asyncio.sleep(0)
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list((await crew.statuses()).values()) == ["terminated"]


class Forgetful(httpx.AsyncHTTPTransport):
    """Loses the first answer to each kind of POST at the Coordinator."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[str] = []
        self.keys: list[str | None] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        path = request.url.path
        if request.method == "POST" and path.startswith("/zones/"):
            self.posts.append(path.rpartition("/")[2])
            self.keys.append(request.headers.get("idempotency-key"))
            if self.posts.count(self.posts[-1]) == 1:
                await answer.aread()
                raise httpx.ReadError("lost")
        return answer


async def test_a_lost_answer_makes_nothing_twice(crew: Crew) -> None:
    forgetful = Forgetful()
    async with (
        httpx.AsyncClient(transport=forgetful) as http,
        Caracal(**options(crew, http_client=http)) as caracal,
    ):
        async with caracal.spawn() as lead:
            assert await crew.statuses() == {lead["id"]: "active"}
            with pytest.raises(AdminTransportError):
                async with caracal.delegate_to_spawn(scopes=["read"]):
                    raise AssertionError("its edge may or may not be there")
            assert forgetful.posts == ["agents", "agents", "agents", "delegations"]
            first, again, another, none = forgetful.keys
            assert first == again, "a retry is the same call"
            assert another not in (None, first), "another call is not"
            assert none is None
            assert sorted((await crew.statuses()).values()) == ["active", "terminated"]
        assert await crew.statuses("/delegations/active") == {}


async def test_a_token_that_was_revoked_is_not_kept(crew: Crew, caracal: Caracal) -> None:
    first = await caracal.tokens.token()
    session = await crew.log.find(Session, peek(first).claims["sid"])
    assert session is not None
    with in_zone(crew.zone):
        session.revoke("token_revoked")
    await crew.save(session)

    async def refused() -> bool:
        answer = await crew.call("GET", "/agents", token=first)
        return answer.status_code == 401

    await eventually(refused)

    async def spawned() -> str:
        async with caracal.spawn() as agent:
            return agent["subject_session_id"]

    with pytest.raises(AdminApiError, match="HTTP 401"):
        await spawned()
    assert await spawned() != session.aggregate_id


async def test_a_service_outlives_its_process(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn(kind="service") as kept:
        pass
    async with caracal.spawn(kind="service", end=True) as ended:
        pass
    assert await crew.statuses() == {kept["id"]: "active", ended["id"]: "terminated"}


async def test_an_agent_that_ended_by_itself_is_no_error(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn() as agent:
        assert (await crew.call("DELETE", f"/agents/{agent['id']}")).status_code == 204


async def test_a_refusal_has_its_code(crew: Crew, caracal: Caracal) -> None:
    with pytest.raises(AdminApiError) as raised:
        async with caracal.spawn(parent_id="nobody"):
            raise AssertionError("nobody has no children")
    assert (raised.value.status, raised.value.code) == (404, "parent_not_found")


class Deaf(httpx.AsyncHTTPTransport):
    """Loses each request that would end something."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            raise httpx.ConnectError("lost")
        return await super().handle_async_request(request)


async def test_an_end_that_fails_is_told(crew: Crew) -> None:
    async def work(caracal: Caracal, error: Exception | None) -> None:
        async with caracal.spawn():
            if error:
                raise error

    async with (
        httpx.AsyncClient(transport=Deaf()) as http,
        Caracal(**options(crew, http_client=http)) as caracal,
    ):
        with pytest.raises(AdminTransportError, match="admin_request_failed"):
            await work(caracal, None)
        with pytest.raises(ZeroDivisionError) as raised:
            await work(caracal, ZeroDivisionError())
    assert "the agent session could not be ended: admin_request_failed" in raised.value.__notes__[0]


async def test_a_delegation_narrows_and_lapses(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn() as lead:
        other = await crew.spawn()
        async with caracal.delegate(other["id"], scopes=["read"], ttl_seconds=60) as edge:
            assert edge["source_session_id"] == lead["id"]
            assert (edge["target_session_id"], edge["scopes"]) == (other["id"], ["read"])
            hint = current().hint
            assert (hint.agent_session, hint.delegation_edge) == (lead["id"], edge["id"])
        assert (await crew.statuses("/delegations/active"))[edge["id"]] == "active"
        assert current().hint.delegation_edge is None
        async with caracal.delegate(dict(other), scopes=["read"], revoke=True) as second:  # type: ignore[arg-type]
            pass
        assert second["id"] not in await crew.statuses("/delegations/active")
        assert (await crew.statuses())[other["id"]] == "terminated"


async def test_an_edge_that_is_gone_needs_no_revocation(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn():
        other = await crew.spawn()
        async with caracal.delegate(other["id"], scopes=["read"], revoke=True) as edge:
            revoke = f"/delegations/{edge['id']}/revoke"
            assert (await crew.call("PATCH", revoke)).status_code == 200


async def test_authority_handed_down(crew: Crew, caracal: Caracal) -> None:
    async with caracal.spawn() as lead:
        async with caracal.delegate_to_spawn(
            scopes=["read", "write"], constraints={"max_hops": 2}
        ) as (child, edge):
            assert (child["parent_id"], edge["source_session_id"]) == (lead["id"], lead["id"])
            hint = current().hint
            assert (hint.agent_session, hint.delegation_edge) == (child["id"], edge["id"])
            async with caracal.delegate_to_spawn(scopes=["read"], ttl_seconds=60) as below:
                assert below.edge["parent_edge_id"] == edge["id"]
                assert below.edge["effective_authority"]["max_hops"] == 1
                assert current().hint.parent_edge == edge["id"]
                with pytest.raises(AdminApiError, match="delegation_exceeds_parent_authority"):
                    async with caracal.delegate_to_spawn(scopes=["read"], ttl_seconds=30):
                        raise AssertionError("a chain of one edge has no second")
        assert list((await crew.statuses()).values()).count("active") == 1
        assert await crew.statuses("/delegations/active") == {}


async def test_authority_comes_from_an_agent(caracal: Caracal) -> None:
    for context in (
        caracal.delegate("a", scopes=["read"]),
        caracal.delegate_to_spawn(scopes=["read"]),
    ):
        with pytest.raises(CaracalError, match="agent_session_required"):
            async with context:
                raise AssertionError("from whom?")


async def test_one_token_serves_all(crew: Crew, caracal: Caracal) -> None:
    first, *others = await asyncio.gather(*(caracal.tokens.token() for _ in range(20)))
    assert set(others) == {first}
    claims = peek(first).claims
    assert (claims["use"], claims["client_id"]) == ("ambient", crew.application_id)
    caracal.tokens.forget()
    assert await caracal.tokens.token() != first


async def test_a_mandate_for_one_resource(crew: Crew, caracal: Caracal) -> None:
    resource = crew.tenant.resource.identifier

    async def issued() -> dict[str, Any] | None:
        made = await caracal.mandate(resource, scopes=["read"], ttl_seconds=60)
        return dict(made)

    made = await eventually(issued)
    assert made is not None
    claims = peek(made["access_token"]).claims
    assert (claims["use"], claims["aud"], claims["scope"]) == ("per_call", [resource], "read")
    assert claims["exp"] - claims["iat"] <= 60
    with pytest.raises(AdminApiError, match="access_denied"):
        await caracal.mandate(resource, scopes=["write"])


async def test_a_mandate_of_what_was_handed_down(crew: Crew, caracal: Caracal) -> None:
    """Whoever stands inside is bound to the agent there, and to the edge that it holds."""
    resource = crew.tenant.resource.identifier

    async def bound(*scopes: str) -> dict[str, Any]:
        issued = await caracal.mandate(resource, scopes=scopes or ["read"])
        return peek(issued["access_token"]).claims

    both = ["read", "write"]
    async with caracal.spawn() as lead:
        claims = await bound()
        assert claims["agent_session_id"] == lead["id"]
        assert "delegation_edge_id" not in claims
        async with caracal.delegate_to_spawn(scopes=both, constraints={"max_hops": 2}) as first:
            claims = await bound()
            assert claims["agent_session_id"] == first.agent["id"]
            assert claims["delegation_path"] == [first.edge["id"]]
            async with caracal.delegate_to_spawn(scopes=["read"], ttl_seconds=60) as second:
                claims = await bound()
                assert claims["agent_session_id"] == second.agent["id"]
                assert claims["delegation_path"] == [first.edge["id"], second.edge["id"]]
                hops = [(lead, first.edge), (first.agent, second.edge), (second.agent, {})]
                told = [(hop["session"], hop.get("edge")) for hop in claims["delegation_chain"]]
                assert told == [(agent["id"], edge.get("id")) for agent, edge in hops]
                assert claims["exp"] - claims["iat"] <= 60
                with pytest.raises(AdminApiError, match="access_denied") as raised:
                    await bound(*both)
                assert isinstance(raised.value.body, dict)
                said = raised.value.body["error_description"]
                assert said == "requested scopes exceed delegation scopes"
            assert (await bound())["delegation_path"] == [first.edge["id"]]
        assert (await bound())["agent_session_id"] == lead["id"]
    assert "agent_session_id" not in await bound()


async def test_a_mandate_ends_with_the_context_it_was_made_in(crew: Crew, caracal: Caracal) -> None:
    resource = crew.tenant.resource.identifier

    async def is_active(token: str) -> bool:
        form = crew.tenant.form(resource=None, token=token)
        url = f"{crew.settings.sts_url}/oauth/2/introspect"
        async with httpx.AsyncClient() as http:
            return bool((await http.post(url, data=form)).json()["active"])

    async with caracal.spawn():
        async with caracal.delegate_to_spawn(scopes=["read"]):
            inner = (await caracal.mandate(resource, scopes=["read"]))["access_token"]
            assert await is_active(inner)
        outer = (await caracal.mandate(resource, scopes=["read"]))["access_token"]
        assert [await is_active(inner), await is_active(outer)] == [False, True]
    assert not await is_active(outer)


async def test_a_wrong_secret_is_refused_and_never_shown(crew: Crew) -> None:
    async with Caracal(**options(crew, client_secret="SECRET", retries=0)) as caracal:
        with pytest.raises(AdminApiError) as raised:
            async with caracal.spawn():
                raise AssertionError("who?")
    assert (raised.value.status, raised.value.code) == (401, "access_denied")
    texts = f"{raised.value!r} {vars(raised.value)} {caracal!r} {vars(caracal)}"
    assert "SECRET" not in texts
