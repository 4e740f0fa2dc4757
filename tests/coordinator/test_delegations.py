"""The delegation graph over HTTP: edges made, shown, walked, revoked."""

from __future__ import annotations

from datetime import timedelta

from caracal import clock
from tests.coordinator.edges import HOPS, delegated, listed, told
from tests.coordinator.running import Crew, ids, unknown


async def test_made_shown_and_listed(crew: Crew) -> None:
    a, b = await crew.spawn(), await crew.spawn()
    edge = await delegated(crew, a, b, constraints={"max_depth": 2, "actions": ["get"]})
    assert edge["delegation_edge_id"] == edge["id"]
    assert edge["status"] == "active"
    assert (edge["edge_version"], edge["revoked_at"]) == (0, None)
    assert edge["constraints_json"] == {
        "max_hops": 2,
        "actions": ["get"],
        "ttl_seconds": 600,
        "policy_approved": True,
        "broad_reason": "resource_null_delegation",
    }
    assert edge["warnings"] == ["resource_null_delegation_broadens_resource_matching"]
    assert edge["allow_reason"] == [
        "same_zone_endpoints_active",
        "broad_delegation_elevated",
        "source_authority_root",
        "typed_constraints_validated",
    ]
    assert edge["effective_authority"] == {
        "source_session_id": a["id"],
        "target_session_id": b["id"],
        "parent_edge_id": None,
        "resource_id": None,
        "resources": [],
        "scopes": ["read"],
        "expires_at": edge["expires_at"],
        "max_hops": 2,
        "ttl_seconds": 600,
        "broad": True,
        "parent_edges_considered": [],
    }
    own = {k: v for k, v in edge.items() if k not in ("warnings", "allow_reason")}
    del own["effective_authority"]
    assert (await crew.call("GET", f"/delegations/inbound/{b['id']}")).json() == [own]
    assert (await crew.call("GET", f"/delegations/outbound/{a['id']}")).json() == [own]
    (shown,) = (await crew.call("GET", "/delegations/active")).json()
    assert shown == own | {"broad_reason": "resource_null_delegation"}
    assert await listed(crew, f"/delegations/inbound/{a['id']}") == []
    assert await listed(crew, f"/delegations/outbound/{unknown()}") == []


async def test_traversed(crew: Crew) -> None:
    a, b, c, d = [await crew.spawn() for _ in range(4)]
    first = await delegated(crew, a, b, constraints=HOPS)
    second = await delegated(crew, b, c, constraints={"max_hops": 2})
    third = await delegated(crew, c, d)
    short = await delegated(crew, b, d, parent_edge_id=first["id"])
    assert second["parent_edge_id"] == first["id"]
    assert second["effective_authority"]["parent_edges_considered"] == [first["id"]]
    nodes = (await crew.call("GET", f"/delegations/{first['id']}/traverse")).json()
    assert [(node["id"], node["depth"]) for node in nodes] == [
        (first["id"], 1),
        (second["id"], 2),
        (short["id"], 2),
        (third["id"], 3),
    ]
    impact = (await crew.call("GET", f"/delegations/{second['id']}/impact")).json()
    assert impact == {
        "edge_id": second["id"],
        "affected_edges": [
            {
                "id": edge["id"],
                "source_session_id": edge["source_session_id"],
                "target_session_id": edge["target_session_id"],
                "depth": depth,
            }
            for depth, edge in enumerate((second, third), 1)
        ],
        "affected_agents": [c["id"], d["id"]],
        "affected_subject_sessions": [crew.sid],
    }


async def test_revoked_with_all_it_leads_to(crew: Crew) -> None:
    a, b, c = [await crew.spawn() for _ in range(3)]
    child = await crew.spawn(parent_id=b["id"])
    first = await delegated(crew, a, b, constraints=HOPS)
    second = await delegated(crew, b, c)
    beside = await delegated(crew, a, child)
    answer = await crew.call("PATCH", f"/delegations/{first['id']}/revoke", {"ignored": 1})
    assert answer.json() == {"revoked_edges": 3, "affected_sessions": 1, "terminated_agents": 3}
    statuses = await crew.statuses()
    assert [statuses[agent["id"]] for agent in (a, b, c, child)] == [
        "active",
        "terminated",
        "terminated",
        "terminated",
    ]
    for edge, where in ((first, b), (second, c), (beside, child)):
        (shown,) = (await crew.call("GET", f"/delegations/inbound/{where['id']}")).json()
        assert (shown["id"], shown["status"]) == (edge["id"], "revoked")
        assert shown["edge_version"] == 1
        assert shown["revoked_at"] is not None
    assert await listed(crew, "/delegations/active") == []
    assert await listed(crew, "/delegations") == ids([beside, second, first])
    assert set((await crew.statuses("/delegations")).values()) == {"revoked"}
    again = await crew.call("PATCH", f"/delegations/{first['id']}/revoke")
    assert told(again) == (404, "delegation_not_found")
    traversed = await crew.call("GET", f"/delegations/{first['id']}/traverse")
    assert (traversed.status_code, traversed.json()) == (200, [])
    impact = await crew.call("GET", f"/delegations/{first['id']}/impact")
    assert told(impact) == (404, "delegation_not_found")
    (fact,) = await crew.facts("delegation.revoked")
    assert set(fact["edges"]) == {first["id"], second["id"], beside["id"]}


async def test_effective_authority(crew: Crew) -> None:
    a, b, c = [await crew.spawn() for _ in range(3)]
    nothing = {
        "inbound_edges": [],
        "effective_scopes": [],
        "effective_resource_ids": [],
        "effective_resources": [],
        "effective_resource_constrained": False,
        "effective_max_hops": 0,
        "effective_ttl_seconds": None,
        "earliest_expires_at": None,
    }
    for agent in (unknown(), c["id"]):
        answer = await crew.call("GET", f"/agents/{agent}/effective-authority")
        assert answer.json() == {"agent_session_id": agent, **nothing}
    soon = clock.rfc3339(clock.now() + timedelta(seconds=60))
    one = await delegated(crew, a, c, scopes=["read", "write"], constraints={"max_hops": 3})
    more = {"expires_at": soon, "ttl_seconds": None}
    other = await delegated(crew, b, c, scopes=["write", "admin"], **more)
    answer = await crew.call("GET", f"/agents/{c['id']}/effective-authority")
    assert answer.json() == {
        "agent_session_id": c["id"],
        "inbound_edges": [one["id"], other["id"]],
        "effective_scopes": ["write"],
        "effective_resource_ids": [],
        "effective_resources": [],
        "effective_resource_constrained": False,
        "effective_max_hops": 1,
        "effective_ttl_seconds": 600,
        "earliest_expires_at": other["expires_at"],
    }


async def test_pages(crew: Crew) -> None:
    a = await crew.spawn()
    edges = [await delegated(crew, a, await crew.spawn()) for _ in range(3)]
    newest_first = ids(edges)[::-1]
    for path in ("/delegations", "/delegations/active", f"/delegations/outbound/{a['id']}"):
        answer = await crew.call("GET", f"{path}?limit=2")
        assert ids(answer.json()) == newest_first[:2]
        link = answer.links["next"]["url"]
        rest = await crew.call("GET", "/" + link)
        assert ids(rest.json()) == newest_first[2:]
        assert "Link" not in rest.headers
        for query, code in (
            ("limit=0", "invalid_query"),
            (f"cursor={unknown()}", "invalid_cursor"),
        ):
            bad = await crew.call("GET", f"{path}?{query}")
            assert told(bad) == (400, code)
