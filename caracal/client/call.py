"""What is asked: a call as a value, and how its URL and body are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

T = TypeVar("T")
Base = Literal["api", "coordinator"]
Query = Iterable[tuple[str, Any]]


class Null(Enum):
    """The type of ``NULL``."""

    NULL = "null"

    def __repr__(self) -> str:
        return "NULL"


NULL: Final = Null.NULL
"""An explicit JSON null in a patch, where None means "leave it out"."""


class Page(NamedTuple, Generic[T]):
    """A page of a list; ``next_cursor`` is None on the last one."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: ``target`` is path and query below the base; ``T`` is what it answers."""

    base: Base
    method: str
    target: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    nothing: bool = False
    """Any success answers None, its body is not read."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of this call only."""
    form: bool = False
    """The body is a form, lists are repeated fields."""
    fresh: Callable[[], Mapping[str, Any]] | None = field(default=None, repr=False)
    """Makes further members of the body, for each attempt anew: a proof is good once."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A call that answers a list of ``T``."""

    call: Call[Any]
    follows: bool
    """``list`` goes on to the last page."""


def api(
    method: str, *segments: str, query: Query = (), body: Mapping[str, Any] | None = None
) -> Call[Any]:
    """Return a call of the control plane."""
    return Call("api", method, target("v1", *segments, query=query), body)


def coordinator(method: str, *segments: str, query: Query = ()) -> Call[Any]:
    """Return a call of the Coordinator; none of its admin calls has a body."""
    return Call("coordinator", method, target("zones", *segments, query=query))


def nothing(call: Call[Any]) -> Call[None]:
    """Return the call as one that answers None."""
    return Call(call.base, call.method, call.target, call.body, nothing=True)


def listing(call: Call[Any], limit: int | None = None) -> Listing[Any]:
    """Return a list that is answered whole, but for one that the caller limits."""
    return Listing(call, follows=limit is None)


def one_page(call: Call[Any]) -> Listing[Any]:
    """Return a list of which ``list`` answers one page only."""
    return Listing(call, follows=False)


def page(limit: int | None, cursor: str | None) -> Query:
    """Return the query of a page."""
    return (("limit", limit), ("cursor", cursor))


def merged(kind: type[Any], query: Mapping[str, Any] | None, more: Mapping[str, Any]) -> Any:
    """Return a query given as a dict, as keywords or as both, in the order given.

    Raises:
        TypeError: a keyword that ``kind``, the TypedDict of the query, has not: a filter that
            does not filter would show too much.
    """
    if unknown := more.keys() - kind.__annotations__.keys():
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    return {**(query or {}), **more}


def target(*segments: str, query: Query = ()) -> str:
    """Write path and query; each id is one segment, None and empty values are left out.

    Raises:
        ValueError: an id that would not stay a segment: empty, ``.`` or ``..``.
    """
    path = "".join(f"/{_segment(segment)}" for segment in segments)
    return with_query(path, query)


def with_query(path: str, query: Query) -> str:
    """Write the pairs behind a path, in the given order."""
    pairs = [(name, _text(value)) for name, value in query if value is not None and value != ""]
    return f"{path}?{urlencode(pairs, quote_via=quote, safe='')}" if pairs else path


def content(body: Mapping[str, Any]) -> bytes:
    """Write a body as JSON: members that are None are left out, ``NULL`` is null.

    Only the body's own members: what is inside of them (``{"secret_config": {"key": None}}``)
    is the caller's, and sent as it is.
    """
    members = {name: value for name, value in body.items() if value is not None}
    text = json.dumps(members, default=_null, allow_nan=False, separators=(",", ":"))
    return text.encode()


def form(body: Mapping[str, Any]) -> bytes:
    """Write a body as a form (``application/x-www-form-urlencoded``), without what is None."""
    members = {name: value for name, value in body.items() if value is not None}
    return urlencode(members, doseq=True).encode()


def _segment(text: str) -> str:
    if text in ("", ".", ".."):
        raise ValueError(f"an id must not be {text!r}")
    return quote(text, safe="")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _null(value: Any) -> None:
    if value is not NULL:
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
