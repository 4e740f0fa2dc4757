"""Delivery to a sink that has its moods; no network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caracal.services.siem import delivery as module
from caracal.services.siem.delivery import Delivery
from caracal.services.siem.record import Record
from caracal.services.siem.sink import Away, Refused
from tests.siem.test_sinks import record


class Moody:
    """Refuses batches with a bad record; is away as often as told before each batch."""

    def __init__(self, bad: set[str] = frozenset(), away: Sequence[float] = ()) -> None:  # type: ignore[assignment]
        self.bad, self._away = set(bad), list(away)
        self.taken: list[str] = []
        self.calls: list[int] = []

    async def send(self, records: Sequence[Record]) -> None:
        self.calls.append(len(records))
        if self._away:
            raise Away("status 503", self._away.pop(0))
        if self.bad & {one.id for one in records}:
            raise Refused("sink_refused:400")
        self.taken += [one.id for one in records]

    def reopen(self) -> None: ...

    async def close(self) -> None: ...


def run(
    sink: Moody, records: Sequence[Record], size: int = 10**6
) -> tuple[Delivery, dict[str, str]]:
    delivery = Delivery(sink, batch_bytes=size)
    return delivery, asyncio.run(delivery.deliver(records))


@given(
    count=st.integers(0, 40),
    bad=st.sets(st.integers(0, 39), max_size=12),
    size=st.integers(1, 2000),
)
@settings(max_examples=60)
def test_what_is_refused_is_found_and_all_else_is_taken_in_order(
    count: int, bad: set[int], size: int
) -> None:
    records = [record(str(number)) for number in range(count)]
    sink = Moody({str(number) for number in bad})
    _, refused = run(sink, records, size)
    assert list(refused) == [str(number) for number in sorted(bad) if number < count]
    assert sink.taken == [one.id for one in records if one.id not in refused]
    assert all(calls <= max(1, size // len(records[0].body)) for calls in sink.calls)


def test_who_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.5)
    monkeypatch.setattr(module, "LONGEST_WAIT", 60.0)
    sink = Moody(away=[0, 0, 0, 7, *[0.0] * 8])
    delivery, refused = run(sink, [record("a")])
    assert (refused, sink.taken) == ({}, ["a"])
    for number, wait in enumerate(waits):
        longest = min(60, 0.5 * 2**number)
        assert wait == 7 if number == 3 else longest / 2 <= wait <= longest
    assert (delivery.failing_since, delivery.counters.retries) == (None, 12)


async def test_a_sink_that_refuses_everything_is_not_given_everything_up() -> None:
    """So a wrong index or format costs some dead letters, not all that comes."""
    records = [record(str(number)) for number in range(60)]
    sink = Moody({one.id for one in records})
    delivery = Delivery(sink, batch_bytes=10**6)
    task = asyncio.create_task(delivery.deliver(records))
    while delivery.failing_since is None:
        await asyncio.sleep(0.001)
    assert delivery.counters.refused == module.REFUSED_IN_A_ROW
    sink.bad.clear()
    refused = await asyncio.wait_for(task, 15)
    assert len(refused) == module.REFUSED_IN_A_ROW
    assert sink.taken == [one.id for one in records[module.REFUSED_IN_A_ROW :]]
