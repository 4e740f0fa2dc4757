"""Spans of work that belongs to many traces, and calls to others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind, StatusCode
from yarl import URL

from caracal import clock, telemetry
from caracal.services.provider_client import Client
from caracal.services.token_endpoint import Failed, TokenEndpoint
from caracal.services.upstream_guard import UpstreamGuard
from caracal.telemetry import Cause
from tests.telemetry.recording import Recording, recording

HUSH = "HushZq7WvKp3xT9b"


@pytest.fixture
def spans() -> Iterator[Recording]:
    with recording() as made:
        yield made


def trace(letter: str, flags: str = "01") -> str:
    return f"00-{letter * 32}-{'c1' * 8}-{flags}"


def cause(traceparent: str | None, position: int, *, minutes_ago: float = 0) -> Cause:
    moment = clock.now() - timedelta(minutes=minutes_ago)
    return Cause(traceparent, clock.rfc3339(moment), position)


def batched(*causes: Cause) -> None:
    with telemetry.batch("work", SpanKind.CONSUMER, {"of": "test"}, iter(causes)):
        pass


def test_a_batch_is_seen_in_each_trace_that_it_serves(spans: Recording) -> None:
    batched(cause(trace("a"), 1), cause(trace("b"), 2), cause(trace("a"), 3), cause(None, 4))
    found = {f"{span.context.trace_id:032x}": dict(span.attributes or {}) for span in spans.spans}
    assert found == {
        "a" * 32: {"of": "test", "messaging.batch.message_count": 2, "caracal.position": 3},
        "b" * 32: {"of": "test", "messaging.batch.message_count": 1, "caracal.position": 2},
    }
    assert all(span.parent and span.parent.span_id == 0xC1C1C1C1C1C1C1C1 for span in spans.spans)


def test_what_is_not_sampled_or_long_over_has_none(spans: Recording) -> None:
    batched(cause(trace("a", "00"), 1), cause(trace("b"), 2, minutes_ago=6), cause("", 3))
    assert spans.spans == []


def test_one_batch_makes_only_so_many(spans: Recording) -> None:
    batched(*(cause(f"00-{number:032x}-{'c1' * 8}-01", number) for number in range(1, 500)))
    assert len(spans.spans) == 100


def test_a_batch_that_fails(spans: Recording) -> None:
    def fail() -> None:
        with telemetry.batch("work", SpanKind.CONSUMER, {}, [cause(trace("a"), 1)]):
            raise ValueError(HUSH)

    with pytest.raises(ValueError, match=HUSH):
        fail()
    span = spans.one("work")
    assert span.status.status_code is StatusCode.ERROR
    assert HUSH not in span.to_json()


@given(st.lists(st.tuples(st.none() | st.text(max_size=60), st.text(max_size=30))))
def test_what_stands_in_a_foreign_entry_harms_no_batch(told: list[tuple[str | None, str]]) -> None:
    with recording() as made:
        batched(*(Cause(text, moment, 1) for text, moment in told))
        assert made.spans == []


def test_off_a_batch_does_not_even_look() -> None:
    def causes() -> Iterator[Cause]:
        raise AssertionError("it looked")
        yield

    with telemetry.batch("work", SpanKind.CONSUMER, {}, causes()):
        assert telemetry.passed_on() == {}


async def test_a_provider_is_called_with_nothing_told(spans: Recording) -> None:
    endpoint = TokenEndpoint(UpstreamGuard("true"))
    client = Client(URL(f"https://127.0.0.1:1/{HUSH}?k={HUSH}"), "us", HUSH, "client_secret_post")
    try:
        with pytest.raises(Failed):
            await endpoint.ask(client, {"refresh_token": HUSH})
    finally:
        await endpoint.close()
    first, _ = spans.named("POST")  # it tries twice
    assert dict(first.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": 1,
        "error.type": "ClientConnectorError",
    }
    assert HUSH not in first.to_json()
