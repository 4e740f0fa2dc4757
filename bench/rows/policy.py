"""Decisions of the engine, as the STS asks for them; what shadows cost; how soon policies act."""

from __future__ import annotations

import time
from dataclasses import replace
from hashlib import sha256
from typing import Any

import httpx

from bench.load import percentile
from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.wire import Connection
from bench.world import POLICY, admin, version_of
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


async def modules(setting: Setting) -> Row:
    """Bundles of several sizes: what one decision and one compilation take."""
    values: list[Value] = []
    for number in (1, 20, 256):
        bundle, many = _bundle(number), setting.times(max(20_000 // (number + 9), 100))
        micros = _evaluated(bundle, many)
        compiled = sorted(_compiled(bundle) for _ in range(5))
        values += [
            Value(f"{number} modules, p50", percentile(micros, 0.5), "µs"),
            Value(f"{number} modules, p99", percentile(micros, 0.99), "µs"),
            Value(f"{number} modules, compiled", compiled[2], "ms"),
        ]
    return Row(
        "Policy decision by size",
        "bench process: modules with one deny rule each, all read by the result",
        values,
    )


def _bundle(number: int) -> Bundle:
    head = "package caracal.authz\n\nimport rego.v1\n\n"
    result = (
        'result := {"decision": "allow", "evaluation_status": "complete"} if count(refused) == 0\n'
    )
    rule = 'refused contains "{0}" if startswith(input.resource.identifier, "resource://{0}/")\n'
    texts = [head + rule.format(n) for n in range(number)]
    texts[0] += result
    return Bundle(f"{number}", tuple((f"{n}", text) for n, text in enumerate(texts)))


def _evaluated(bundle: Bundle, times: int) -> list[float]:
    engines, asked, micros = PolicyEngines(2**28), _input(), []
    if not engines.evaluate(bundle, asked).allowed:
        raise RuntimeError("the modules deny")
    for _ in range(times):
        began = time.perf_counter()
        engines.evaluate(bundle, asked)
        micros.append((time.perf_counter() - began) * 1e6)
    return sorted(micros)


def _compiled(bundle: Bundle) -> float:
    engines, began = PolicyEngines(2**28), time.perf_counter()
    engines.load(bundle)
    return (time.perf_counter() - began) * 1000


async def shadow(setting: Setting) -> Row:
    """Exchanges with a shadow version beside the active one, against those without."""
    text = setting.world.exchange(setting.world.ambient())
    with admin(setting.world.urls) as api:
        path, active = setting.world.policy_set(api)
        tried = version_of(api, path, "shadow", POLICY)
        seconds = setting.seconds(6)
        without = await setting.load("sts", text, connections=8, seconds=seconds)
        _activated(api, path, active, tried)
        begun = _tried(setting)
        done = await setting.load("sts", text, connections=8, seconds=seconds)
        ended = _tried(setting)
        _activated(api, path, active)
    row = done.row(
        "Exchange with a shadow, c=8",
        "as the per-call exchange; the shadow is evaluated behind the answer, in its own process",
        Value("rate", done.load.rate, "/s"),
        Value("p99", done.load.p99, "ms"),
        Value("rate without", without.load.rate, "/s"),
        Value("p99 without", without.load.p99, "ms"),
        Value("tried", ended["shadow_total"] - begun["shadow_total"], "times"),
        Value("dropped", ended["shadow_dropped_total"] - begun["shadow_dropped_total"], "times"),
    )
    return replace(row, cpu_ms={**row.cpu_ms, "sts without": without.cpu_ms.get("sts", 0.0)})


def _tried(setting: Setting) -> dict[str, float]:
    url, asked = setting.world.urls["sts_url"], {"Accept": "application/json"}
    counters: dict[str, float] = httpx.get(f"{url}/metrics", headers=asked).json()["opa"]
    return counters


async def activation(setting: Setting) -> Row:
    """Activate a version; ask two replicas until both decide by it."""
    world, millis, trials = setting.world, list[float](), setting.times(60)
    with setting.stack.replica("sts") as url, admin(world.urls) as api:
        path, active = world.policy_set(api)
        refusing = version_of(api, path, "refusing", POLICY.replace('{"read", ', "{"))
        calls = [world.exchange(world.ambient()).encode("latin-1")] * 2
        ports = [world.address("sts")[1], httpx.URL(url).port or 80]
        replicas = [await Connection.to("127.0.0.1", port) for port in ports]
        for number in range(trials):
            version, expected = (active, 200) if number % 2 else (refusing, 403)
            answered = _activated(api, path, version)
            for replica, call in zip(replicas, calls, strict=True):
                while (status := (await replica.asked(call))[0]) != expected:
                    if status not in (200, 403):
                        raise RuntimeError(f"neither allowed nor refused: {status}")
            millis.append((time.perf_counter() - answered) * 1000)
        for replica in replicas:
            replica.close()
        _activated(api, path, active)
    millis.sort()
    return Row(
        "Activate a policy: API answer → in force at two replicas",
        f"bench process: exchanges at each until it decides by the new version; {trials} times",
        [
            Value("p50", percentile(millis, 0.5), "ms"),
            at_most("p99", percentile(millis, 0.99), "ms", 100),
            Value("longest", millis[-1], "ms"),
        ],
    )


def _activated(
    api: httpx.Client, path: str, version: str, shadow_version: str | None = None
) -> float:
    """Activate; return when that was answered."""
    body = {"version_id": version, "shadow_version_id": shadow_version}
    api.post(f"{path}/activate", json=body).raise_for_status()
    return time.perf_counter()


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
