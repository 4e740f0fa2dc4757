"""``SyncCaracal`` at a running Coordinator and STS: the same as ``Caracal``, on threads."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import pytest

from caracal.client import AdminApiError, AdminTransportError, CaracalError, SyncCaracal
from caracal.client.envelope import current
from caracal.mandate import peek
from tests.coordinator.running import Crew
from tests.coordinator.test_sdk import options
from tests.threads import engines_dropped_here

__all__ = ["engines_dropped_here"]

T = TypeVar("T")


@contextmanager
def caracal_of(crew: Crew, **more: Any) -> Iterator[SyncCaracal]:
    with SyncCaracal(**options(crew, **more)) as caracal:
        yield caracal


async def apart(crew: Crew, work: Callable[[SyncCaracal], T], **more: Any) -> T:
    """Do blocking work on a thread, while this one serves."""

    def whole() -> T:
        with caracal_of(crew, **more) as caracal:
            return work(caracal)

    return await asyncio.to_thread(whole)


async def test_agents_live_as_long_as_their_contexts(crew: Crew) -> None:
    def work(caracal: SyncCaracal) -> list[str]:
        with caracal.spawn(capabilities=["search"], ttl_seconds=60) as lead:
            assert current().hint.agent_session == lead["id"]
            with caracal.spawn() as child, caracal.spawn() as grandchild:
                assert (child["parent_id"], child["depth"]) == (lead["id"], 1)
                assert (grandchild["parent_id"], grandchild["depth"]) == (child["id"], 2)
        assert current().hint.agent_session is None
        return [lead["id"], child["id"], grandchild["id"]]

    made = await apart(crew, work)
    assert await crew.statuses() == dict.fromkeys(made, "terminated")


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, StopIteration])
async def test_an_error_ends_the_agents_and_stays_the_error(
    crew: Crew, kind: type[BaseException]
) -> None:
    error = kind()

    def work(caracal: SyncCaracal) -> None:
        agents = caracal.spawn(), caracal.delegate_to_spawn(scopes=["read"])
        with pytest.raises(kind) as raised, agents[0], agents[1]:
            raise error
        assert raised.value is error

    await apart(crew, work)
    assert list((await crew.statuses()).values()) == ["terminated"] * 2


async def test_authority_handed_down(crew: Crew) -> None:
    def work(caracal: SyncCaracal) -> None:
        with (
            caracal.spawn() as lead,
            caracal.delegate_to_spawn(scopes=["read", "write"], constraints={"max_hops": 2}) as (
                child,
                edge,
            ),
        ):
            assert (child["parent_id"], edge["source_session_id"]) == (lead["id"], lead["id"])
            with caracal.delegate_to_spawn(scopes=["read"], ttl_seconds=60) as below:
                assert below.edge["parent_edge_id"] == edge["id"]
                assert current().hint.parent_edge == edge["id"]
                claims = peek(
                    caracal.mandate(crew.tenant.resource.identifier, scopes=["read"])[
                        "access_token"
                    ]
                ).claims
                assert claims["agent_session_id"] == below.agent["id"]
                assert claims["delegation_edge_id"] == below.edge["id"]

    await apart(crew, work)
    assert set((await crew.statuses()).values()) == {"terminated"}
    assert await crew.statuses("/delegations/active") == {}


async def test_a_delegation_lapses_or_is_revoked(crew: Crew) -> None:
    others = [await crew.spawn(), await crew.spawn()]

    def work(caracal: SyncCaracal) -> list[str]:
        with caracal.spawn() as lead:
            edges = []
            for other, revoke in zip(others, (False, True), strict=True):
                with caracal.delegate(other["id"], scopes=["read"], revoke=revoke) as edge:
                    hint = current().hint
                    assert (hint.agent_session, hint.delegation_edge) == (lead["id"], edge["id"])
                edges.append(edge["id"])
        delegate = caracal.delegate(others[0]["id"], scopes=["read"])
        with pytest.raises(CaracalError, match="agent_session_required"), delegate:
            raise AssertionError("from whom?")
        return edges

    await apart(crew, work)
    statuses = await crew.statuses()
    assert [statuses[other["id"]] for other in others] == ["active", "terminated"]


async def test_threads_stand_each_at_their_own_place(crew: Crew) -> None:
    def one(caracal: SyncCaracal) -> tuple[str | None, str]:
        with caracal.spawn() as agent, caracal.spawn() as child:
            assert child["parent_id"] == agent["id"]
            return agent["parent_id"], agent["id"]

    def work(caracal: SyncCaracal) -> None:
        with ThreadPoolExecutor(4) as pool, caracal.spawn() as lead:
            within = [pool.submit(contextvars.copy_context().run, one, caracal) for _ in range(4)]
            made = [each.result() for each in within]
            assert {parent for parent, _ in made} == {lead["id"]}
            assert len({agent for _, agent in made}) == 4, "like children are not folded into one"
            parent, _ = pool.submit(one, caracal).result()
            assert parent is None, "a thread begins nowhere"
            assert current().hint.agent_session == lead["id"]

    await apart(crew, work)


class Forgetful(httpx.HTTPTransport):
    """Loses the first answer to each kind of POST at the Coordinator."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        path = request.url.path
        if request.method == "POST" and path.startswith("/zones/"):
            self.posts.append(path.rpartition("/")[2])
            if self.posts.count(self.posts[-1]) == 1:
                answer.read()
                answer.close()
                raise httpx.ReadError("lost")
        return answer


async def test_a_lost_answer_makes_nothing_twice(crew: Crew) -> None:
    forgetful = Forgetful()

    def work(caracal: SyncCaracal) -> None:
        delegate = caracal.delegate_to_spawn(scopes=["read"])
        with caracal.spawn(), pytest.raises(AdminTransportError), delegate:
            raise AssertionError("its edge may or may not be there")

    with httpx.Client(transport=forgetful) as http:
        await apart(crew, work, http_client=http)
    assert forgetful.posts == ["agents", "agents", "agents", "delegations"]
    assert list((await crew.statuses()).values()) == ["terminated"] * 2


async def test_a_refusal_has_its_code(crew: Crew) -> None:
    def work(caracal: SyncCaracal) -> None:
        with pytest.raises(AdminApiError) as raised, caracal.spawn(parent_id="nobody"):
            raise AssertionError("nobody has no children")
        assert (raised.value.status, raised.value.code) == (404, "parent_not_found")

    await apart(crew, work)
