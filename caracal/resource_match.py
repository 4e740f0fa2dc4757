"""Which resource an identifier names: the exact one, else the longest prefix at a segment end.

Shared by the STS, which decides, and the Gateway, which routes (STS contract, section 8).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

MAX_IDENTIFIER = 512
"""Characters of a registered identifier; without a limit a long request costs its square."""

_SEGMENT_ENDS = re.compile("[/:]")


def match(requested: str, exact: Container[str], prefixes: Container[str]) -> str | None:
    """Return the registered identifier that ``requested`` names, or ``None``.

    Costs one lookup per segment that a prefix may end at, however many resources there are.

    Args:
        requested: identifier as the caller sent it.
        exact: identifiers of all resources of the zone.
        prefixes: those of them with ``prefix_match``.
    """
    if requested in exact:
        return requested
    return next((prefix for prefix in prefixes_of(requested) if prefix in prefixes), None)


def prefixes_of(requested: str) -> Iterator[str]:
    """Return the shorter identifiers that may name ``requested`` too, the longest first."""
    if _has_dot_segment(requested):
        return
    for end in reversed(range(1, min(len(requested), MAX_IDENTIFIER + 1))):
        if _segment_ends(requested, end):
            yield requested[:end]


def covers(prefix: str, requested: str) -> bool:
    """Whether the prefix resource ``prefix`` covers ``requested``, itself included."""
    if prefix == requested:
        return True
    return bool(
        prefix
        and requested.startswith(prefix)
        and _segment_ends(requested, len(prefix))
        and not _has_dot_segment(requested)
    )


def _segment_ends(text: str, end: int) -> bool:
    return text[end - 1] in "/:" or text[end] == "/"


def _has_dot_segment(text: str) -> bool:
    """Also in its encoded spelling: who uses the identifier as a URL may decode it."""
    if "." not in text and "%" not in text:
        return False
    plain = text.lower().replace("%2e", ".")
    return not {".", ".."}.isdisjoint(_SEGMENT_ENDS.split(plain))
