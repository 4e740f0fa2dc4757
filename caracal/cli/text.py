"""Values as people read them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from caracal import clock

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
# DEL and C1, which JSON leaves as they are; marks that turn the direction of what follows.
_STEERS = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LONG_AGO = timedelta(days=60)


def printable(text: str) -> str:
    """Return ``text`` on one line: what could steer a terminal is written out."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(map(_written_out, line))


def _written_out(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def cell(member: str, value: Any, *, relative: bool) -> str:
    """Return a member's value for a table.

    Args:
        relative: write times as distance from now; else in full.
    """
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return printable(", ".join(value))
    if isinstance(value, dict | list):
        return printable(_flat(value) or json.dumps(value, ensure_ascii=False))
    if member.endswith("_at") and isinstance(value, str):
        return time(value, relative=relative and member != "occurred_at")  # evidence is exact
    return printable(str(value))


def _flat(value: Any) -> str | None:
    """Return ``a=1, b=2`` for an object without inner ones, and for a list of such."""
    if isinstance(value, list):
        parts = [_flat(item) if isinstance(item, dict) else None for item in value]
        return None if None in parts else "; ".join(filter(None, parts))
    if any(isinstance(inner, dict | list) for inner in value.values()):
        return None
    return ", ".join(f"{name}={_plain(inner)}" for name, inner in value.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def time(text: str, *, relative: bool) -> str:
    """Return a time as ``3 min ago``, ``in 2 h``, or in full and UTC."""
    try:
        moment = clock.parse(text)
    except (ValueError, OverflowError):
        return printable(text)
    distance = clock.now() - moment
    if not relative or abs(distance) > _LONG_AGO:
        return f"{moment:%Y-%m-%d %H:%M:%S}Z"
    return _distance(int(distance.total_seconds()))


def _distance(seconds: int) -> str:
    if not seconds:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Return how long that is, in its greatest unit: ``3 min``."""
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{int(seconds) // size} {unit}"
    return "0 s"


def clock_time(text: str) -> str:
    """Return a time of a line that is read as it happens: hours to milliseconds, local."""
    try:
        moment: datetime = clock.parse(text).astimezone()
    except (ValueError, OverflowError):
        return printable(text)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"


def title(member: str) -> str:
    """Return the heading of a member's column."""
    return member.removesuffix("_at").removesuffix("_json").replace("_", " ")


def json_bytes(value: Any, *, indent: int | None = 2) -> bytes:
    """Return ``value`` as a JSON document.

    Half a surrogate pair stays the escape it came as; what could steer a terminal becomes one.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _STEERS.sub(_json_escape, text).encode("utf-8", "backslashreplace")


def _json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
