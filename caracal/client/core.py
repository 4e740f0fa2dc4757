"""The client without I/O: builds requests, judges answers, decides retries and their delays.

Each method is a *flow*: a generator that yields attempts and is sent what became of them. The
two drivers (``sync.py``, ``asynchronous.py``) only carry them out, so both clients behave alike,
and tests feed a flow by hand.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Generic, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import orjson

from caracal import clock
from caracal.client.call import Base, Call, Listing, Page, content, with_query
from caracal.client.errors import (
    ADMIN_REQUEST_FAILED,
    ADMIN_REQUEST_TIMEOUT,
    COORDINATOR_TOKEN_NOT_CONFIGURED,
    COORDINATOR_URL_NOT_CONFIGURED,
    INVALID_RESPONSE,
    REQUEST_FAILED,
    AdminApiError,
    AdminTransportError,
)
from caracal.client.link import cursor_of, next_link, origin, printable, same_origin_target
from caracal.client.retry import backoff, retry_after, retryable
from caracal.errors import CaracalError

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 << 20
"""A longer body is not read to its end, and is no usable answer."""
_POSITION = re.compile(r"[0-9]{1,19}", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``headers`` are looked up in lower case; ``complete``: the body is whole."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def success(self) -> bool:
        """Tell whether the status is 2xx."""
        return 200 <= self.status <= 299


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing came back."""

    error: Exception
    timed_out: bool


Outcome = Answer | Failed
Flow = Generator[Attempt, Outcome, T]


@dataclass(frozen=True)
class Options:
    """What a client was made with; checked once.

    Raises:
        ValueError: a URL, a token or a number that cannot work.
    """

    api_url: str
    admin_token: str = field(repr=False)
    coordinator_url: str | None = None
    coordinator_token: str | None = field(default=None, repr=False)
    timeout_ms: int = 30_000
    retries: int = 3
    retry_methods: Collection[str] | None = None

    def __post_init__(self) -> None:
        _check_url("api_url", self.api_url)
        _check_token("admin_token", self.admin_token)
        if self.coordinator_url:
            _check_url("coordinator_url", self.coordinator_url)
        if self.coordinator_token:
            _check_token("coordinator_token", self.coordinator_token)
        if self.timeout_ms <= 0 or self.retries < 0:
            raise ValueError("timeout_ms must be positive and retries not negative")

    def at(self, base: Base) -> tuple[str, str]:
        """Return URL and token of a base.

        Raises:
            CaracalError: the Coordinator's are not configured.
        """
        if base == "api":
            return self.api_url.removesuffix("/"), self.admin_token
        if not self.coordinator_url:
            raise CaracalError(COORDINATOR_URL_NOT_CONFIGURED, "the client has no coordinator_url")
        if not self.coordinator_token:
            raise CaracalError(
                COORDINATOR_TOKEN_NOT_CONFIGURED, "the client has no coordinator_token"
            )
        return self.coordinator_url.removesuffix("/"), self.coordinator_token

    def retries_of(self, method: str) -> int:
        """Return how often a request of this method may be sent again."""
        listed = self.retry_methods is None or method in {
            name.upper() for name in self.retry_methods
        }
        return self.retries if listed else 0


class Core:
    """What both clients do alike, and what they have learnt from the answers so far."""

    def __init__(self, options: Options, chance: Callable[[], float] = random.random) -> None:
        self.options = options
        self.last_position: int | None = None
        self.last_request_id: str | None = None
        self._min_position = 0
        self._chance = chance
        self._learning = threading.Lock()

    def answer(self, call: Call[T]) -> Flow[T]:
        """Carry out a call that answers an object, or nothing."""
        answer = yield from self._exchange(call)
        return _object(answer, call)

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
            outcome = yield self._attempt(call, after)
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

    def _attempt(self, call: Call[Any], after: float) -> Attempt:
        url, token = self.options.at(call.base)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.method == "GET" and self._min_position:
            headers["Caracal-Min-Position"] = str(self._min_position)
        return Attempt(
            call.method,
            url + call.target,
            headers,
            None if call.body is None else content(call.body),
            reads=not call.nothing,
            after=after,
        )

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
        position = _position(answer)
        pending = answer.headers.get("caracal-consistency", "").strip().lower() == "pending"
        with self._learning:
            self.last_request_id = answer.headers.get("x-request-id", self.last_request_id)
            if position is not None:
                self.last_position = position
                if pending:
                    self._min_position = max(self._min_position, position)

    def _error(self, outcome: Outcome) -> CaracalError:
        if isinstance(outcome, Answer):
            return _api_error(outcome)
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
        items, given_cursor = _items(answer)
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
            raise _unusable(answer, str(error)) from None


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


def _object(answer: Answer, call: Call[T]) -> T:
    if answer.status == 204 or call.nothing:
        return cast("T", None)
    value = _value(answer)
    if not isinstance(value, dict):
        raise _unusable(answer, "an object was expected")
    return cast("T", value)


def _items(answer: Answer) -> tuple[list[Any], str | None]:
    """Return the items and, where the body itself names it, the cursor of the next page."""
    value, cursor = ([], None) if answer.status == 204 else (_value(answer), None)
    if isinstance(value, dict):  # other generations of the server
        cursor = value.get("next_cursor")
        value = value["items"] if "items" in value else value.get("rows")
    sound = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if not sound or not isinstance(cursor, str | None):
        raise _unusable(answer, "a list of objects was expected")
    return cast("list[Any]", value), cursor or None


def _value(answer: Answer) -> Any:
    """Return the JSON of a success.

    Raises:
        AdminApiError: ``invalid_response``.
    """
    try:
        if answer.complete:
            return orjson.loads(answer.body)
    except ValueError:
        pass
    raise _unusable(answer, "JSON was expected")


def _unusable(answer: Answer, description: str) -> AdminApiError:
    return _error_of(answer, INVALID_RESPONSE, _body(answer), description)


def _api_error(answer: Answer) -> AdminApiError:
    body = _body(answer)
    said = body.get("error") if isinstance(body, dict) else None
    text = body.get("error_description") if isinstance(body, dict) else None
    code = said if isinstance(said, str) and said else answer.reason or REQUEST_FAILED
    return _error_of(answer, code, body, text if isinstance(text, str) else None)


def _error_of(answer: Answer, code: str, body: object, description: str | None) -> AdminApiError:
    return AdminApiError(
        answer.status,
        code,
        body,
        description=description,
        request_id=answer.headers.get("x-request-id"),
        position=_position(answer),
    )


def _body(answer: Answer) -> object:
    """Return the parsed body, the raw text when it is no JSON, ``{}`` when it is empty."""
    if not answer.body:
        return {}
    try:
        return orjson.loads(answer.body)
    except ValueError:
        return answer.body.decode(errors="replace")


def _position(answer: Answer) -> int | None:
    text = answer.headers.get("caracal-position", "").strip()
    return int(text) if _POSITION.fullmatch(text) else None


def _at_cursor(call: Call[Any], cursor: str) -> Call[Any]:
    parts = urlsplit(call.target)
    pairs = [pair for pair in parse_qsl(parts.query) if pair[0] != "cursor"]
    return replace(call, target=with_query(parts.path, [*pairs, ("cursor", cursor)]))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_url(name: str, url: str) -> None:
    try:
        scheme, host, _ = origin(url)
        sound = scheme in ("http", "https") and bool(host)
    except ValueError:
        sound = False
    if not sound or not printable(url) or any(mark in url for mark in "@?#"):
        raise ValueError(f"{name} must be an http or https URL without user, query and fragment")


def _check_token(name: str, token: object) -> None:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):  # None: nothing was discovered
        raise ValueError(f"{name} must be printable ASCII without spaces")
