"""One decision of the engine, as the STS asks for it."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import Any

from bench.load import percentile
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.world import POLICY
from caracal.ids import new_id
from caracal.policy.engine import Bundle, PolicyEngines


async def decision(setting: Setting) -> Row:
    """Input to decision, in this process."""
    engines = PolicyEngines(2**28)
    bundle = Bundle(sha256(POLICY.encode()).hexdigest(), (("template.rego", POLICY),))
    asked = _input()
    if not engines.evaluate(bundle, asked).allowed:
        raise RuntimeError("the template denies")
    micros, cpu = [], time.process_time()
    for _ in range(setting.times(10_000)):
        began = time.perf_counter()
        engines.evaluate(bundle, asked)
        micros.append((time.perf_counter() - began) * 1e6)
    cpu = time.process_time() - cpu
    micros.sort()
    return Row(
        "Policy decision",
        "bench process: PolicyEngines.evaluate, template.rego, input of a user's exchange",
        [
            at_most("p50", percentile(micros, 0.5), "µs", 200),
            Value("p99", percentile(micros, 0.99), "µs"),
        ],
        {"bench": cpu / len(micros) * 1000},
    )


def _input() -> dict[str, Any]:
    zone, application, sid, resource = (new_id() for _ in range(4))
    claims = {
        "iss": "http://127.0.0.1:8080",
        "sub": application,
        "sid": sid,
        "root_sid": sid,
        "zone_id": zone,
        "client_id": application,
        "scope": "read",
        "use": "ambient",
        "sub_type": "application",
    }
    return {
        "principal": {
            "type": "Application",
            "id": application,
            "zone_id": zone,
            "credential_type": "token",
            "agent_session_id": None,
        },
        "resource": {
            "type": "Resource",
            "id": resource,
            "identifier": "resource://bench",
            "scopes": ["read", "write"],
        },
        "action": {"id": "TokenExchange"},
        "session": {"id": sid},
        "delegation_edge": None,
        "context": {
            "actor_claims": {"caracal_client_id": application},
            "subject_claims": claims,
            "trace_id": new_id(),
            "session_id": sid,
            "agent_session_id": None,
            "delegation_edge_id": None,
            "challenge_resolved": False,
            "requested_scopes": ["read"],
            "http": {"method": "GET", "path": "/answer"},
            "mcp": None,
        },
    }
