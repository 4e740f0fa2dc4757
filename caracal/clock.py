"""The only place that asks what time it is. All times are aware UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, UTC, microseconds."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Write ``moment`` as RFC 3339 in UTC with microseconds and ``Z``."""
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}Z"


def parse(text: str) -> datetime:
    """Read an RFC 3339 time with ``Z`` or an offset.

    Raises:
        ValueError: not such a time, or one without an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("time without offset")
    return moment.astimezone(UTC)
