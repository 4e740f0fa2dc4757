"""Prefix resources: the segment rule, the longest wins, dots never match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.resource_match import MAX_IDENTIFIER, covers, match


@pytest.mark.parametrize(
    ("prefix", "requested", "yes"),
    [
        ("https://api.example/v1", "https://api.example/v1", True),
        ("https://api.example/v1", "https://api.example/v1/users", True),
        ("https://api.example/v1", "https://api.example/v10", False),
        ("https://api.example/v1", "https://api.example/v1?x", False),
        ("https://api.example/v1", "https://api.example/v", False),
        ("https://api.example/v1/", "https://api.example/v1/users", True),
        ("https://api.example/v1/", "https://api.example/v1", False),
        ("urn:files:", "urn:files:a", True),
        ("urn:files", "urn:files:a", False),
        ("urn:files", "urn:files/a", True),
        ("resource://a", "resource://a/b/c", True),
        ("resource://a", "resource://a/../b", False),
        ("resource://a", "resource://a/./b", False),
        ("resource://a", "resource://a/..", False),
        ("resource://a", "resource://a/b/..", False),
        ("resource://a", "resource://a/%2e%2E/b", False),
        ("resource://a", "resource://a/.%2e/b", False),
        ("urn:files:", "urn:files:..", False),
        ("resource://a", "resource://a/..b/...", True),
        ("resource://a", "resource://a/", True),
        ("", "resource://a", False),
        ("", "", True),
    ],
)
def test_covers(prefix: str, requested: str, yes: bool) -> None:
    assert covers(prefix, requested) is yes
    if prefix != requested and requested:
        assert (match(requested, {prefix}, {prefix}) == prefix) is yes


def test_exact_wins_then_the_longest_prefix() -> None:
    prefixes = {"r:", "r:a", "r:a/b"}
    exact = prefixes | {"r:a/b/c", "r:x/y"}
    assert match("r:a/b/c", exact, prefixes) == "r:a/b/c"
    assert match("r:a/b/d", exact, prefixes) == "r:a/b"
    assert match("r:a/bb", exact, prefixes) == "r:a"
    assert match("r:ab", exact, prefixes) == "r:"
    assert match("r:x/y/z", exact, prefixes) == "r:"
    assert match("s:a", exact, prefixes) is None
    assert match("", exact, prefixes) is None


def test_registered_dots_match_exactly_only() -> None:
    assert match("r:a/../b", {"r:a/../b"}, set()) == "r:a/../b"
    assert match("r:a/../b/c", {"r:a/../b"}, {"r:a/../b"}) is None


class Counted(set[str]):
    """Identifiers that count the characters they are asked for."""

    def __init__(self, *identifiers: str) -> None:
        super().__init__(identifiers)
        self.characters = 0

    def __contains__(self, identifier: object) -> bool:
        self.characters += len(str(identifier))
        return super().__contains__(identifier)


def test_a_long_request_costs_no_square() -> None:
    longest = "r:".ljust(MAX_IDENTIFIER, "/")
    prefixes = Counted(longest)
    assert match(longest + "/" * 60_000, set(), prefixes) == longest
    assert match("x" + "/" * 60_000, set(), prefixes) is None
    assert prefixes.characters < MAX_IDENTIFIER**2


IDENTIFIER = st.text("ab/:.%2e", max_size=12)


@given(IDENTIFIER, st.sets(IDENTIFIER, max_size=8))
def test_match_is_the_longest_identifier_that_covers(requested: str, prefixes: set[str]) -> None:
    covering = [prefix for prefix in prefixes if covers(prefix, requested)]
    assert match(requested, prefixes, prefixes) == max(covering, key=len, default=None)


@given(IDENTIFIER, IDENTIFIER)
def test_what_a_prefix_covers_stays_inside_its_segment(prefix: str, rest: str) -> None:
    if rest and covers(prefix, prefix + rest):
        assert prefix.endswith(("/", ":")) or rest.startswith("/")
        assert not {".", ".."} & set((prefix + rest).replace(":", "/").split("/"))
