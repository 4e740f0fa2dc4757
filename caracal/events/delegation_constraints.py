"""Constraints of a delegation: what they may be, and what narrower means.

The stored object is normalised once, at creation, and never changes; whoever exercises the edge
reads it back by :func:`read` and refuses what it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from caracal import clock
from caracal.errors import BadInput, CaracalError, Forbidden

MAX_HOPS = 10
MAX_TTL_SECONDS = 86_400
_MAX_ITEMS = 64
_MAX_BUDGET = 1024
_MAX_REASON = 256
_MAX_TEXT = 1024
_BROAD_REASON = "resource_null_delegation"

_Check = tuple[Callable[[Any], bool], str]  # what holds of a value, and how to say so


@dataclass(frozen=True, slots=True)
class Constraints:
    """What an edge allows beyond its scopes.

    Attributes:
        resources: identifiers it is limited to; empty: no limit.
        actions: names handed to policy; None: no limit.
        max_hops: edges from this one to the exercised one, both counted.
        ttl_seconds: cap of a mandate's life.
        budget: most scopes of one exchange.
        scopes: of an older edge, whose budget was a list: scopes it is limited to.
        expires_at: extra end.
    """

    resources: tuple[str, ...] = ()
    actions: tuple[str, ...] | None = None
    max_hops: int = 1
    ttl_seconds: int | None = None
    budget: int | None = None
    scopes: tuple[str, ...] | None = None
    expires_at: datetime | None = None


def normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of the caller's constraints, ``max_depth`` said as ``max_hops``.

    Raises:
        BadInput: 400 ``invalid_{key}``, or ``invalid_delegation_constraint`` for an unknown one.
    """
    for key, value in given.items():
        if (check := _CHECKS.get(key)) is None:
            raise not_understood(f"there is no constraint {key[:64]!r}, but {', '.join(_CHECKS)}")
        holds, rule = check
        if value is not None and not holds(value):
            raise BadInput(f"invalid_{key}", f"the constraint {key} must be {rule}")
    known = {key: value for key, value in given.items() if value is not None}
    depth, hops = known.pop("max_depth", None), known.get("max_hops")
    if depth is not None and hops not in (None, depth):
        raise BadInput("invalid_max_hops", "max_hops and max_depth mean the same and differ")
    return known if depth is None else {**known, "max_hops": depth}


def broadened(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constraints of a broad edge, which names no resource: policy sees that and why."""
    return {"broad_reason": _BROAD_REASON, **known, "policy_approved": True}


def read(stored: Mapping[str, Any]) -> Constraints:
    """Read stored constraints.

    Raises:
        BadInput: they are not understood; the edge is of no use then.
    """
    stored, scopes = dict(stored), None
    if isinstance(stored.get("budget"), list):
        scopes = tuple(stored.pop("budget"))
        if not _texts(scopes):
            raise BadInput("invalid_budget", f"the constraint budget must be {_LIST}")
    known = normalised(stored)
    expires_at, actions = known.get("expires_at"), known.get("actions")
    return Constraints(
        resources=tuple(known.get("resources", ())),
        actions=None if actions is None else tuple(actions),
        max_hops=known.get("max_hops", 1),
        ttl_seconds=known.get("ttl_seconds"),
        budget=known.get("budget"),
        scopes=scopes,
        expires_at=None if expires_at is None else clock.parse(expires_at),
    )


def not_understood(said: str) -> BadInput:
    return BadInput("invalid_delegation_constraint", said)


@dataclass(frozen=True, slots=True)
class Authority:
    """What an edge lends; ``resources`` are ids, None when it names none (a broad edge)."""

    scopes: frozenset[str]
    resources: frozenset[str] | None
    constraints: Constraints
    expires_at: datetime


def check_narrowing(child: Authority, parent: Authority) -> None:
    """Refuse an edge that lends more than the one it hangs on.

    Raises:
        Forbidden: 403 ``delegation_exceeds_parent_authority``; ``detail`` names the member.
    """
    for member, holds in _NARROWER.items():
        if not holds(child, parent):
            said = f"the delegation goes beyond what the source itself was given: {member}"
            raise Forbidden("delegation_exceeds_parent_authority", said, detail=member)


def _within(child: Collection[str] | None, parent: Collection[str] | None) -> bool:
    """Say whether ``child`` names something, and nothing that ``parent`` does not; None: all."""
    return parent is None or (bool(child) and set(child or ()) <= set(parent))


def _capped(child: int | None, parent: int | None) -> bool:
    return parent is None or (child is not None and child <= parent)


def _spends(authority: Authority) -> int:
    budget = authority.constraints.budget
    return len(authority.scopes) if budget is None else budget


_NARROWER: Mapping[str, Callable[[Authority, Authority], bool]] = {
    "scopes": lambda child, parent: child.scopes <= parent.scopes,
    "expires_at": lambda child, parent: child.expires_at <= parent.expires_at,
    "resources": lambda child, parent: _within(child.resources, parent.resources),
    "max_hops": lambda child, parent: child.constraints.max_hops <= parent.constraints.max_hops - 1,
    "ttl_seconds": lambda child, parent: _capped(
        child.constraints.ttl_seconds, parent.constraints.ttl_seconds
    ),
    "budget": lambda child, parent: (
        parent.constraints.budget is None or _spends(child) <= parent.constraints.budget
    ),
    "actions": lambda child, parent: (
        parent.constraints.actions is None
        or (
            child.constraints.actions is not None
            and set(child.constraints.actions) <= set(parent.constraints.actions)
        )
    ),
}


def _whole(low: int, high: int) -> _Check:
    return lambda value: type(value) is int and low <= value <= high, f"a number {low}-{high}"


def _texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) <= _MAX_ITEMS
        and all(_text(item, _MAX_TEXT) for item in value)
    )


def _text(value: Any, most: int) -> bool:
    """Say whether every database and encoding takes it: no NUL, no lone surrogate."""
    if not isinstance(value, str) or not 1 <= len(value) <= most or "\x00" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _moment(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        clock.parse(value)
    except (ValueError, OverflowError, CaracalError):
        return False
    return True


_LIST = f"a list of at most {_MAX_ITEMS} texts"
_CHECKS: Mapping[str, _Check] = {
    "resources": (_texts, _LIST),
    "actions": (_texts, _LIST),
    "max_hops": _whole(1, MAX_HOPS),
    "max_depth": _whole(1, MAX_HOPS),
    "ttl_seconds": _whole(1, MAX_TTL_SECONDS),
    "budget": _whole(1, _MAX_BUDGET),
    "policy_approved": (lambda value: isinstance(value, bool), "true or false"),
    "expires_at": (_moment, "an RFC 3339 time with an offset"),
    "broad_reason": (lambda value: _text(value, _MAX_REASON), f"a text of 1-{_MAX_REASON}"),
}
