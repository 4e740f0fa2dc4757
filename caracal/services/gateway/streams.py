"""Calls under way, by the anchors they hang on: what ends one ends them, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from caracal.errors import CaracalError, Unavailable
from caracal.events.base import Fact
from caracal.services.consistency import state_stale
from caracal.services.gateway.refusals import ClientGone, session_revoked
from caracal.services.gateway.view import GatewayView, touched_by

REVOKED = "x-caracal-revoked"
STALE = "x-caracal-stale"
STOPPED = "process stops"
GONE = "client gone"


class Ended(Exception):
    """The call may not go on; ``why`` is one of the four above."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def refusal(self) -> CaracalError:
        """Return what a client is told that has seen nothing of an answer yet.

        Raises:
            ClientGone: nobody is left to be told.
        """
        if self.why == GONE:
            raise ClientGone
        if self.why == REVOKED:
            return session_revoked()
        return (
            state_stale() if self.why == STALE else Unavailable("unavailable", "the gateway stops")
        )


class Stream:
    """One call under way, and what it waits for: a context that is left when the call is ended.

    Whatever its block awaits at that moment is broken off, be it the STS, the upstream, or a
    client that does not read: so nothing is sent any more, in either direction.
    """

    __slots__ = ("_streams", "_task", "anchors", "ended", "endless")

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._task: asyncio.Task[object] | None = None
        self.anchors: set[str] = set()
        self.ended: str | None = None
        self.endless = False
        """It would never end by itself: an event stream, a WebSocket."""

    def __enter__(self) -> None:
        if self.ended is not None:
            raise Ended(self.ended)
        self._task = asyncio.current_task()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self.ended is None or isinstance(error, Ended):
            return
        if task is not None and task.uncancel() == 0:  # else someone cancels the task itself
            raise Ended(self.ended) from error

    def end(self, why: str) -> None:
        """Let not one more byte pass."""
        if self.ended is None:
            self.ended = why
            if self._task is not None:
                self._task.cancel()

    def hang_on(self, anchors: Iterable[str]) -> None:
        """Let the end of one of ``anchors`` be the call's.

        Raises:
            Ended: one of them has ended.
        """
        self._streams.follow(self, anchors)
        # Registered first, looked at second: no revocation falls between.
        if self._streams.view.barred(anchors):
            self.ended = REVOKED
            raise Ended(REVOKED)


class Streams:
    """All calls under way in this process."""

    def __init__(self, view: GatewayView) -> None:
        self.view = view
        self._by_anchor: dict[str, set[Stream]] = {}
        self._all: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._all)

    @contextmanager
    def under_way(self) -> Iterator[Stream]:
        """Follow a call for as long as the context lasts."""
        stream = Stream(self)
        self._all.add(stream)
        try:
            yield stream
        finally:
            self._forget(stream)

    def follow(self, stream: Stream, anchors: Iterable[str]) -> None:
        """Note that ``stream`` hangs on ``anchors``."""
        for anchor in anchors:
            self._by_anchor.setdefault(anchor, set()).add(stream)
        stream.anchors.update(anchors)

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
            if self.view.barred((anchor,)):
                self._end(self._by_anchor[anchor], REVOKED)

    def look_again(self) -> None:
        """Look at every call: the view was taken anew."""
        self._end((one for one in self._all if self.view.barred(one.anchors)), REVOKED)

    def end_all(self, why: str) -> None:
        """End every call: the view is stale, or the process stops."""
        self._end(self._all, why)

    def end_endless(self, why: str) -> None:
        """End the calls that would not end by themselves."""
        self._end((one for one in self._all if one.endless), why)

    def _end(self, streams: Iterable[Stream], why: str) -> None:
        for stream in tuple(streams):
            stream.end(why)
