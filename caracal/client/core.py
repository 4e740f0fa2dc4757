"""The client without I/O: builds requests, judges answers, decides retries and their delays.

Each method is a *flow*: a generator that yields attempts and is sent what became of them. The
two drivers (``sync.py``, ``asynchronous.py``) only carry them out, so both clients behave alike,
and tests feed a flow by hand.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

from caracal import clock
from caracal.client.answer import Answer, Outcome, items_of, object_of, refusal_of, unusable
from caracal.client.call import Base, Call, Listing, Page, content, form, with_query
from caracal.client.dpop import Prover, challenge_of
from caracal.client.errors import (
    ADMIN_REQUEST_FAILED,
    ADMIN_REQUEST_TIMEOUT,
    INVALID_RESPONSE,
    AdminApiError,
    AdminTransportError,
)
from caracal.client.link import cursor_of, next_link, same_origin_target
from caracal.client.retry import backoff, retry_after, retryable
from caracal.errors import CaracalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to send, once ``after`` seconds have passed."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)
    reads: bool
    """Whether the body of a success is wanted."""
    after: float


_FORM = "application/x-www-form-urlencoded"
Flow = Generator[Attempt, Outcome, T]


class Configured(Protocol):
    """What a core must be told."""

    @property
    def timeout_ms(self) -> int:
        """Return the limit of each attempt, in milliseconds."""

    def at(self, base: Base) -> tuple[str, str | None]:
        """Return URL and bearer of a base."""

    def retries_of(self, method: str) -> int:
        """Return how often a request of this method may be sent again."""

    @property
    def prover(self) -> Prover | None:
        """Return what shows the server whose key a token is bound to; None: no token is."""

    def htu(self, url: str) -> str:
        """Return a URL as the server itself calls it (RFC 9449, section 4.2)."""


class Core:
    """What both clients do alike, and what they have learnt from the answers so far."""

    def __init__(self, options: Configured, chance: Callable[[], float] = random.random) -> None:
        self.options = options
        self.last_position: int | None = None
        self.last_request_id: str | None = None
        self._min_position = 0
        self._chance = chance
        self._learning = threading.Lock()

    def answer(self, call: Call[T]) -> Flow[T]:
        """Carry out a call that answers an object, or nothing."""
        answer = yield from self._exchange(call)
        return object_of(answer, call)

    def page(self, listing: Listing[T]) -> Flow[Page[T]]:
        """Fetch one page."""
        chunk = yield from self.chunk(listing.call)
        return chunk.page

    def all(self, listing: Listing[T]) -> Flow[list[T]]:
        """Fetch one page, or all when the list follows them."""
        items: list[T] = []
        for flow in self.pages(listing):
            items += yield from flow
            if not listing.follows:
                break
        return items

    def pages(self, listing: Listing[T]) -> Iterator[Flow[list[T]]]:
        """Give a flow for each page; the next one is known once a flow has been carried out."""
        walk: _Walk[T] = _Walk(self, listing.call)
        while walk.call is not None:
            yield walk.step()

    def _exchange(self, call: Call[Any]) -> Flow[Answer]:
        """Send, and send again as often as that may help.

        Raises:
            AdminApiError: the last answer was no success.
            AdminTransportError: there was no last answer.
        """
        after = 0.0
        for attempt in count():
            outcome = yield from self._proven(call, after)
            if isinstance(outcome, Answer):
                self._learn(outcome)
                if outcome.success:
                    return outcome
            again = attempt < self.options.retries_of(call.method)
            delay = self._delay(attempt, outcome) if again else None
            if delay is None:
                raise self._error(outcome)
            after = delay
        raise AssertionError  # count() has no end

    def _proven(self, call: Call[Any], after: float) -> Flow[Outcome]:
        """Send; again, at once, when the server wants another proof (RFC 9449, sections 8 and 9).

        What was refused for its proof was not carried out, so this is no retry. For the nonce, and
        for the time, a server is believed once: who is not satisfied then never will be.
        """
        prover = self.options.prover
        if prover is None:
            return (yield self._attempt(call, after))
        url, _ = self.options.at(call.base)
        believed: set[str | None] = set()
        while True:
            used = prover.known(url)
            outcome = yield self._attempt(call, after)
            code = _learnt(prover, url, outcome)
            if code in believed or not prover.can_do_better(used, url, code):
                return outcome
            believed.add(code)
            after = 0.0

    def _attempt(self, call: Call[Any], after: float) -> Attempt:
        url, token = self.options.at(call.base)
        headers = {"Accept": "application/json", **call.headers}
        headers |= self._shown(call.method, url + call.target, token)
        if call.body is not None:
            headers["Content-Type"] = _FORM if call.form else "application/json"
        if call.method == "GET" and self._min_position:
            headers["Caracal-Min-Position"] = str(self._min_position)
        return Attempt(
            call.method,
            url + call.target,
            headers,
            _written(call),
            reads=not call.nothing,
            after=after,
        )

    def _shown(self, method: str, url: str, token: str | None) -> dict[str, str]:
        if self.options.prover is not None:
            return self.options.prover.shown(method, url, token, self.options.htu(url))
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    def _delay(self, attempt: int, outcome: Outcome) -> float | None:
        """Return the seconds until the next attempt; None when it cannot help."""
        asked = None
        if isinstance(outcome, Answer):
            if not retryable(outcome.status):
                return None
            asked = retry_after(outcome.headers.get("retry-after"), clock.now())
        return backoff(attempt, self._chance) if asked is None else asked

    def _learn(self, answer: Answer) -> None:
        """Remember positions: after a pending answer, later reads wait for its position."""
        position = answer.position
        pending = answer.headers.get("caracal-consistency", "").strip().lower() == "pending"
        with self._learning:
            self.last_request_id = answer.headers.get("x-request-id", self.last_request_id)
            if position is not None:
                self.last_position = position
                if pending:
                    self._min_position = max(self._min_position, position)

    def _error(self, outcome: Outcome) -> CaracalError:
        if isinstance(outcome, Answer):
            return refusal_of(outcome)
        if outcome.timed_out:
            limit = f"no whole answer within {self.options.timeout_ms} ms"
            error = AdminTransportError(ADMIN_REQUEST_TIMEOUT, limit)
        else:
            error = AdminTransportError(ADMIN_REQUEST_FAILED, _reason(outcome.error))
        error.__cause__ = outcome.error
        return error

    def chunk(self, call: Call[Any]) -> Flow[_Chunk[Any]]:
        """Fetch one page, and say where the next one is."""
        answer = yield from self._exchange(call)
        items, given_cursor = items_of(answer)
        link = next_link(answer.headers.get("link"))
        if link is not None:
            following = self._following(call, answer, link)
            return _Chunk(Page(items, cursor_of(following.target)), following)
        if given_cursor is not None:
            return _Chunk(Page(items, given_cursor), _at_cursor(call, given_cursor))
        return _Chunk(Page(items, None), None)

    def _following(self, call: Call[Any], answer: Answer, link: str) -> Call[Any]:
        url, _ = self.options.at(call.base)
        try:
            return replace(call, target=same_origin_target(url, url + call.target, link))
        except ValueError as error:
            raise unusable(answer, str(error)) from None


@dataclass(frozen=True, slots=True)
class _Chunk(Generic[T]):
    page: Page[T]
    following: Call[Any] | None


class _Walk(Generic[T]):
    """A walk over a list's pages; ``call`` asks for the next one, None after the last."""

    def __init__(self, core: Core, call: Call[Any]) -> None:
        self.call: Call[Any] | None = call
        self._core = core
        self._asked: set[str] = set()

    def step(self) -> Flow[list[T]]:
        assert self.call is not None
        self._asked.add(self.call.target)
        chunk: _Chunk[T] = yield from self._core.chunk(self.call)
        self.call = chunk.following
        if self.call is not None and self.call.target in self._asked:
            raise AdminApiError(200, INVALID_RESPONSE, {}, description="the pages go in a circle")
        return chunk.page.items


def _learnt(prover: Prover, url: str, outcome: Outcome) -> str | None:
    """Let the prover learn from an answer; return why it refuses who sends the request."""
    if not isinstance(outcome, Answer):
        return None
    prover.learn(url, outcome.headers)
    prover.learn_time(outcome.headers)
    if outcome.status not in (400, 401):
        return None
    return challenge_of(outcome.headers) or refusal_of(outcome).code


def _written(call: Call[Any]) -> bytes | None:
    if call.body is None:
        return None
    body = call.body if call.fresh is None else {**call.body, **call.fresh()}
    return form(body) if call.form else content(body)


def _at_cursor(call: Call[Any], cursor: str) -> Call[Any]:
    parts = urlsplit(call.target)
    pairs = [pair for pair in parse_qsl(parts.query) if pair[0] != "cursor"]
    return replace(call, target=with_query(parts.path, [*pairs, ("cursor", cursor)]))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
