"""Trace context and baggage: kept when well formed, made or left out when not."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.trace import (
    Hint,
    continued,
    foreign_baggage,
    kept_traceparent,
    new_traceparent,
    read_hint,
    written_hint,
)

GOOD = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([GOOD], True),
        ([b"cc" + GOOD[2:]], True),
        ([], False),
        ([GOOD, GOOD], False),
        ([GOOD.upper()], False),
        ([GOOD + b"\n"], False),
        ([GOOD + b"-x"], False),
        ([b" " + GOOD], False),
        ([GOOD[:-1]], False),
        ([b"00-" + b"0" * 32 + GOOD[35:]], False),
        ([GOOD.replace(b"-", b"_")], False),
    ],
)
def test_traceparent_is_kept_only_when_well_formed(values: list[bytes], kept: bool) -> None:
    assert kept_traceparent(values) == (GOOD if values == [GOOD] else values[0] if kept else None)


@pytest.mark.parametrize(
    ("request_id", "trace"),
    [
        ("0190A7C2-0000-7abc-8def-0123456789ab", "0190a7c200007abc8def0123456789ab"),
        ("req-1", hashlib.sha256(b"req-1").hexdigest()[:32]),
        ("0" * 8 + "-0000-0000-0000-" + "0" * 12, None),
        ("0190a7c200007abc8def0123456789ab", None),
    ],
)
def test_made_traceparent_follows_from_the_request_id(request_id: str, trace: str | None) -> None:
    made = new_traceparent(request_id)
    trace = trace or hashlib.sha256(request_id.encode()).hexdigest()[:32]
    assert re.fullmatch(rb"00-" + trace.encode() + rb"-(?!0{16})[0-9a-f]{16}-01", made)
    assert kept_traceparent([made]) == made
    assert new_traceparent(request_id) != made


def test_hint_is_read_from_any_spelling_of_the_entries() -> None:
    sent = [b"a=1, caracal.agent_session = s%2D1 ;p=1", b"caracal.delegation_edge=e,caracal.hop=32"]
    assert read_hint([*sent, b"caracal.parent_edge=p"]) == Hint("s-1", "e", "p", 32)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a=1",
        b"caracal.agent_session",
        b"caracal.agent_session=",
        b"caracal.agent_session=a%20b",
        b"caracal.agent_session=" + b"a" * 129,
        b"caracal.agent_session=a%0a",
        b"caracal.agent_session=\xc3\xa9",
        b"Caracal.agent_session=a",
        b"xcaracal.agent_session=a",
        b"caracal.hop=33",
        b"caracal.hop=-1",
        b"caracal.hop=1.5",
        b"caracal.hop=\xd9\xa1",
        b"caracal.agent_session=a," + b"x" * 8192,
    ],
)
def test_malformed_hints_are_left_out(value: bytes) -> None:
    assert read_hint([value]) == Hint()


def test_first_of_a_repeated_entry_counts() -> None:
    assert read_hint([b"caracal.agent_session=a,caracal.agent_session=b"]).agent_session == "a"


ENTRIES = [b"a=1", b" b=2;p ", b"caracal.hop=1", b" Caracal.x=1", b"caracal%2ehop=1", b"", b" "]
ENTRIES += [b"junk", b"caracal.agent_session = s ;q", b"xcaracal.y=1", b"caracal=1", b"\xff=1"]
ENTRY = st.sampled_from(ENTRIES)


@given(st.lists(st.lists(ENTRY).map(b",".join)))
def test_foreign_baggage_keeps_the_others_as_sent(values: list[bytes]) -> None:
    kept = foreign_baggage(values)
    sent = [entry for value in values for entry in value.split(b",")]
    ours = (b"caracal.", b"caracal%2e")
    expected = [e for e in sent if e.strip() and not e.strip().lower().startswith(ours)]
    assert kept == (b",".join(expected) or None)
    assert read_hint([kept or b""]) == Hint()


IDS = st.none() | st.from_regex(r"[A-Za-z0-9_.\-:]{1,128}", fullmatch=True)
HINTS = st.builds(Hint, IDS, IDS, IDS, st.none() | st.integers(0, 32))


@given(HINTS)
def test_a_hint_that_is_written_is_read(hint: Hint) -> None:
    assert read_hint([written_hint(hint)]) == hint


def test_the_next_call_stays_in_its_trace() -> None:
    given = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    following = continued(given)
    assert kept_traceparent([following]) == following != given
    assert (following[:36], following[-3:]) == (given[:36], b"-01")
