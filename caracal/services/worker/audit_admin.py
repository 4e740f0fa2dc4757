"""The worker's audit routes, behind ``AUDIT_ADMIN_TOKEN``: search, and dead letters."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import orjson
from redis.asyncio import Redis

from caracal import clock
from caracal.errors import (
    BadInput,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from caracal.events.store import audit_dead
from caracal.events.store.entries import EntryId
from caracal.events.store.redaction import redacted
from caracal.events.store.redis import GONE
from caracal.ids import ID_PATTERN
from caracal.projections.audit import search_decisions
from caracal.services.connections import Pool
from caracal.services.http import ROUTE, Receive, Scope, Send, is_bearer, respond
from caracal.settings import Settings
from caracal.stream_signature import Keyring

PREFIX = "/api/audit/"
_ENTRY_ID = re.compile(r"\d{1,18}-\d{1,18}")
_MOST, _USUAL = 1000, 100
_SEARCH = ("zone_id", "since", "until", "decision", "request_id", "limit", "cursor")
_DECISIONS = ("allow", "deny", "partial")

Query = Mapping[str, str]
Answer = Awaitable[dict[str, Any]]


class AuditAdmin:
    """Answers below :data:`PREFIX`; everything else is not there."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.audit_admin_token
        self._keys, self._ring = settings.audit_hmac_key, Keyring(settings.facts_hmac_key)
        self._database: Pool | None = None
        self._redis: Redis | None = None

    def open(self, database: Pool, redis: Redis) -> None:
        """Give it what it works on."""
        self._database, self._redis = database, redis

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.

        Raises:
            NotFound: 404, no such route, or no token is set.
            Unauthenticated: 401, another token or none.
            MethodNotAllowed, BadInput, Unavailable: 405, 400, 503.
        """
        if not self._token or not scope["path"].startswith(PREFIX):
            raise NotFound("not_found", "there is no such route")
        if not is_bearer(scope, self._token):
            raise Unauthenticated("invalid_token", "a valid bearer token is needed")
        method, template, answer = self._route(scope["path"].removeprefix(PREFIX))
        scope["state"][ROUTE] = PREFIX + template
        if scope["method"] != method:
            raise MethodNotAllowed("method_not_allowed", f"this path has {method}", allow=method)
        try:
            body = await answer(_query(scope))
        except GONE as error:
            raise Unavailable("unavailable", "Redis cannot be reached now") from error
        await respond(send, 200, orjson.dumps(body, default=_plain, option=_OPTIONS), [])

    def _route(self, path: str) -> tuple[str, str, Callable[[Query], Answer]]:
        if path == "search":
            return "GET", path, self._search
        if path == "dlq":
            return "GET", path, self._list
        if path == "dlq/replay":
            return "POST", path, self._replay
        head, _, letter_id = path.partition("/")
        if head == "dlq" and _ENTRY_ID.fullmatch(letter_id):
            return "GET", "dlq/{id}", lambda query: self._show(letter_id, query)
        raise NotFound("not_found", "there is no such route")

    async def _search(self, query: Query) -> dict[str, Any]:
        _known(query, *_SEARCH)
        if not ID_PATTERN.fullmatch(query.get("zone_id", "")):
            raise BadInput("invalid_params", "zone_id is needed")
        if query.get("decision", "allow") not in _DECISIONS:
            raise BadInput("invalid_params", f"decision is one of {', '.join(_DECISIONS)}")
        request_id = query.get("request_id")
        if request_id is not None and not (request_id.isprintable() and len(request_id) <= 256):
            raise BadInput("invalid_params", "request_id is a word")
        limit = _number(query, "limit", _USUAL, most=_MOST)
        assert self._database is not None
        async with self._database.connection() as connection:
            rows = await search_decisions(
                connection,
                query["zone_id"],
                since=_moment(query, "since") or clock.now() - timedelta(days=1),
                until=_moment(query, "until"),
                after=_number(query, "cursor", 0, most=2**62, least=0),
                limit=limit + 1,
                decision=query.get("decision"),
                request_id=request_id,
            )
        events = [{**row, "metadata_json": redacted(row["metadata_json"])} for row in rows[:limit]]
        return {"events": events, "next_cursor": _cursor(rows, limit)}

    async def _list(self, query: Query) -> dict[str, Any]:
        _known(query, "limit", "start")
        start = query.get("start", "-")
        if start != "-" and not _ENTRY_ID.fullmatch(start):
            raise BadInput("invalid_params", "start is the id of an entry")
        limit = _number(query, "limit", _USUAL, most=_MOST)
        assert self._redis is not None
        found, following = await audit_dead.letters(self._redis, start=start, limit=limit)
        return {"entries": [one.shown() for one in found], "next_cursor": following}

    async def _show(self, letter_id: str, query: Query) -> dict[str, Any]:
        _known(query)
        assert self._redis is not None
        found = await audit_dead.letter(self._redis, EntryId.parse(letter_id))
        if found is None:
            raise NotFound("dead_letter_not_found", "there is no such dead letter")
        replayable = audit_dead.source_of(found, self._keys, self._ring) is not None
        return {**found.shown(), "replayable": replayable}

    async def _replay(self, query: Query) -> dict[str, Any]:
        _known(query, "limit")
        limit = _number(query, "limit", _USUAL, most=_MOST)
        assert self._redis is not None
        done = await audit_dead.replay(self._redis, self._keys, self._ring, limit=limit)
        return {"scanned": done.scanned, "replayed": done.replayed, "skipped": done.skipped}


_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return clock.rfc3339(value)
    raise TypeError(type(value).__name__)


def _query(scope: Scope) -> Query:
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(scope["query_string"]),
            errors="strict",
            max_num_fields=20,
        )
    except ValueError:
        raise BadInput("invalid_params", "the query cannot be read") from None
    if len(dict(pairs)) != len(pairs):
        raise BadInput("invalid_params", "a parameter is given twice")
    return dict(pairs)


def _known(query: Query, *names: str) -> None:
    for name in query:
        if name not in names:
            raise BadInput("invalid_params", f"the parameters are: {', '.join(names) or 'none'}")


def _number(query: Query, name: str, default: int, *, most: int, least: int = 1) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise BadInput("invalid_params", f"{name} is a number from {least} to {most}")
    return int(text)


def _moment(query: Query, name: str) -> datetime | None:
    if name not in query:
        return None
    try:
        return clock.parse(query[name])
    except (ValueError, OverflowError):
        said = f"{name} must be a time with offset, such as 2026-05-11T20:00:00Z"
        raise BadInput("invalid_params", said) from None


def _cursor(rows: list[dict[str, Any]], limit: int) -> str | None:
    return str(rows[limit - 1]["chain_seq"]) if len(rows) > limit else None
