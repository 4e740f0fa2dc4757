"""Who a call says it is made by: ``traceparent`` and ``baggage``, in and out.

A hint, never authority: what an agent may do stands in its mandate. The place of the running code
in the tree of agents is kept in a context variable, so each task has its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from caracal.errors import CaracalError
from caracal.trace import (
    MAX_HOP,
    NO_HINT,
    Hint,
    continued,
    foreign_baggage,
    kept_traceparent,
    new_traceparent,
    read_hint,
    written_hint,
)

HOP_LIMIT_EXCEEDED = "hop_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the running code stands.

    Attributes:
        hint: agent session, edges and hop, as ``baggage`` names them.
        traceparent: of the trace that it belongs to; None before the first call.
        owner: zone and application whose agent ``hint`` names, when it was spawned here; None
            when it came with a request: someone else's agent is no parent of ours.
        held_edge: the edge that leads to that agent.
    """

    hint: Hint = NO_HINT
    traceparent: bytes | None = None
    owner: tuple[str, str] | None = None
    held_edge: str | None = None


_NOWHERE = Place()
_place: ContextVar[Place] = ContextVar("caracal_place", default=_NOWHERE)


def current() -> Place:
    """Return the place of the running code."""
    return _place.get()


def stand(place: Place) -> None:
    """Stand at ``place`` from now on, in this context."""
    _place.set(place)


@contextmanager
def standing(place: Place) -> Iterator[Place]:
    """Stand at ``place`` for as long as the context lasts."""
    before = _place.get()
    _place.set(place)
    try:
        yield place
    finally:
        _place.set(before)  # no reset(): a generator may be left in another context


def new_trace() -> bytes:
    """Return the ``traceparent`` of a trace that begins here."""
    return new_traceparent(secrets.token_hex(16))


def envelope_headers(sent: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, str]:
    """Return ``traceparent`` and ``baggage`` of a call made from here.

    Args:
        sent: headers that the call has already: its well-formed ``traceparent`` and what its
            ``baggage`` says about other things are kept.

    Raises:
        CaracalError: ``hop_limit_exceeded``, the call would be the 33rd in a row.
    """
    place, given = current(), list(sent)
    if (place.hint.hop or 0) > MAX_HOP:
        raise CaracalError(HOP_LIMIT_EXCEEDED, f"more than {MAX_HOP} hops: agents in a circle?")
    trace = kept_traceparent(_values(given, b"traceparent")) or continued(
        place.traceparent or new_trace()
    )
    entries = (written_hint(place.hint), foreign_baggage(_values(given, b"baggage")))
    headers = {"traceparent": trace.decode()}
    if baggage := b",".join(filter(None, entries)):
        headers["baggage"] = baggage.decode("ascii", errors="ignore")
    return headers


def restored(headers: Iterable[tuple[bytes, bytes]]) -> Place:
    """Return the place that a request's headers tell of, one hop further."""
    given = list(headers)
    hint = read_hint(_values(given, b"baggage"))
    if hint.agent_session is not None:
        hint = replace(hint, hop=(hint.hop or 0) + 1)
    return Place(hint, kept_traceparent(_values(given, b"traceparent")) or new_trace())


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]
