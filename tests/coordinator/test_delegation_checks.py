"""Each check on a new edge, in the contract's order, over HTTP (section 7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from caracal import clock
from caracal.events.resource import Resource
from tests.coordinator.edges import HOPS, UNTIL, Edge, delegated, edge_of, told
from tests.coordinator.running import Crew, Ship, unknown
from tests.making import in_zone, new_grant, new_resource
from tests.sts.test_agents import ago

PAST = clock.rfc3339(clock.now() - timedelta(seconds=1))
ANY = "resource://unknown"


@dataclass(frozen=True)
class Scene:
    """Two applications with agents, and resources that the first holds, or does not."""

    crew: Crew
    other: Crew
    a: Edge
    b: Edge
    theirs: Edge
    own: Resource
    granted: Resource
    foreign: Resource

    async def asked(self, *scopes: str, **members: Any) -> Any:
        """Ask for an edge from ``a`` to ``b``."""
        return await self.crew.call(
            "POST", "/delegations", edge_of(self.a, self.b, **members), scopes=scopes
        )


@pytest.fixture
async def scene(crew: Crew) -> Scene:
    other = await crew.another()
    own = new_resource(crew.zone, gateway_application_id=crew.application_id)
    granted, foreign = new_resource(crew.zone), new_resource(crew.zone)
    await crew.save(own, granted, foreign)
    await crew.save(
        new_grant(crew.application_id, granted.aggregate_id, zone_id=crew.zone),
        new_grant(crew.application_id, foreign.aggregate_id, user_id="ada", zone_id=crew.zone),
        new_grant(other.application_id, foreign.aggregate_id, zone_id=crew.zone),
    )
    agents = [await crew.spawn(), await crew.spawn(), await other.spawn()]
    return Scene(crew, other, *agents, own, granted, foreign)


async def test_each_check_comes_before_the_next(scene: Scene) -> None:
    """A request that fails all checks is mended one by one."""
    crew, mine, theirs = scene.crew, scene.crew.application_id, scene.other.application_id
    second = await crew.spawn()
    free = await crew.spawn()
    b_to_a = await delegated(crew, scene.b, scene.a, constraints=HOPS, scopes=["read", "write"])
    await delegated(crew, second, scene.a, constraints=HOPS)
    body: Edge = {
        "source_session_id": "nobody",
        "target_session_id": "nobody",
        "issuer_application_id": theirs,
        "receiver_application_id": "no-application",
        "scopes": ["nope"],
        "constraints": {"budget": 0},
        "parent_edge_id": unknown(),
    }
    scopes: tuple[str, ...] = ()

    async def refused(status: int, code: str, **mended: Any) -> None:
        body.update(mended)
        answer = await crew.call("POST", "/delegations", body, scopes=scopes)
        assert told(answer) == (status, code)

    await refused(400, "invalid_budget")
    await refused(400, "delegation_expiry_required", constraints={"ttl_seconds": 60})
    await refused(403, "issuer_ownership_required", expires_at=PAST)
    scopes = (f"coordinator.delegate_from:{theirs}",)
    await refused(403, "receiver_consent_required")
    scopes += ("coordinator.delegate_to:no-application",)
    await refused(400, "self_delegation_denied")
    await refused(400, "delegation_expired", target_session_id="nobody-else")
    await refused(403, "broad_delegation_permission_required", expires_at=UNTIL)
    named = {"resource_id": scene.foreign.aggregate_id, "constraints": {"resources": [ANY]}}
    await refused(404, "delegation_endpoint_not_found", **named)
    ends = {"source_session_id": scene.a["id"], "target_session_id": scene.b["id"]}
    await refused(409, "delegation_application_mismatch", **ends)
    apps = {"issuer_application_id": mine, "receiver_application_id": mine}
    await refused(404, "resource_not_found", **apps)
    listed = {"resources": [scene.granted.identifier]}
    await refused(400, "delegation_resource_scope_mismatch", constraints=listed)
    await refused(403, "resource_ownership_required", constraints={})
    await refused(403, "delegation_scopes_exceed_resource", resource_id=scene.own.aggregate_id)
    await refused(403, "parent_delegation_not_active", scopes=["read"])
    await refused(409, "parent_delegation_ambiguous", parent_edge_id=None)
    parent = {"parent_edge_id": b_to_a["id"], "constraints": HOPS}
    await refused(403, "delegation_exceeds_parent_authority", **parent)
    await refused(409, "delegation_cycle_denied", constraints={"ttl_seconds": 60})
    body["target_session_id"] = free["id"]
    answer = await crew.call("POST", "/delegations", body, scopes=scopes)
    assert answer.status_code == 201, answer.text


async def test_an_edge_whose_time_is_over_closes_no_cycle(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cleaner has not come yet: what it would write down is written with the new edge."""
    a, b, c = [await crew.spawn(ttl_seconds=80_000) for _ in range(3)]
    until, token = clock.rfc3339(clock.now() - timedelta(seconds=1)), crew.token()
    with ago(monkeypatch, seconds=30):
        past: list[str | None] = [None]
        for source, target, hops in ((a, b, 2), (b, c, 1)):
            body = edge_of(source, target, expires_at=until, constraints={"max_hops": hops})
            body["parent_edge_id"] = past[-1]
            answer = await crew.call("POST", "/delegations", body, token=token)
            assert answer.status_code == 201, answer.text
            past.append(answer.json()["id"])
    back = await delegated(crew, c, a)
    assert await crew.statuses("/delegations/active") == {back["id"]: "active"}
    (first, second) = await crew.facts("delegation.expired")
    assert [None, first["_id"], second["_id"]] == past
    answer = await crew.call("POST", "/delegations", edge_of(a, c))
    assert told(answer) == (403, "delegation_exceeds_parent_authority")
    again = await crew.call("POST", "/delegations", edge_of(b, c))
    assert again.status_code == 201, again.text


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"constraints": [1]}, "invalid_delegation_constraint"),
        ({"constraints_json": "x"}, "invalid_delegation_constraint"),
        ({"constraints": {"colour": "red"}}, "invalid_delegation_constraint"),
        ({"constraints_json": {"colour": None}}, "invalid_delegation_constraint"),
        ({"constraints": {"resources": ["r"] * 65}}, "invalid_resources"),
        ({"constraints": {"actions": [""]}}, "invalid_actions"),
        ({"constraints": {"actions": ["\x00"]}}, "invalid_actions"),
        ({"constraints": {"max_hops": 11}}, "invalid_max_hops"),
        ({"constraints": {"max_hops": 1, "max_depth": 2}}, "invalid_max_hops"),
        ({"constraints": {"max_depth": 0}}, "invalid_max_depth"),
        ({"constraints": {"ttl_seconds": True}}, "invalid_ttl_seconds"),
        ({"constraints": {"budget": 1025}}, "invalid_budget"),
        ({"constraints": {"policy_approved": "yes"}}, "invalid_policy_approved"),
        ({"constraints": {"expires_at": "2030-01-01T00:00:00"}}, "invalid_expires_at"),
        ({"constraints": {"broad_reason": ""}}, "invalid_broad_reason"),
        ({"source_session_id": ""}, "invalid_body"),
        ({"scopes": [""]}, "invalid_body"),
        ({"scopes": ["\x00"]}, "invalid_body"),
        ({"expires_at": "2030-01-01"}, "invalid_body"),
        ({"expires_at": "0001-01-01T00:00:00+23:00"}, "invalid_body"),
        ({"ttl_seconds": 86_401}, "invalid_body"),
        ({"ttl_seconds": 0}, "invalid_body"),
        ({"parent_edge_id": 3}, "invalid_body"),
    ],
)
async def test_bad_input(scene: Scene, members: Edge, code: str) -> None:
    answer = await scene.asked(**members)
    assert told(answer) == (400, code)
    if code == "invalid_body":
        assert answer.json()["issues"] == answer.json()["details"]["issues"]


async def test_constraints_by_both_names_are_merged(scene: Scene) -> None:
    both = {"constraints_json": {"budget": 3, "max_hops": 2}, "constraints": {"budget": 5}}
    answer = await scene.asked(**both)
    stored = answer.json()["constraints_json"]
    assert (stored["budget"], stored["max_hops"], stored["ttl_seconds"]) == (5, 2, 600)


async def test_where_the_expiry_comes_from(scene: Scene) -> None:
    later = clock.rfc3339(clock.now() + timedelta(hours=2))
    answer = await scene.asked(constraints={"expires_at": later})
    assert clock.parse(answer.json()["expires_at"]) == clock.parse(UNTIL)
    answer = await scene.asked(expires_at=None, constraints={"expires_at": later})
    assert clock.parse(answer.json()["expires_at"]) == clock.parse(later)
    answer = await scene.asked(expires_at=None, ttl_seconds=60, constraints={"ttl_seconds": 5})
    left = clock.parse(answer.json()["expires_at"]) - clock.now()
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert answer.json()["constraints_json"]["ttl_seconds"] == 5


async def test_who_may_delegate_between_applications(scene: Scene) -> None:
    mine, theirs = scene.crew.application_id, scene.other.application_id
    out = edge_of(scene.a, scene.theirs)
    back = edge_of(scene.theirs, scene.a)
    named = {"resource_id": scene.own.aggregate_id}
    rows: list[tuple[Edge, tuple[str, ...], int]] = [
        (out, (), 403),
        (out, (f"delegate_to:{mine}", "delegate_broad"), 403),
        (out, (f"delegate_to:{theirs}",), 403),
        (out, (f"delegate_to:{theirs}", f"delegate_broad:{theirs}"), 403),
        (out, (f"delegate_to:{theirs}", f"delegate_broad:{mine}"), 201),
        (out, (f"delegate_to:{theirs}", "delegate_broad"), 201),
        (out, ("admin",), 201),
        (out | named, (f"delegate_to:{theirs}",), 201),
        (back, ("admin",), 403),
        (back, ("delegate_broad",), 403),
        (back, (f"delegate_from:{mine}", "delegate_broad"), 403),
    ]
    for body, scopes, status in rows:
        by = [f"coordinator.{scope}" for scope in scopes]
        answer = await scene.crew.call("POST", "/delegations", body, scopes=by)
        assert answer.status_code == status, (scopes, answer.text)
    fresh = await scene.crew.spawn()
    body = edge_of(scene.theirs, fresh)
    body["parent_edge_id"] = (await _first(scene.crew, scene.theirs))["id"]
    by = [f"coordinator.delegate_from:{theirs}", "coordinator.delegate_broad"]
    answer = await scene.crew.call("POST", "/delegations", body, scopes=by)
    assert told(answer) == (403, "delegation_exceeds_parent_authority")  # who asks is no matter


async def _first(crew: Crew, target: Edge) -> Edge:
    edges = (await crew.call("GET", f"/delegations/inbound/{target['id']}")).json()
    return dict(edges[-1])


async def test_a_broad_edge_of_another_application_needs_permission(scene: Scene) -> None:
    theirs = scene.other.application_id
    another = await scene.other.spawn()
    body = edge_of(scene.theirs, another)
    by = (f"coordinator.delegate_from:{theirs}",)
    answer = await scene.crew.call("POST", "/delegations", body, scopes=by)
    assert told(answer) == (403, "broad_delegation_permission_required")
    answer = await scene.other.call("POST", "/delegations", body)
    assert answer.status_code == 201


async def test_endpoints_that_may_not_act(scene: Scene) -> None:
    crew, parent = scene.crew, await scene.crew.spawn()
    child = await crew.spawn(parent_id=parent["id"])
    short = await crew.spawn(ttl_seconds=1)
    elsewhere = await (await _zone_beside(scene)).spawn()
    await crew.call("PATCH", f"/agents/{parent['id']}/suspend")
    await crew.call("PATCH", f"/agents/{child['id']}/resume")
    ended = await crew.spawn()
    await crew.call("DELETE", f"/agents/{ended['id']}")
    gone = clock.parse(short["spawned_at"]) + timedelta(seconds=1)
    while clock.now() <= gone:
        await crew.call("GET", "/agents?limit=1")
    for agent in (parent, child, ended, short, elsewhere):
        for ends in ((scene.a, agent), (agent, scene.a)):
            body = edge_of(*ends)
            body["issuer_application_id"] = body["receiver_application_id"] = crew.application_id
            answer = await crew.call("POST", "/delegations", body)
            assert told(answer) == (404, "delegation_endpoint_not_found")


async def _zone_beside(scene: Scene) -> Crew:
    crew = scene.crew
    return await Ship(crew.url, crew.settings, crew.log, crew.waiter, crew.client).crew()


async def test_what_the_issuer_holds(scene: Scene) -> None:
    crew, app = scene.crew, scene.crew.application_id
    ended = new_resource(crew.zone, gateway_application_id=app)
    lapsed = new_resource(crew.zone)
    grant = new_grant(app, lapsed.aggregate_id, zone_id=crew.zone)
    await crew.save(ended, lapsed)
    await crew.save(grant)
    with in_zone(crew.zone):
        ended.archive()
        grant.expire()
    await crew.save(ended, grant)
    rows: list[tuple[Edge, int, str]] = [
        ({"resource_id": scene.own.aggregate_id, "scopes": ["write"]}, 201, ""),
        ({"resource_id": scene.granted.aggregate_id, "scopes": ["read"]}, 201, ""),
        (
            {"resource_id": scene.granted.aggregate_id, "scopes": ["write"]},
            403,
            "resource_ownership_required",
        ),
        ({"resource_id": scene.foreign.aggregate_id}, 403, "resource_ownership_required"),
        ({"resource_id": lapsed.aggregate_id}, 403, "resource_ownership_required"),
        ({"resource_id": ended.aggregate_id}, 404, "resource_not_found"),
        ({"constraints": {"resources": [ended.identifier]}}, 404, "resource_not_found"),
        (
            {"constraints": {"resources": [scene.own.identifier, scene.foreign.identifier]}},
            403,
            "resource_ownership_required",
        ),
        (
            {"resource_id": scene.own.aggregate_id, "scopes": ["admin"]},
            403,
            "delegation_scopes_exceed_resource",
        ),
    ]
    for members, status, code in rows:
        answer = await scene.asked(**members)
        assert answer.status_code == status, answer.text
        assert answer.json().get("error", "") == code
    both = {"resources": [scene.own.identifier, scene.granted.identifier]}
    edge = (await scene.asked(resource_id=scene.own.aggregate_id, constraints=both)).json()
    assert edge["warnings"] == []
    assert edge["allow_reason"][1] == "resource_scope_checked"
    assert edge["effective_authority"]["resources"] == sorted(both["resources"])
    assert "broad_reason" not in edge["constraints_json"]
    assert "policy_approved" not in edge["constraints_json"]
    authority = await crew.call("GET", f"/agents/{scene.b['id']}/effective-authority")
    assert authority.json()["effective_resource_constrained"] is True
    assert authority.json()["effective_resource_ids"] == sorted(
        {scene.own.aggregate_id, scene.granted.aggregate_id}
    )
    assert authority.json()["effective_resources"] == sorted(both["resources"])


@pytest.mark.parametrize(
    ("parent", "child", "detail"),
    [
        ({}, {"scopes": ["admin"]}, "scopes"),
        ({}, {"expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
        ({"named": "own"}, {}, "resources"),
        ({"named": "own"}, {"named": "granted"}, "resources"),
        ({"named": "own"}, {"listed": ["own", "granted"]}, "resources"),
        ({"named": "own"}, {"listed": ["own"]}, None),
        ({"named": "own"}, {"named": "own", "listed": ["own", "granted"]}, None),
        ({"listed": ["own"]}, {"named": "own", "listed": ["own", "granted"]}, "resources"),
        ({"listed": ["own", "granted"]}, {}, "resources"),
        ({"listed": ["own", "granted"]}, {"named": "granted"}, None),
        ({}, {"named": "granted"}, None),
        ({}, {"constraints": {"max_hops": 5}}, "max_hops"),
        ({}, {"constraints": {"max_hops": 4}}, None),
        ({"constraints": {"max_hops": 1}}, {}, "max_hops"),
        ({}, {"ttl_seconds": None}, "ttl_seconds"),
        ({}, {"ttl_seconds": 601}, "ttl_seconds"),
        ({"budget": 1}, {"scopes": ["read", "write"]}, "budget"),
        ({"budget": 1}, {"constraints": {"budget": 2}}, "budget"),
        ({"budget": 1}, {}, None),
        ({"actions": ["get"]}, {}, "actions"),
        ({"actions": ["get"]}, {"actions": ["get", "put"]}, "actions"),
        ({"actions": ["get"]}, {"actions": []}, None),
    ],
)
async def test_an_edge_is_narrower_than_its_parent(
    scene: Scene, parent: Edge, child: Edge, detail: str | None
) -> None:
    given = {"scopes": ["read", "write"], "named": None, "constraints": HOPS}
    if parent.get("listed") and "granted" in parent["listed"]:
        given["scopes"] = ["read"]
    await delegated(scene.crew, scene.a, scene.b, **_members(scene, given | parent))
    third = await scene.crew.spawn()
    body = edge_of(scene.b, third, **_members(scene, child))
    answer = await scene.crew.call("POST", "/delegations", body)
    if detail is None:
        assert answer.status_code == 201, answer.text
        assert answer.json()["allow_reason"][2] == "parent_authority_narrowed"
    else:
        assert told(answer) == (403, "delegation_exceeds_parent_authority")
        assert answer.json()["detail"] == detail


def _members(scene: Scene, given: Edge) -> Edge:
    """Turn what a row says into members of a body."""
    members, constraints = dict(given), dict(given.get("constraints", {}))
    if (named := members.pop("named", None)) is not None:
        members["resource_id"] = getattr(scene, named).aggregate_id
    if (listed := members.pop("listed", None)) is not None:
        constraints["resources"] = [getattr(scene, one).identifier for one in listed]
    for key in ("budget", "actions"):
        if key in members:
            constraints[key] = members.pop(key)
    return {**members, "constraints": constraints}


async def test_an_expired_edge_holds_nobody(scene: Scene) -> None:
    crew, third = scene.crew, await scene.crew.spawn()
    soon = clock.now() + timedelta(seconds=3)
    edge = await delegated(crew, scene.a, scene.b, expires_at=clock.rfc3339(soon))
    while clock.now() <= soon:
        await crew.call("GET", "/agents?limit=1")
    (shown,) = (await crew.call("GET", f"/delegations/inbound/{scene.b['id']}")).json()
    assert (shown["status"], shown["edge_version"]) == ("expired", 0)
    assert (await crew.call("GET", "/delegations/active")).json() == []
    assert (await crew.call("GET", f"/delegations/{edge['id']}/traverse")).json() == []
    revoked = await crew.call("PATCH", f"/delegations/{edge['id']}/revoke")
    assert told(revoked) == (404, "delegation_not_found")
    root = await delegated(crew, scene.b, third, parent_edge_id=edge["id"], constraints=HOPS)
    assert root["parent_edge_id"] is None
    assert root["allow_reason"][2] == "source_authority_root"
    assert root["effective_authority"]["parent_edges_considered"] == []


async def test_who_may_revoke(scene: Scene) -> None:
    crew, mine = scene.crew, scene.crew.application_id
    edges = [await delegated(crew, scene.a, scene.b) for _ in range(3)]
    answer = await scene.other.call("PATCH", f"/delegations/{edges[0]['id']}/revoke")
    assert told(answer) == (403, "issuer_ownership_required")
    scopes = (f"coordinator.delegate_from:{mine}",)
    answer = await scene.other.call("PATCH", f"/delegations/{edges[0]['id']}/revoke", scopes=scopes)
    assert answer.json() == {"revoked_edges": 3, "affected_sessions": 1, "terminated_agents": 1}
    fresh = await crew.spawn()
    edge = await delegated(crew, scene.a, fresh)
    where = f"/delegations/{edge['id']}/revoke"
    answer = await scene.other.call("PATCH", where, scopes=["coordinator.admin"])
    assert answer.status_code == 200
    beside = await _zone_beside(scene)
    answer = await beside.call("PATCH", f"/delegations/{edges[1]['id']}/revoke")
    assert told(answer) == (404, "delegation_not_found")
