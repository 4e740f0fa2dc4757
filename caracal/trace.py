"""W3C Trace Context and Baggage: what agents send and the Gateway reads (its contract, §3, §7)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_to_bytes

from caracal.ids import ID_PATTERN

MAX_HOP = 32
_MAX_BAGGAGE = 8192  # bytes that a platform must at least propagate (W3C Baggage, section 3.3.2)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_ZERO = "0" * 32
_HOP = re.compile(r"[0-9]{1,2}")


def kept_traceparent(values: Sequence[bytes]) -> bytes | None:
    """Return the one well-formed ``traceparent`` of a request, else ``None``."""
    if len(values) == 1 and _TRACEPARENT.fullmatch(values[0]):
        return values[0]
    return None


def new_traceparent(request_id: str) -> bytes:
    """Return a ``traceparent`` whose trace id follows from ``request_id``; sampled."""
    trace = request_id.replace("-", "").lower() if _UUID.fullmatch(request_id) else _ZERO
    if trace == _ZERO:
        trace = hashlib.sha256(request_id.encode()).hexdigest()[:32]
    return f"00-{trace}-{_span()}-01".encode()


def continued(traceparent: bytes) -> bytes:
    """Return the ``traceparent`` of the next call in a well-formed one's trace."""
    return traceparent[:36] + _span().encode() + traceparent[52:]


def _span() -> str:
    return f"{secrets.randbelow((1 << 64) - 1) + 1:016x}"


@dataclass(frozen=True, slots=True)
class Hint:
    """What an agent says of itself in ``baggage``: never authority."""

    agent_session: str | None = None
    delegation_edge: str | None = None
    parent_edge: str | None = None
    hop: int | None = None


NO_HINT = Hint()


def written_hint(hint: Hint) -> bytes:
    """Return the ``baggage`` that :func:`read_hint` reads, values percent-encoded; maybe empty."""
    entries = {
        "agent_session": hint.agent_session,
        "delegation_edge": hint.delegation_edge,
        "parent_edge": hint.parent_edge,
        "hop": None if hint.hop is None else str(hint.hop),
    }
    written = [f"caracal.{name}={quote(v, safe='')}" for name, v in entries.items() if v]
    return ",".join(written).encode()


def read_hint(values: Iterable[bytes]) -> Hint:
    """Return the ``caracal.`` entries of ``baggage``; what is malformed or repeated is left out."""
    joined = b",".join(values)
    if b"caracal." not in joined or len(joined) > _MAX_BAGGAGE or not joined.isascii():
        return NO_HINT
    entries: dict[str, str] = {}
    for entry in joined.decode("ascii").split(","):
        name, equals, value = entry.partition(";")[0].partition("=")
        if equals and name.strip().startswith("caracal."):
            entries.setdefault(name.strip()[8:], unquote(value.strip()))
    return Hint(
        agent_session=_id(entries.get("agent_session")),
        delegation_edge=_id(entries.get("delegation_edge")),
        parent_edge=_id(entries.get("parent_edge")),
        hop=_hop(entries.get("hop")),
    )


def foreign_baggage(values: Iterable[bytes]) -> bytes | None:
    """Return ``baggage`` without its ``caracal.`` entries, the others as sent."""
    entries = [entry for value in values for entry in value.split(b",")]
    kept = [entry for entry in entries if entry.strip() and not _is_ours(entry)]
    return b",".join(kept) or None


def _is_ours(entry: bytes) -> bool:
    name = unquote_to_bytes(entry.partition(b"=")[0].strip()).lower()
    return name.startswith(b"caracal.")


def _id(value: str | None) -> str | None:
    return value if value and ID_PATTERN.fullmatch(value) else None


def _hop(value: str | None) -> int | None:
    if value is None or not _HOP.fullmatch(value) or int(value) > MAX_HOP:
        return None
    return int(value)
