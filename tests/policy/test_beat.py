"""The board between parent and processes."""

from __future__ import annotations

import os
import time

from hypothesis import given
from hypothesis import strategies as st

from caracal.policy import beat
from caracal.policy.beat import MAX_NAMES, MAX_SLOTS, Board, become, label, mine

SHA = "ab" * 32


def test_an_evaluation_is_seen_while_it_lasts() -> None:
    board = Board()
    one = board.beat(0)
    assert board.evaluation(0) is None
    before = time.monotonic_ns()
    started = one.begin(label("zone", SHA))
    seen = board.evaluation(0)
    assert seen is not None
    assert (seen.started, seen.zone_id, seen.manifest_sha256) == (started, "zone", SHA)
    assert before <= started <= time.monotonic_ns()
    one.end()
    assert board.evaluation(0) is None


def test_a_slot_is_one_process() -> None:
    board = Board()
    beats = [board.beat(slot) for slot in range(MAX_SLOTS)]
    for number, each in enumerate(beats):
        each.begin(label(f"zone {number}", SHA))
    seen = [board.evaluation(slot) for slot in range(MAX_SLOTS)]
    assert [one.zone_id for one in seen if one] == [f"zone {n}" for n in range(MAX_SLOTS)]
    board.clear(3)
    assert board.evaluation(3) is None
    assert board.evaluation(4) is not None


def test_a_child_reads_what_the_parent_writes_and_the_other_way_round() -> None:
    board = Board()
    child_beat = board.beat(1)
    assert child_beat.apart() == frozenset()
    board.publish([SHA], lost=1)
    pid = os.fork()
    if pid == 0:
        child_beat.begin(label("zone", SHA))
        os._exit(0 if child_beat.apart() == {SHA} and child_beat.lost == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    seen = board.evaluation(1)  # it outlives who wrote it
    assert seen is not None
    assert seen.manifest_sha256 == SHA


@given(st.lists(st.uuids().map(str), max_size=MAX_NAMES, unique=True))
def test_the_list_is_what_was_published(names: list[str]) -> None:
    board = Board()
    reader = board.beat(0)
    board.publish([SHA] * MAX_NAMES, lost=0)
    assert reader.apart() == {SHA}
    board.publish(names, lost=7)
    assert reader.apart() == frozenset(names)
    assert reader.lost == 7


def test_a_list_that_is_being_written_is_read_again() -> None:
    board = Board()
    reader = board.beat(0)
    board.header[0] += 1  # the writer stands in the middle
    assert reader.apart() == frozenset()
    board.header[0] += 1
    board.publish(["a"], lost=0)
    assert reader.apart() == {"a"}


def test_a_process_without_a_parent_that_watches_has_a_beat_of_its_own() -> None:
    kept = list(beat._mine)
    try:
        beat._mine.clear()
        assert mine().apart() == frozenset()
        own = Board().beat(2)
        become(own)
        assert mine() is own
    finally:
        beat._mine[:] = kept
