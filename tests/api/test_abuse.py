"""What callers may not do to the control plane: to others' zones, to its time, to its records."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from caracal.ids import new_id
from caracal.policy.turns import PLACES, QUEUE_MAX, turn
from caracal.projections import audit as audit_queries
from caracal.projections.waiter import Waiter
from caracal.services.api.app import create_app
from caracal.services.proxy_headers import behind_proxy
from caracal.services.windows import network_of
from tests.api.policies import policies, rego
from tests.api.running import OPERATOR, Plane, plane, served, settings
from tests.api.test_admin_tokens import error_of
from tests.api.test_audit import application, decided, ids, recorded
from tests.backbone import eventually

BEARER = {"Authorization": f"Bearer {OPERATOR}"}
NO_TOKEN = {"Authorization": ""}


async def _all_places(release: asyncio.Event, taken: list[None]) -> None:
    async with turn():
        taken.append(None)
        await release.wait()


async def test_one_zone_cannot_keep_the_others_from_checking_policies(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    greedy, modest = await api.token("zone", zone), await api.token("zone", other)
    release, taken = asyncio.Event(), list[None]()
    holding = [asyncio.create_task(_all_places(release, taken)) for _ in range(PLACES)]

    async def asked(headers: dict[str, str]) -> tuple[int, str]:
        body = {"content": rego(new_id())}
        answer = await api.call("POST", "/policies/validate", body, headers=headers)
        return answer.status_code, answer.json().get("error", "")

    tasks = [asyncio.create_task(asked(greedy)) for _ in range(QUEUE_MAX + 4)]
    done, _ = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    another = asyncio.create_task(asked(modest))
    release.set()
    assert done
    assert await another == (200, "")
    assert not all(task.done() for task in tasks)
    statuses = sorted(await asyncio.gather(*tasks))
    assert statuses == [(200, "")] * QUEUE_MAX + [(429, "rate_limited")] * 4
    await asyncio.gather(*holding)


async def test_a_token_revoked_while_its_request_waits_changes_nothing(api: Plane) -> None:
    zone = await api.zone()
    answer = await api.call("POST", "/admin-tokens", {"name": "a", "scope": "global"})
    headers = {"Authorization": f"Bearer {answer.json()['token']}"}
    release, taken = asyncio.Event(), list[None]()
    holding = [asyncio.create_task(_all_places(release, taken)) for _ in range(PLACES)]
    body = {"name": "late", "content": rego(new_id())}
    late = asyncio.create_task(api.call("POST", policies(zone), body, headers=headers))

    async def used() -> bool:
        tokens = (await api.call("GET", "/admin-tokens?limit=500")).json()
        return any(t["id"] == answer.json()["id"] and t["last_used_at"] for t in tokens)

    await eventually(used, what="the request at the door")
    revoked = await api.call("DELETE", f"/admin-tokens/{answer.json()['id']}")
    assert revoked.status_code == 204
    release.set()
    assert error_of(await late) == (401, "invalid_admin_token")
    assert (await api.call("GET", policies(zone))).json() == []
    await asyncio.gather(*holding)


async def test_nobody_keeps_the_body_of_who_is_unknown(api: Plane) -> None:
    """He is answered before he has sent it."""
    url = httpx.URL(api.url)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /v1/zones HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/v1/policy-templates", "/nothing"])
async def test_who_is_unknown_makes_the_database_do_nothing(api: Plane, path: str) -> None:
    headers = {"Caracal-Min-Position": "9" * 17, **NO_TOKEN}
    answer = await api.client.get(path, headers=headers)
    assert answer.status_code == (404 if path == "/nothing" else 200)


async def test_who_waits_for_a_position_holds_no_connection(
    api: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, waiting = asyncio.Event(), 0

    async def applied(self: Waiter, *_: object) -> bool:
        nonlocal waiting
        waiting += 1
        await release.wait()
        return True

    narrow = {"DB_POOL_MAX": "2", "DB_CONNECTION_TIMEOUT_MS": "2000"}
    async with plane(api.database_url, api.redis_url, api.log, **narrow) as small:
        monkeypatch.setattr(Waiter, "applied", applied)
        headers = {"Caracal-Min-Position": "1"}
        tasks = [
            asyncio.create_task(small.call("GET", "/zones", headers=headers)) for _ in range(4)
        ]

        async def all_wait() -> bool:
            return waiting == 4

        try:
            await eventually(all_wait, what="four that wait")
            assert (await small.client.get("/v1/zones")).status_code == 200
        finally:
            release.set()
        answers = await asyncio.gather(*tasks)
    assert {answer.status_code for answer in answers} == {200}


async def test_the_document_is_written_once(api: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await api.client.get("/openapi.json")

    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("written again")

    monkeypatch.setattr("caracal.services.api.docs_page.orjson.dumps", never)
    assert (await api.client.get("/openapi.json")).content == first.content


def test_one_network_is_one_caller() -> None:
    """A host has a whole /64 of addresses: it cannot fail with each of them."""
    first, last = network_of("2001:db8::1"), network_of("2001:db8::ffff:ffff:ffff:ffff")
    assert first == last == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != first
    assert network_of("::ffff:203.0.113.7") == network_of("203.0.113.7") == "203.0.113.7"
    assert network_of("-") == "-"


async def test_a_refusal_under_anothers_request_id_does_not_change_what_became_of_it(
    api: Plane,
) -> None:
    zone = await api.zone()
    event = decided(zone)
    await recorded(api, [event])
    headers = {"X-Request-Id": event.request_id, **NO_TOKEN}
    assert (await api.call("POST", policies(zone), {}, headers=headers)).status_code == 401
    path = f"/zones/{zone}/audit/by-request/{event.request_id}"

    async def on_record() -> bool:
        return len(await ids(api, path)) == 2

    await eventually(on_record, what="the refusal on record")
    told = (await api.call("GET", f"{path}/explain")).json()
    assert (told["final_decision"], told["denied"]) == ("allow", [])
    assert len(told["events"]) == 2


async def test_an_id_that_many_requests_use_is_shown_in_part_and_hides_no_denial(
    api: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, other, request_id = await api.zone(), await api.zone(), new_id()
    monkeypatch.setattr(audit_queries, "MAX_DECISIONS", 3)
    monkeypatch.setattr(audit_queries, "MAX_FACTS", 1)
    noise = [
        decided(zone, n, request_id=request_id, event_type="admin_request", decision="deny")
        for n in range(4)
    ]
    allowed = [decided(zone, n, request_id=request_id) for n in range(10, 14)]
    denied = decided(zone, 30, request_id=request_id, decision="deny")
    await recorded(api, [*noise, *allowed, denied])
    await application(api, other, request_id)  # takes no room
    first, _ = [await application(api, zone, request_id) for _ in range(2)]
    shown = await ids(api, f"/zones/{zone}/audit/by-request/{request_id}")
    facts = [one for one in shown if one.startswith("fact-")]
    assert facts == [f"fact-{first}"]
    assert [one for one in shown if one not in facts] == [allowed[0].id, allowed[1].id, denied.id]
    told = (await api.call("GET", f"/zones/{zone}/audit/by-request/{request_id}/explain")).json()
    assert told["final_decision"] == "deny"


async def test_a_token_has_one_limit_from_all_addresses(api: Plane) -> None:
    given = settings(
        "api", api.database_url, api.redis_url, TRUST_PROXY="true", API_V1_RATE_LIMIT_PER_MIN="3"
    )
    async with served(behind_proxy(create_app(given))) as url, httpx.AsyncClient() as client:
        answers = [
            await client.get(f"{url}/v1/zones", headers={**BEARER, "X-Forwarded-For": address})
            for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::4")
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
