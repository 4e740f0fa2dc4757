"""The span of a request, and its trace in log lines: on real connections, to a real collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from io import StringIO
from typing import Any

import httpx
import pytest
from opentelemetry.trace import StatusCode

from caracal import telemetry
from caracal.errors import Forbidden, StartError, Unavailable
from caracal.services import otlp
from caracal.services.health import Health
from caracal.services.http import Edge, Receive, Scope, Send, respond
from caracal.services.traced import Traced, exporting
from caracal.settings import Settings
from tests.backbone import eventually
from tests.sts.world import serving
from tests.sts.world import settings as sts_settings
from tests.telemetry.collector import SERVER, Collector
from tests.telemetry.recording import Recording, recording

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE = f"00-{TRACE_ID}-{SPAN_ID}-01"
HUSH = "HushZq7WvKp3xT9b"
logger = logging.getLogger("tests.telemetry.traced")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/refused":
        raise Forbidden("access_denied", HUSH)
    if scope["path"] == "/unavailable":
        raise Unavailable("unavailable", HUSH)
    if scope["path"] == "/bug":
        raise ValueError(HUSH)
    if scope["path"] == "/inside":
        with telemetry.span("inside"):
            raise ValueError(HUSH)
    scope["state"]["route"] = "/things/{id}"
    logger.warning("said")
    await respond(send, 200, (telemetry.traceparent() or "none").encode(), [])


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, its layers as in a service."""
    async with (
        serving(Traced(Edge(app, body_limit=1000))) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def spans() -> Iterator[Recording]:
    with recording() as made:
        yield made


@pytest.fixture
def said() -> Iterator[StringIO]:
    """What a process writes into its log."""
    text = StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(telemetry.TraceOfRecord())
    handler.setFormatter(logging.Formatter("%(message)s%(trace)s"))
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ([("traceparent", TRACE)], f"said trace_id={TRACE_ID} span_id={SPAN_ID}"),
        ([], "said"),
        ([("traceparent", TRACE), ("traceparent", TRACE)], "said"),
        ([("traceparent", TRACE.upper())], "said"),
        ([("traceparent", f"00-{'0' * 32}-{SPAN_ID}-01")], "said"),
        ([("traceparent", "x" * 4000)], "said"),
    ],
    ids=["given", "none", "two", "upper case", "zero", "long"],
)
async def test_a_log_line_names_the_caller_s_trace_when_nothing_is_exported(
    http: httpx.AsyncClient, said: StringIO, headers: list[tuple[str, str]], line: str
) -> None:
    answer = await http.get("/", headers=headers)
    assert said.getvalue().splitlines() == [line]
    assert answer.text == (TRACE if "trace_id" in line else "none")
    logger.warning("outside")
    assert said.getvalue().splitlines()[1:] == ["outside"]


async def test_a_log_line_names_the_span(
    http: httpx.AsyncClient, said: StringIO, spans: Recording
) -> None:
    answer = await http.get("/", headers={"traceparent": TRACE})
    place = spans.one("GET /things/{id}").get_span_context()
    assert place is not None
    assert place.trace_id == int(TRACE_ID, 16)
    assert place.span_id != int(SPAN_ID, 16)
    assert said.getvalue() == f"said trace_id={TRACE_ID} span_id={place.span_id:016x}\n"
    assert answer.text == f"00-{TRACE_ID}-{place.span_id:016x}-01"


async def test_a_trace_that_begins_here_has_the_request_s_id(
    http: httpx.AsyncClient, spans: Recording
) -> None:
    answer = await http.get("/")
    assert answer.text[3:35] == answer.headers["x-request-id"].replace("-", "")
    assert spans.one("GET /things/{id}").parent is None


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "failed"),
    [
        ("GET", "/x", 200, None, False),
        ("HEAD", "/x", 200, None, False),
        ("GET", "/refused", 403, None, False),
        ("GET", "/unavailable", 503, "503", True),
        ("GET", "/bug", 500, "500", True),
    ],
)
async def test_the_span_of_a_request(
    http: httpx.AsyncClient,
    spans: Recording,
    method: str,
    path: str,
    status: int,
    error: str | None,
    failed: bool,
) -> None:
    headers = {"Authorization": f"Bearer {HUSH}", "X-Request-Id": "r-1"}
    answer = await http.request(method, f"{path}?key={HUSH}", headers=headers)
    (span,) = spans.spans
    found = dict(span.attributes or {})
    assert answer.status_code == found.pop("http.response.status_code") == status
    assert found.pop("error.type", None) == error
    assert (span.status.status_code is StatusCode.ERROR) == failed
    if path == "/x":
        assert found.pop("http.route") == "/things/{id}"
        assert found.pop("url.path") == "/x"
    assert found == {
        "http.request.method": method,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "caracal.request_id": "r-1",
    }
    assert span.name == (f"{method} /things/{{id}}" if path == "/x" else method)
    assert not span.events


async def test_an_unknown_method_is_no_name(http: httpx.AsyncClient, spans: Recording) -> None:
    await http.request("PROPFIND", "/x")
    span = spans.one("HTTP /things/{id}")
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "PROPFIND"


async def test_of_an_error_only_its_kind_is_told(http: httpx.AsyncClient, spans: Recording) -> None:
    await http.get("/inside")
    span = spans.one("inside")
    assert (span.attributes, span.events) == ({"error.type": "ValueError"}, ())
    assert all(HUSH not in one.to_json() for one in spans.spans)


# -- the export


def settings(endpoint: str) -> Settings:
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {}
    return sts_settings("postgresql://nobody/none", "redis://nobody", **given)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    return monkeypatch


async def test_without_a_collector_nothing_runs_for_it(http: httpx.AsyncClient) -> None:
    before = set(threading.enumerate())
    async with exporting(settings(""), Health(settings(""))):
        assert (await http.get("/")).text == "none"
        assert not telemetry.is_on()
        assert set(threading.enumerate()) <= before
        assert telemetry.counts() == {}


def test_without_a_collector_the_exporter_is_not_even_imported() -> None:
    program = (
        "import sys; import caracal.services.traced\n"
        "sys.exit(any(n.startswith('opentelemetry.exporter.otlp') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


async def test_spans_and_metrics_reach_the_collector(
    http: httpx.AsyncClient, quick: pytest.MonkeyPatch
) -> None:
    quick.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    collector = Collector()
    async with serving(collector) as url:
        health = Health(settings(url))
        health.watch(counters=lambda: {"things_total": 7, "level": 2})
        async with exporting(settings(url), health):
            await http.get("/", headers={"traceparent": TRACE})

            async def arrived() -> bool:
                return bool(collector.of_trace(TRACE_ID) and collector.metrics)

            await eventually(arrived)
            assert telemetry.counts()["otel_spans_exported_total"] == 1
    assert collector.one(TRACE_ID, "sts", "GET /things/{id}", SERVER).parent_id == SPAN_ID
    assert collector.metrics["caracal-sts", "caracal_sts_things_total"] == [7.0]
    assert collector.metrics["caracal-sts", "caracal_sts_level"] == [2.0]


@pytest.mark.parametrize(
    ("variables", "spans", "service"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0, "sts"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 1, "sts"),
        ({"OTEL_TRACES_EXPORTER": "none"}, 0, "sts"),
        ({"OTEL_SDK_DISABLED": "true"}, 0, "sts"),
        ({"OTEL_SERVICE_NAME": "caracal-named"}, 2, "named"),
    ],
    ids=["off", "parents", "none", "disabled", "name"],
)
async def test_variables_of_the_sdk(
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    spans: int,
    service: str,
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    collector = Collector()
    async with serving(collector) as url, exporting(settings(url), Health(settings(url))):
        await http.get("/", headers={"traceparent": TRACE})
        await http.get("/")
    assert [span.service for span in collector.spans] == [f"caracal-{service}"] * spans


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_METRIC_EXPORT_INTERVAL"])
async def test_a_malformed_variable_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    with pytest.raises(StartError, match="OpenTelemetry"):
        async with exporting(settings("http://127.0.0.1:9"), Health(settings(""))):
            raise AssertionError("it started")


@pytest.mark.parametrize("holds", [True, False], ids=["hangs", "is not there"])
async def test_a_collector_that_takes_nothing(
    http: httpx.AsyncClient,
    quick: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    holds: bool,
) -> None:
    quick.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    quick.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    collector = Collector(holds=holds)
    async with serving(collector) as url:
        given = settings(url if holds else "http://127.0.0.1:1")
        async with exporting(given, Health(given)):
            for _ in range(60):
                assert (await http.get("/")).status_code == 200
            counts = telemetry.counts()
            assert counts["otel_spans_dropped_total"] >= 20
            assert counts["otel_spans_exported_total"] <= 60 - counts["otel_spans_dropped_total"]
            began = time.monotonic()
        assert time.monotonic() - began < otlp.STOP_SECONDS + 2
        collector.released.set()
        assert not telemetry.is_on()
    told = [record.name for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(told) == len(set(told))  # of each exporter one line a minute


def test_fastapi_s_own_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells queries and bodies."""
    from caracal.services.api.app import routes as api_routes
    from caracal.services.coordinator.app import routes as coordinator_routes

    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    for routes in (api_routes, coordinator_routes):
        config: Any = routes()._telemetry
        assert not any(config[name] for name in ("tracing", "metrics", "logs", "auto_configure"))
