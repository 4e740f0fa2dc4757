"""Traces of the whole product at a collector: one for each request, across all processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flow.conftest import Making
from tests.flow.product import _KEYS, Product
from tests.flow.tenant import RESOURCE, Answer, Tenant, Upstream, new_tenant
from tests.sts.world import serving
from tests.telemetry.collector import CLIENT, CONSUMER, PRODUCER, SERVER, Collector, Seen

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]

QUERY, PATH = "HushQueryZq7W", "HushPathKp3x"
SERVICES = ("worker", "api", "sts", "gateway", "coordinator")


def trace(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{'c1' * 8}-{flags}"


MUTATION, CALL, UNSAMPLED, LOGGED = "a1" * 16, "b2" * 16, "d4" * 16, "e5" * 16


@dataclass
class Told:
    """What was done, and what the collector got of it."""

    collector: Collector
    begun: str
    secrets: list[str]
    received: list[str]
    log: Path

    def one(self, trace_id: str, service: str, name: str, kind: int | None = None) -> Seen:
        return self.collector.one(trace_id, service, name, kind)


@pytest.fixture(scope="module")
async def told(making: Making) -> AsyncIterator[Told]:
    collector = Collector()
    async with serving(collector) as url:
        product = making(OTEL_EXPORTER_OTLP_ENDPOINT=url)
        product.start(*SERVICES)
        await product.ready()
        async with new_tenant(product) as (tenant, upstream):
            begun, secrets = await _done(tenant, upstream)
        await _stopped(product)
        log = product.directory / "gateway.log"
        yield Told(collector, begun, secrets, upstream.traceparents, log)


async def _done(tenant: Tenant, upstream: Upstream) -> tuple[str, list[str]]:
    made = await tenant.caller.operate(
        "POST", "/zones", {"name": "Traced"}, traceparent=trace(MUTATION)
    )
    unseen = {"traceparent": trace(UNSAMPLED, "00")}
    left_out = await tenant.caller.operate("POST", "/zones", {"name": "Not"}, **unseen)
    token = await tenant.ambient()
    begun = await _called(tenant, token, {})
    given = await _called(tenant, token, {"traceparent": trace(CALL)})
    await _unreachable(tenant, token)
    assert (made.status, left_out.status, begun.status, given.status) == (201, 201, 200, 200)
    secrets = [token, tenant.application["client_secret"], QUERY, PATH, *upstream.mandates]
    return begun.request_id, secrets


async def _unreachable(tenant: Tenant, token: str) -> None:
    """Call an upstream that is not there: the Gateway's log says so."""
    path = f"{tenant.path}/resources/{tenant.resource['id']}"
    moved = await tenant.caller.operate("PATCH", path, {"upstream_url": "http://127.0.0.1:1"})
    headers = {"traceparent": trace(LOGGED), "Caracal-Min-Position": str(moved.position)}
    assert (await _called(tenant, token, headers)).status == 502


async def _called(tenant: Tenant, token: str, more: dict[str, str]) -> Answer:
    headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": RESOURCE, **more}
    url = f"{tenant.caller.product.url('gateway')}/{PATH}?key={QUERY}"
    return await tenant.caller.ask("GET", url, headers={**headers, "X-Caracal-Scope": "read"})


async def _stopped(product: Product) -> None:
    """End all by SIGTERM: what they still hold is sent before they are gone."""
    for pid in product._pids.values():
        os.kill(pid, signal.SIGTERM)
    limit = time.monotonic() + 20
    while product._nursery.running():
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)
    product._pids.clear()


def test_a_mutation_from_the_command_to_its_projection(told: Told) -> None:
    command = told.one(MUTATION, "api", "POST /v1/zones", SERVER)
    assert command.parent_id == "c1" * 8
    assert command.attributes["http.route"] == command.attributes["url.path"] == "/v1/zones"
    assert command.attributes["http.request.method"] == "POST"
    assert command.attributes["http.response.status_code"] == 201
    appended = told.one(MUTATION, "api", "append", CLIENT)
    assert appended.attributes["caracal.events"][0] == "zone.created"
    relayed = told.one(MUTATION, "worker", "relay", PRODUCER)
    applied = told.one(MUTATION, "worker", "apply zones", CONSUMER)
    assert applied.attributes["messaging.destination.name"] == "caracal.zones.events"
    for span in (appended, relayed, applied):
        assert span.parent_id == command.span_id
        assert not span.failed
    assert relayed.attributes["caracal.position"] == appended.attributes["caracal.position"]


def test_a_governed_call_whose_trace_begins_at_the_gateway(told: Told) -> None:
    trace_id = told.begun.replace("-", "")
    call = told.one(trace_id, "gateway", "GET", SERVER)
    assert (call.parent_id, call.attributes["http.response.status_code"]) == ("", 200)
    assert "url.path" not in call.attributes
    assert {"caracal.zone_id", "caracal.resource_id"} < call.attributes.keys()
    asked = told.one(trace_id, "gateway", "POST", CLIENT)
    exchange = told.one(trace_id, "sts", "POST /oauth/2/token", SERVER)
    forwarded = told.one(trace_id, "gateway", "GET", CLIENT)
    assert asked.parent_id == forwarded.parent_id == call.span_id
    assert exchange.parent_id == asked.span_id
    for name in ("evaluate policy", "settle"):
        assert told.one(trace_id, "sts", name).parent_id == exchange.span_id
    assert told.one(trace_id, "sts", "evaluate policy").attributes["caracal.decision"] == "allow"
    # The contract's form: the request id's hex, and a span that the upstream's can hang on.
    assert told.received[0] == f"00-{trace_id}-{forwarded.span_id}-01"


def test_a_governed_call_in_the_caller_s_trace(told: Told) -> None:
    call = told.one(CALL, "gateway", "GET", SERVER)
    asked = told.one(CALL, "gateway", "POST", CLIENT)
    assert call.parent_id == "c1" * 8
    assert told.one(CALL, "sts", "POST /oauth/2/token", SERVER).parent_id == asked.span_id
    assert told.received[1] == trace(CALL)  # kept, says the contract


def test_who_is_not_sampled_leaves_nothing(told: Told) -> None:
    assert told.collector.of_trace(UNSAMPLED) == []


def test_every_service_says_who_it_is(told: Told) -> None:
    names = {resource["service.name"] for resource in told.collector.resources}
    assert names == {f"caracal-{service}" for service in SERVICES}
    for resource in told.collector.resources:
        assert {"service.version", "service.instance.id"} < resource.keys()
    for service in SERVICES:
        assert [s for s in told.collector.spans if s.service == f"caracal-{service}"]


def test_metrics_are_those_of_the_metrics_route(told: Told) -> None:
    metrics = told.collector.metrics
    assert metrics["caracal-gateway", "caracal_gateway_requests_total"] == [3.0]
    assert metrics["caracal-sts", "caracal_sts_opa_eval_total"][0] >= 2.0
    assert metrics["caracal-worker", "caracal_worker_relay_position"][0] > 0
    assert metrics["caracal-api", "caracal_api_otel_spans_dropped_total"] == [0.0]


def test_no_secret_is_told(told: Told) -> None:
    sent = b"\n".join(told.collector.raw)
    assert b"caracal-gateway" in sent
    for secret in (*told.secrets, *_KEYS.values()):
        assert secret.encode() not in sent
        assert secret.partition(".")[2].encode() not in sent or "." not in secret


def test_a_log_line_names_its_span(told: Told) -> None:
    (line,) = [one for one in told.log.read_text().splitlines() if "upstream unreachable" in one]
    call = told.one(LOGGED, "gateway", "GET", CLIENT)
    assert call.failed
    assert line.endswith(f" trace_id={LOGGED} span_id={call.span_id}")
