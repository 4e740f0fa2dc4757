"""What was read of the database is kept until it changes, and not if it may have meanwhile."""

from __future__ import annotations

from caracal.services.remembered import Remembered


def test_what_was_read_is_kept_until_it_changes() -> None:
    known: Remembered[str, int] = Remembered(2)
    known.keep("a", 1, known.changes)
    assert known.get("a") == 1
    known.changed("b")
    assert known.get("a") == 1
    known.changed("a")
    assert known.get("a") is None


def test_what_may_have_changed_since_it_was_read_is_not_kept() -> None:
    known: Remembered[str, int] = Remembered(2)
    for tell in (lambda: known.changed("another"), known.forget_all):
        before = known.changes
        tell()
        known.keep("a", 1, before)
        assert known.get("a") is None


def test_the_least_used_goes_first() -> None:
    known: Remembered[str, int] = Remembered(2)
    for key in "ab":
        known.keep(key, 1, known.changes)
    assert known.get("a")
    known.keep("c", 1, known.changes)
    assert [known.get(key) for key in "abc"] == [1, None, 1]
    known.forget_all()
    assert [known.get(key) for key in "abc"] == [None] * 3
