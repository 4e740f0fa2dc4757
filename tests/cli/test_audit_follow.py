"""Following a list that can only be asked: each decision once, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.cli.audit_follow import Follower

START = datetime(2026, 5, 11, 20, tzinfo=UTC)


class Ledger:
    """Decisions, listed newest first as the control plane does."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.read = 0

    def add(self, second: float) -> str:
        number = str(len(self.events))
        moment = clock.rfc3339(START + timedelta(seconds=second))
        self.events.append({"id": number, "occurred_at": moment})
        return number

    def listed(self, since: str = "") -> Iterator[dict[str, Any]]:
        for event in sorted(self.events, key=lambda one: one["occurred_at"], reverse=True):
            if event["occurred_at"] >= since:
                self.read += 1
                yield event


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


def test_old_ones_first_then_new_ones() -> None:
    ledger = Ledger()
    old = [ledger.add(second) for second in range(5)]
    follower = Follower(ledger.listed)
    assert ids(follower.first(2)) == old[3:]
    assert follower.fresh() == []
    new = [ledger.add(6), ledger.add(7)]
    assert ids(follower.fresh()) == new
    assert follower.fresh() == []


def test_none_at_first() -> None:
    ledger = Ledger()
    follower = Follower(ledger.listed)
    assert follower.first(10) == []
    assert ids([*follower.fresh()]) == []
    assert ids(follower.first(0)) == []
    assert [ledger.add(1)] == ids(follower.fresh())


def test_a_late_one_is_not_missed() -> None:
    ledger = Ledger()
    ledger.add(20)
    follower = Follower(ledger.listed)
    follower.first(0)
    late = ledger.add(1)
    assert ids(follower.fresh()) == [late]


def test_a_look_reads_no_more_than_it_must() -> None:
    ledger = Ledger()
    for number in range(5000):
        ledger.add(number / 1000)
    follower = Follower(ledger.listed)
    follower.first(3)
    ledger.read = 0
    assert follower.fresh() == []
    assert ledger.read <= 200


@given(st.lists(st.lists(st.floats(0, 20), max_size=8), max_size=8))
def test_each_is_given_once(rounds: list[list[float]]) -> None:
    ledger = Ledger()
    follower = Follower(ledger.listed)
    given_ = ids(follower.first(10))
    for seconds in rounds:
        for second in seconds:
            ledger.add(second)
        given_ += ids(follower.fresh())
    assert sorted(given_, key=int) == [str(number) for number in range(len(ledger.events))]
