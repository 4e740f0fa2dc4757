"""Step-up challenges, as those who approve meet them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from caracal import clock
from caracal.events.challenge import LIFE, Challenge
from caracal.projections.query import select
from tests.api.running import Plane
from tests.making import consume, new_challenge


def path(zone: str, *rest: str) -> str:
    return "/".join((f"/zones/{zone}/step-up-challenges", *rest))


async def issued(api: Plane, zone: str, **members: Any) -> Challenge:
    challenge = new_challenge(zone, **members)
    await api.save(challenge)
    return challenge


async def satisfy(api: Plane, zone: str, challenge: Challenge, **more: Any) -> httpx.Response:
    return await api.call("POST", path(zone, challenge.aggregate_id, "satisfy"), **more)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.fixture
async def zone(api: Plane) -> str:
    return await api.zone()


async def test_the_answer_has_the_contracts_members(api: Plane, zone: str) -> None:
    challenge = await issued(api, zone)
    unbound = await issued(api, zone, session_id=None, challenge_type="mfa")
    shown = (await api.call("GET", path(zone, challenge.aggregate_id))).json()
    assert shown == {
        "id": challenge.aggregate_id,
        "zone_id": zone,
        "session_id": "sid-1",
        "challenge_type": "human_approval",
        "metadata_json": {"resource": "resource://one", "call": None},
        "created_at": shown["created_at"],
        "expires_at": shown["expires_at"],
        "satisfied_at": None,
    }
    assert clock.parse(shown["expires_at"]) == clock.parse(challenge.expires_at)
    second, first = (await api.call("GET", path(zone))).json()
    assert first == shown
    assert (second["id"], second["session_id"]) == (unbound.aggregate_id, None)
    answer = await satisfy(api, zone, challenge, body={"approver_subject_id": "grace"})
    satisfied_at = answer.json()["satisfied_at"]
    assert answer.json() == {"id": challenge.aggregate_id, "satisfied_at": satisfied_at}
    later = (await api.call("GET", path(zone, challenge.aggregate_id))).json()
    assert later == shown | {"satisfied_at": satisfied_at}


@pytest.mark.parametrize("body", [None, {}, {"approver_subject_id": None}, {"unknown": 1}])
async def test_the_body_is_optional(api: Plane, zone: str, body: Any) -> None:
    challenge = await issued(api, zone)
    assert (await satisfy(api, zone, challenge, body=body)).status_code == 200
    async with api.database() as db:
        rows = await select(
            db,
            "SELECT convert_from(state, 'UTF8')::jsonb AS fact FROM log"
            " WHERE name = 'challenge.satisfied' ORDER BY position DESC LIMIT 1",
            [],
        )
    assert rows[0]["fact"]["aggregate_id"] == challenge.aggregate_id
    assert rows[0]["fact"]["approver_subject_id"] is None


@pytest.mark.parametrize("approver", ["", 1, [], "a" * 257, "a\x00"])
async def test_bad_approvers(api: Plane, zone: str, approver: Any) -> None:
    challenge = await issued(api, zone)
    body = {"approver_subject_id": approver}
    assert refusal(await satisfy(api, zone, challenge, body=body)) == (400, "invalid_body")
    for content in (b"[]", b"1", b"{", b"\xff"):
        headers = {"Content-Type": "application/json"}
        answer = await satisfy(api, zone, challenge, content=content, headers=headers)
        assert refusal(answer) == (400, "invalid_body")
    shown = (await api.call("GET", path(zone, challenge.aggregate_id))).json()
    assert shown["satisfied_at"] is None


async def test_nobody_approves_his_own(api: Plane, zone: str) -> None:
    challenge = await issued(api, zone)
    answer = await satisfy(api, zone, challenge, body={"approver_subject_id": "ada"})
    assert refusal(answer) == (409, "challenge_not_satisfiable")
    assert (await satisfy(api, zone, challenge)).status_code == 200


async def test_what_is_over_is_not_found(api: Plane, zone: str) -> None:
    over = (404, "challenge_not_found_or_expired")
    challenge = await issued(api, zone)
    late = await issued(api, zone, now=clock.now() - LIFE)
    foreign = await issued(api, await api.zone())
    assert (await satisfy(api, zone, challenge)).status_code == 200
    for one in (challenge, late, foreign):
        assert refusal(await satisfy(api, zone, one)) == over
    assert refusal(await api.call("POST", path(zone, "unknown", "satisfy"))) == over
    shown = (await api.call("GET", path(zone, late.aggregate_id))).json()
    assert clock.parse(shown["expires_at"]) < clock.now()


async def test_unknown_and_foreign_ids(api: Plane, zone: str) -> None:
    foreign = await issued(api, await api.zone())
    for challenge_id in ("unknown", foreign.aggregate_id, zone):
        answer = await api.call("GET", path(zone, challenge_id))
        assert refusal(answer) == (404, "challenge_not_found")
    for bad in ("a%20b", "a" * 129, "a%0A"):
        for method, where in (("GET", path(zone, bad)), ("POST", path(zone, bad, "satisfy"))):
            assert refusal(await api.call(method, where)) == (400, "invalid_params")
    for method, where in (("GET", ()), ("GET", ("a",)), ("POST", ("a", "satisfy"))):
        answer = await api.call(method, path("nowhere", *where))
        assert refusal(answer) == (404, "zone_not_found")


async def test_a_list_has_pages(api: Plane, zone: str) -> None:
    made = [(await issued(api, zone)).aggregate_id for _ in range(3)]
    first = await api.call("GET", path(zone) + "?limit=2")
    assert [row["id"] for row in first.json()] == made[:0:-1]
    rest = await api.client.get(first.links["next"]["url"])
    assert [row["id"] for row in rest.json()] == made[:1]


async def test_of_many_approvals_one_wins(api: Plane, zone: str) -> None:
    challenge = await issued(api, zone)
    answers = await asyncio.gather(*(satisfy(api, zone, challenge) for _ in range(32)))
    won = [answer.json()["satisfied_at"] for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    lost = {refusal(answer) for answer in answers if answer.status_code != 200}
    assert lost == {(404, "challenge_not_found_or_expired")}
    shown = (await api.call("GET", path(zone, challenge.aggregate_id))).json()
    assert shown["satisfied_at"] == won[0]


async def test_what_was_consumed_stays_to_be_seen_without_saying_so(api: Plane, zone: str) -> None:
    now = clock.now() - timedelta(seconds=1)
    challenge = await issued(api, zone, now=now)
    await satisfy(api, zone, challenge)
    before = (await api.call("GET", path(zone, challenge.aggregate_id))).json()
    found = await api.log.find(Challenge, challenge.aggregate_id)
    assert found is not None
    consume(found, now)
    await api.save(found)
    shown = await api.call("GET", path(zone, challenge.aggregate_id))
    assert shown.json() == before
    for hidden in ('"ada"', "sha256", challenge.secret_sha256, "consumed"):
        assert hidden not in shown.text


# --- who may -------------------------------------------------------------------------------


async def test_an_approving_token_reads_and_satisfies(api: Plane, zone: str) -> None:
    challenge = await issued(api, zone)
    headers = await api.token("zone", zone, "approve")
    for where in (path(zone), path(zone, challenge.aggregate_id), f"/zones/{zone}/grants"):
        assert (await api.call("GET", where, headers=headers)).status_code == 200
    assert (await satisfy(api, zone, challenge, headers=headers)).status_code == 200


async def test_an_approving_token_does_nothing_else(api: Plane, zone: str) -> None:
    challenge = await issued(api, zone)
    approving, reading = [await api.token("zone", zone, one) for one in ("approve", "read")]
    where = path(zone, challenge.aggregate_id)
    calls = [
        *(
            ("POST", f"/zones/{zone}/{plural}")
            for plural in ("applications", "resources", "grants")
        ),
        ("POST", f"/zones/{zone}/applications/dcr"),
        ("POST", f"/zones/{zone}/signing-key/rotate"),
        ("PATCH", f"/zones/{zone}"),
        ("DELETE", f"/zones/{zone}"),
        ("POST", f"/zones/{zone}/policy-sets/a/activate"),
        ("POST", path(zone)),
        ("POST", where),
        *((method, f"{where}/satisfy") for method in ("PUT", "PATCH", "DELETE")),
        ("POST", f"{where}/satisfy/"),
        ("POST", f"{where}/satisfy/more"),
        ("POST", f"{where}%2Fsatisfy%2Fmore"),
        ("POST", f"/zones/{zone}/grants/step-up-challenges/a/satisfy"),
    ]
    for method, called in calls:
        answer = await api.call(method, called, headers=approving)
        assert refusal(answer) == (403, "admin_token_capability"), called
    answer = await satisfy(api, zone, challenge, headers=reading)
    assert refusal(answer) == (403, "admin_token_capability")
    other = await api.token("zone", await api.zone(), "approve")
    answer = await satisfy(api, zone, challenge, headers=other)
    assert refusal(answer) == (403, "admin_token_zone_mismatch")
    assert (await satisfy(api, zone, challenge)).status_code == 200
