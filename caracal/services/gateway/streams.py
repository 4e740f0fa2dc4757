"""Calls under way, by the anchors they hang on: what ends one ends them, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from caracal.events.base import Fact
from caracal.services.gateway.view import GatewayView, touched_by

REVOKED = b"x-caracal-revoked"
STALE = b"x-caracal-stale"
STOPPED = b""
"""The process stops: the connection is cut, no trailer says that authority has ended."""


class Stream:
    """One call under way. ``ended`` names the trailer that says why it was cut."""

    __slots__ = ("_close", "anchors", "ended")

    def __init__(self, anchors: frozenset[str]) -> None:
        self.anchors = anchors
        self.ended: bytes | None = None
        self._close: Callable[[], object] | None = None

    def on_end(self, close: Callable[[], object]) -> None:
        """Say how a pending read of the upstream is broken off."""
        self._close = close
        if self.ended is not None:
            close()

    def end(self, why: bytes) -> None:
        """Let not one more byte pass."""
        if self.ended is None:
            self.ended = why
            if self._close is not None:
                self._close()


class Streams:
    """All calls under way in this process."""

    def __init__(self, view: GatewayView) -> None:
        self._view = view
        self._by_anchor: dict[str, set[Stream]] = {}
        self._all: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._all)

    @contextmanager
    def under_way(self, anchors: Iterable[str]) -> Iterator[Stream]:
        """Follow a call's anchors for as long as the context lasts; first look included."""
        stream = Stream(frozenset(anchors))
        for anchor in stream.anchors:
            self._by_anchor.setdefault(anchor, set()).add(stream)
        self._all.add(stream)
        # Registered first, looked at second: no revocation falls between.
        if self._view.revoked(stream.anchors):
            stream.end(REVOKED)
        try:
            yield stream
        finally:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._all.discard(stream)
        for anchor in stream.anchors:
            others = self._by_anchor[anchor]
            others.discard(stream)
            if not others:
                del self._by_anchor[anchor]

    def heard(self, fact: Fact) -> None:
        """End the calls that hang on what a fact has ended; the view holds it already."""
        for anchor in touched_by(fact) & self._by_anchor.keys():
            if self._view.revoked((anchor,)):
                for stream in tuple(self._by_anchor[anchor]):
                    stream.end(REVOKED)

    def look_again(self) -> None:
        """Look at every call: the view was taken anew."""
        for stream in tuple(self._all):
            if self._view.revoked(stream.anchors):
                stream.end(REVOKED)

    def end_all(self, why: bytes) -> None:
        """End every call: the view is stale, or the process stops."""
        for stream in tuple(self._all):
            stream.end(why)
