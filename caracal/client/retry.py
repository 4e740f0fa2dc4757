"""Whether to try again, and how long to wait before."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_SECONDS, MOST_SECONDS = 0.25, 5.0
RETRY_AFTER_CAP = 30.0
_RETRYABLE = frozenset({408, 425, 429})
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{0,20})?|[+-]?\.\d{1,20}", re.ASCII)
# RFC 9110, section 5.6.7: all three forms begin with the day's name.
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[A-Za-z0-9 ,:+-]{1,60}")


def retryable(status: int) -> bool:
    """Tell whether the same request may succeed later: 408, 425, 429 and 500-599."""
    return status in _RETRYABLE or 500 <= status <= 599


def backoff(attempt: int, chance: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after attempt 0, 1, ...: half fixed, half by chance.

    125-250 ms, 250-500 ms, ... at most 2.5-5 s.
    """
    base = min(FIRST_SECONDS * (1 << min(attempt, 10)), MOST_SECONDS)
    return base / 2 + chance() * base / 2


def retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, 0-30; None when it says nothing.

    RFC 9110, section 10.2.3: seconds (decimals are tolerated, less than nothing is 0) or a date.
    """
    if text is None:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    moment = http_date(text)
    return None if moment is None else _bounded((moment - now).total_seconds())


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), RETRY_AFTER_CAP)


def http_date(text: str) -> datetime | None:
    """Return the moment that a ``Date`` or ``Retry-After`` names; None: it is no date."""
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
