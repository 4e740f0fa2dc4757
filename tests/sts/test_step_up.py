"""Step-up: the policy asks, somebody agrees, one retry is let through (contract, section 15)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
import orjson
import pytest

from caracal import clock, mandate, secret_hash
from caracal.embedded import EmbeddedServers
from caracal.events.challenge import LIFE, Challenge
from caracal.ids import new_id
from caracal.projections.challenge import get_challenge
from caracal.services.sts import step_up
from caracal.services.sts.step_up import StepUp
from tests.making import in_zone
from tests.sts.world import World, new_tenant, new_world

POLICY = """package caracal.authz

import rego.v1

default result := {"decision": "deny", "evaluation_status": "complete"}

ask(kind) := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["tests/ask"],
	"diagnostics": [{"step_up_required": kind}],
}

allow := {"decision": "allow", "evaluation_status": "complete"}

asked := {"write": "mfa", "odd": "human_approval"}

scopes := {scope | some scope in input.context.requested_scopes}

result := allow if not scopes & {"write", "odd", "agent:lifecycle"} != set()

result := allow if {
	scopes & {"write", "odd"} != set()
	not endswith(input.resource.identifier, "/free")
	input.context.challenge_resolved
}

result := allow if endswith(input.resource.identifier, "/free")

result := ask(asked[scope]) if {
	some scope in scopes
	count(scopes) == 1
	not endswith(input.resource.identifier, "/free")
	not input.context.challenge_resolved
}

result := ask("mfa") if scopes == {"agent:lifecycle"}

result := ask("blood") if scopes == {"write", "odd"}
"""

ASKED = (401, "interaction_required")
REFUSED = (401, "access_denied")


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    async with new_world(module_database_url, module_redis_url, worker=True) as made:
        await made.tenant.activate(POLICY)
        yield made


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


def retry(challenge: dict[str, Any], **members: Any) -> dict[str, Any]:
    """The fields of a retry, but for what the exchange itself is."""
    return {
        "challenge_id": challenge["challenge_id"],
        "challenge_response": challenge["challenge_secret"],
    } | members


async def satisfy(world: World, challenge: dict[str, Any]) -> None:
    """Agree, as the control plane does."""
    found = await world.log.find(Challenge, challenge["challenge_id"])
    assert found is not None
    with in_zone(world.tenant.id):
        found.satisfy("operator", clock.now())
    await world.log.save(found)


async def asked(world: World, **members: Any) -> dict[str, Any]:
    """Make an exchange that is answered by a challenge; return its body."""
    answer = await world.exchange(**({"scope": "write"} | members))
    assert told(answer) == ASKED
    return dict(answer.json())


async def agreed(world: World, **members: Any) -> dict[str, Any]:
    challenge = await asked(world, **members)
    await satisfy(world, challenge)
    return challenge


async def test_an_address_may_not_look_without_end(database_url: str, redis_url: str) -> None:
    async with new_world(database_url, redis_url, STEP_UP_RATE_LIMIT_PER_MIN="3") as narrow:
        url = f"{narrow.url}/step-up/{new_id()}"
        answers = [await narrow.http.get(url) for _ in range(5)]
        unknown, limited = (404, "resource_not_found"), (429, "rate_limited")
        assert [told(answer) for answer in answers] == [unknown] * 3 + [limited] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await narrow.http.get(f"{narrow.url}/step-up/x")).status_code == 429
        assert (await narrow.exchange()).status_code == 200


async def test_a_policy_asks(world: World) -> None:
    token = world.tenant.token()
    answer = await world.exchange(subject_token=token, scope="write")
    body = answer.json()
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="interaction_required"'
    assert answer.headers["cache-control"] == "no-store"
    assert set(body) == {
        *("error", "error_description", "requestId"),
        *("challenge_id", "challenge_type", "challenge_secret", "challenge_expires_at"),
    }
    assert body["error_description"] == "Step-up authorization required for this resource"
    assert (body["challenge_type"], len(body["challenge_secret"])) == ("mfa", 43)
    life = clock.parse(body["challenge_expires_at"]) - clock.now()
    assert timedelta(minutes=4) < life <= LIFE
    async with world.log._pool.connection() as db:
        row = await get_challenge(db, world.tenant.id, body["challenge_id"])  # seen at once
    assert row is not None
    assert row["session_id"] == mandate.peek(token).claims["sid"]
    assert row["metadata"] == {
        "application_id": world.tenant.app_id,
        "agent_session_id": None,
        "delegation_edge_id": None,
        "resources": ["resource://one"],
        "requested_scopes": ["write"],
        "request_id": body["requestId"],
        "call": None,
    }
    events = await world.audit(answer)
    assert [(event["decision"], event["evaluation_status"]) for event in events] == [
        ("deny", "complete"),
        ("deny", "exchange_denied"),
    ]
    assert events[0]["diagnostics_json"] == [{"step_up_required": "mfa"}]


async def test_its_secret_is_nowhere_but_in_the_answer(world: World) -> None:
    secret = (await asked(world))["challenge_secret"].encode()
    async with world.log._pool.connection() as db:
        rows = await (await db.execute("SELECT state FROM log")).fetchall()
    assert any(sha256(secret).hexdigest().encode() in state for (state,) in rows)
    assert not any(secret in state for (state,) in rows)
    for key in [key async for key in world.redis.scan_iter("caracal.*", _type="stream")]:
        for _, fields in await world.redis.xrange(key):
            assert not any(secret in value for value in fields.values())


async def test_who_has_agreement_is_let_through_once(world: World) -> None:
    token = world.tenant.token(sub="ada", sub_type="user")
    challenge = await agreed(world, subject_token=token)
    given = retry(challenge, subject_token=token, scope="write")
    answer = await world.exchange(**given)
    assert answer.status_code == 200
    assert mandate.peek(answer.json()["access_token"]).claims["scope"] == "write"
    (event,) = await world.audit(answer)
    metadata = event["metadata_json"]
    assert (event["decision"], metadata["challenge_resolved"]) == ("allow", True)
    assert metadata["policy_input"]["context"]["challenge_resolved"] is True
    again = await world.exchange(**given)
    assert told(again) == REFUSED
    assert again.json()["error_description"] == "challenge not satisfied or expired"
    (event,) = await world.audit(again)
    assert (event["event_type"], event["evaluation_status"]) == ("challenge_invalid",) * 2


async def test_a_client_without_a_subject_token_gets_its_session(world: World) -> None:
    challenge = await agreed(world)
    answer = await world.exchange(**retry(challenge, scope="write"))
    assert answer.status_code == 200
    assert mandate.peek(answer.json()["access_token"]).claims["use"] == "ambient"


async def test_one_of_many_retries_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have seen the challenge unused before the first one uses it."""
    token = world.tenant.token(sub="hasty", sub_type="user")
    challenge = await agreed(world, subject_token=token)
    form = world.tenant.form(**retry(challenge, subject_token=token, scope="write"))
    url, many = f"{world.url}/oauth/2/token", 16
    seen, find = asyncio.Barrier(many), StepUp._find

    async def found(self: StepUp, challenge_id: str) -> Challenge | None:
        challenge = await find(self, challenge_id)
        await seen.wait()
        return challenge

    monkeypatch.setattr(StepUp, "_find", found)
    answers = await asyncio.gather(*(world.http.post(url, data=form) for _ in range(many)))
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200] + [401] * (many - 1)
    stored = await world.log.find(Challenge, challenge["challenge_id"])
    assert stored is not None
    assert (stored.consumed, stored.version) == (True, 3)


class TestRefusals:
    """Whatever is wrong with a retry: one answer, and the challenge is not used up by it."""

    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many failures as it takes: the throttle has a test of its own."""
        monkeypatch.setattr("caracal.services.sts.failure_limit.FailureLimit.failed", _nothing)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"challenge_response": "A" * 43},
            {"challenge_response": None},
            {"challenge_response": "Ü"},
            {"challenge_id": None},
            {"challenge_id": new_id()},
            {"challenge_id": "no id \x00"},
            {"resource": "resource://other"},
            {"resource": ["resource://one", "resource://other"]},
        ],
    )
    async def test_wrong_retries(self, world: World, wrong: dict[str, Any]) -> None:
        token = world.tenant.token()
        right = {"subject_token": token, "scope": "write"}
        challenge = await agreed(world, subject_token=token)
        answer = await world.exchange(**retry(challenge, **right) | wrong)
        assert told(answer) == REFUSED
        assert answer.json()["error_description"] == "challenge not satisfied or expired"
        (event,) = await world.audit(answer)
        assert (event["event_type"], event["evaluation_status"]) == ("challenge_invalid",) * 2
        assert (await world.exchange(**retry(challenge, **right))).status_code == 200

    async def test_another_principal_or_session(self, world: World) -> None:
        ada = world.tenant.token(sub="ada", sub_type="user")
        challenge = await agreed(world, subject_token=ada)
        others = (
            world.tenant.token(sub="eve", sub_type="user"),
            world.tenant.token(sub="ada", sub_type="user"),  # of another session
            None,
        )
        for token in others:
            answer = await world.exchange(**retry(challenge, subject_token=token, scope="write"))
            assert told(answer) == REFUSED
        right = retry(challenge, subject_token=ada, scope="write")
        assert (await world.exchange(**right)).status_code == 200

    @pytest.mark.parametrize("more", ["odd", "write read", "write agent:lifecycle"])
    async def test_more_than_was_agreed_to(self, world: World, more: str) -> None:
        """Who agrees is shown the scopes: agreement to one is none to another."""
        challenge = await agreed(world, scope="write")
        assert told(await world.exchange(**retry(challenge, scope=more))) == REFUSED
        assert (await world.exchange(**retry(challenge, scope="write"))).status_code == 200

    async def test_another_agent(self, world: World) -> None:
        """Nor is agreement to what one agent asks for one to another agent, or to none."""
        careful, reckless = [await world.tenant.add_agent() for _ in range(2)]
        asking = {"agent_session_id": careful.aggregate_id, "scope": "write"}
        challenge = await agreed(world, **asking)
        for other in (reckless.aggregate_id, None):
            given = retry(challenge, **(asking | {"agent_session_id": other}))
            assert told(await world.exchange(**given)) == REFUSED
        assert (await world.exchange(**retry(challenge, **asking))).status_code == 200

    async def test_another_application(self, world: World) -> None:
        form = secret_hash.of_random("other")
        other = await world.tenant.add_application(form)
        challenge = await agreed(world)
        members = {"application_id": other.aggregate_id, "client_secret": "other"}
        answer = await world.exchange(**retry(challenge, scope="write", **members))
        assert told(answer) == REFUSED

    async def test_another_zone(self, world: World) -> None:
        other = await new_tenant(world.log, POLICY)
        challenge = await agreed(world)
        answer = await world.post(other.form(**retry(challenge, scope="write")))
        assert told(answer) == REFUSED

    async def test_not_satisfied(self, world: World) -> None:
        challenge = await asked(world)
        assert told(await world.exchange(**retry(challenge, scope="write"))) == REFUSED
        await satisfy(world, challenge)
        assert (await world.exchange(**retry(challenge, scope="write"))).status_code == 200

    async def test_too_late(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("caracal.events.challenge.LIFE", timedelta(seconds=2))
        challenge = await agreed(world)
        await asyncio.sleep(
            max(0, (clock.parse(challenge["challenge_expires_at"]) - clock.now()).total_seconds())
        )
        assert told(await world.exchange(**retry(challenge, scope="write"))) == REFUSED


def _nothing(*_: object) -> None:
    """Count no failure."""


async def test_resources_in_another_order_are_the_same(world: World) -> None:
    other = await world.tenant.add_resource(identifier="resource://ordered")
    both = [world.tenant.resource.identifier, other.identifier]
    challenge = await agreed(world, resource=both)
    answer = await world.exchange(**retry(challenge, scope="write", resource=both[::-1]))
    assert answer.json()["target_resources"] == both[::-1]


async def test_what_is_asked_outranks_what_is_granted(world: World) -> None:
    free = await world.tenant.add_resource(identifier="resource://one/free")
    both = [free.identifier, world.tenant.resource.identifier]
    answer = await world.exchange(resource=both, scope="odd")
    assert told(answer) == ASKED
    assert answer.json()["challenge_type"] == "human_approval"
    events = await world.audit(answer)
    assert [(event["decision"], event["evaluation_status"]) for event in events] == [
        ("allow", "complete"),
        ("deny", "complete"),
        ("deny", "exchange_denied"),
    ]


async def test_what_asks_for_nothing_that_there_is_is_a_deny(world: World) -> None:
    answer = await world.exchange(scope="write odd")
    assert told(answer) == (403, "access_denied")


async def test_a_policy_that_goes_on_asking_denies(world: World) -> None:
    challenge = await agreed(world, scope="agent:lifecycle")
    answer = await world.exchange(**retry(challenge, scope="agent:lifecycle"))
    assert told(answer) == (403, "access_denied")
    assert "challenge_id" not in answer.json()


async def test_over_the_rate_limit_nothing_is_asked(world: World) -> None:
    limit = {"window_seconds": 60, "max_requests": 1}
    made = await world.tenant.add_resource(rate_limit=limit)
    await asked(world, resource=made.identifier)
    answer = await world.exchange(resource=made.identifier, scope="write")
    assert told(answer) == (429, "provider_rate_limited")
    assert "challenge_id" not in answer.json()


async def test_a_replayed_gateway_call_gets_no_challenge(world: World) -> None:
    form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None, scope="write")
    first = await world.by_gateway(form)
    assert told(first) == ASKED
    names = ("Timestamp", "Request", "Signature")
    sent = first.request.headers
    replay = {f"X-Caracal-Gateway-{name}": sent[f"X-Caracal-Gateway-{name}"] for name in names}
    again = await world.by_gateway(form, replay=replay, **{"X-Request-Id": sent["X-Request-Id"]})
    assert told(again) == REFUSED
    assert "challenge_id" not in again.json()


def mcp(name: str, **arguments: Any) -> dict[str, Any]:
    """What the Gateway tells of a call of a tool."""
    told = {"arguments_sha256": sha256(orjson.dumps(arguments)).hexdigest()}
    call = {"method": "tools/call", "name": name, **told, "argument_keys": sorted(arguments)}
    return {"http": {"method": "POST", "path": "/mcp"}, "mcp": call}


def called(world: World, call: dict[str, Any] | None, token: str, **more: Any) -> dict[str, Any]:
    """The form by which the Gateway asks for a mandate for a call."""
    context = None if call is None else orjson.dumps(call).decode()
    given = {"subject_token": token, "client_secret": None, "scope": "write"} | more
    return world.tenant.form(**given, call_context=context)


REFUND = mcp("refund", amount=5)
OTHER_CALLS: dict[str, dict[str, Any] | None] = {
    "another tool": mcp("delete_all", amount=5),
    "other arguments": mcp("refund", amount=5000),
    "another path": REFUND | {"http": {"method": "POST", "path": "/admin"}},
    "another method": REFUND | {"http": {"method": "PUT", "path": "/mcp"}},
    "no MCP": {"http": REFUND["http"]},
    "unreadable": REFUND | {"mcp": {"method": ""}},
    "no context": None,
}


@pytest.mark.parametrize("other", OTHER_CALLS)
async def test_agreement_to_one_call_is_none_to_another(
    world: World, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr("caracal.services.sts.failure_limit.FailureLimit.failed", _nothing)
    token = world.tenant.token(sub="ada", sub_type="user")
    first = await world.by_gateway(called(world, REFUND, token))
    assert told(first) == ASKED
    challenge = first.json()
    await satisfy(world, challenge)
    for refused in (
        await world.by_gateway(called(world, OTHER_CALLS[other], token, **retry(challenge))),
        await world.exchange(**retry(challenge, subject_token=token, scope="write")),
    ):
        assert told(refused) == REFUSED
    turned = dict(reversed(REFUND.items()))
    answer = await world.by_gateway(called(world, turned, token, **retry(challenge)))
    assert answer.status_code == 200  # the same call, and nothing was used up
    async with world.log._pool.connection() as db:
        row = await get_challenge(db, world.tenant.id, challenge["challenge_id"])
    assert row is not None
    assert row["metadata"]["call"] == REFUND


async def test_agreement_to_a_mandate_is_none_to_a_call(world: World) -> None:
    token = world.tenant.token(sub="grace", sub_type="user")
    challenge = await agreed(world, subject_token=token)
    answer = await world.by_gateway(called(world, REFUND, token, **retry(challenge)))
    assert told(answer) == REFUSED
    right = retry(challenge, subject_token=token, scope="write")
    assert (await world.exchange(**right)).status_code == 200


async def test_nobody_can_agree_to_what_cannot_be_read(world: World) -> None:
    """One such call looks like every other: agreement to it would be agreement to all."""
    token = world.tenant.token(sub="ida", sub_type="user")
    batch = REFUND | {"mcp": {"method": ""}}
    answer = await world.by_gateway(called(world, batch, token))
    assert told(answer) == (403, "access_denied")
    assert "challenge_id" not in answer.json()


async def test_a_zone_that_has_just_ended(world: World) -> None:
    """The log knows, the view does not yet: no challenge is left behind."""
    other = await new_tenant(world.log, POLICY)
    assert told(await world.post(other.form(scope="write"))) == ASKED
    async with world.log._pool.connection() as db:
        await db.execute("DELETE FROM guard_key WHERE key = %s", (f"live:zone:{other.id}",))
    answer = await world.post(other.form(scope="write"))
    assert told(answer) == (403, "access_denied")
    assert "challenge_id" not in answer.json()


async def test_five_failures_are_followed_by_a_pause(world: World) -> None:
    token = world.tenant.token(sub="eager", sub_type="user")
    challenge = await agreed(world, subject_token=token)
    right = retry(challenge, subject_token=token, scope="write")
    wrong = right | {"challenge_response": "A" * 43}
    answers = [await world.exchange(**wrong) for _ in range(4)]
    assert {told(answer) for answer in answers} == {REFUSED}
    assert (await world.exchange(**right)).status_code == 200  # success clears
    answers = [await world.exchange(**wrong) for _ in range(5)]
    assert {told(answer) for answer in answers} == {REFUSED}
    blocked = await world.exchange(**right)
    assert told(blocked) == (429, "access_denied")
    assert step_up.COOLDOWN_SECONDS - 30 < int(blocked.headers["retry-after"]) <= 301
    (event,) = await world.audit(blocked)
    assert (event["event_type"], event["evaluation_status"]) == ("challenge_cooldown",) * 2
    assert told(await world.exchange(subject_token=token, scope="read")) == (200, None)
    other = world.tenant.token(sub="calm", sub_type="user")
    challenge = await agreed(world, subject_token=other)
    right = retry(challenge, subject_token=other, scope="write")
    assert (await world.exchange(**right)).status_code == 200


async def test_its_status_is_told_to_who_knows_its_id(world: World) -> None:
    challenge = await asked(world)
    url = f"{world.url}/step-up/{challenge['challenge_id']}"

    async def status() -> Any:
        answer = await world.http.get(url)
        assert answer.status_code == 200
        return answer.json()

    expected = {
        "id": challenge["challenge_id"],
        "challenge_type": "mfa",
        "satisfied": False,
        "consumed": False,
        "expires_at": challenge["challenge_expires_at"],
    }
    assert await status() == expected
    await satisfy(world, challenge)
    assert await status() == await status() == expected | {"satisfied": True}
    assert (await world.exchange(**retry(challenge, scope="write"))).status_code == 200
    assert await status() == expected | {"satisfied": True, "consumed": True}
    assert (await world.http.post(url)).status_code == 405


@pytest.mark.parametrize(
    "given",
    [
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "no-such",
        "{challenge_id}",
        "%00",
        "a%20b",
        "x" * 200,
    ],
)
async def test_a_challenge_that_is_not_there(world: World, given: str) -> None:
    answer = await world.http.get(f"{world.url}/step-up/{given}")
    assert told(answer) == (404, "resource_not_found")


async def test_other_things_are_no_challenges(world: World) -> None:
    for given in (world.tenant.id, world.tenant.app_id):
        answer = await world.http.get(f"{world.url}/step-up/{given}")
        assert told(answer) == (404, "resource_not_found")


async def test_without_redis_a_step_up_can_be_asked_for(own_servers: EmbeddedServers) -> None:
    """A deny is given without its evidence, as any other."""
    async with new_world(own_servers.database_url, own_servers.redis_url) as world:
        await world.tenant.activate(POLICY)
        assert told(await world.exchange(scope="write")) == ASKED
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        own_servers.valkey.process.wait()
        assert told(await world.exchange(scope="write")) == ASKED
