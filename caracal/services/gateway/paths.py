"""The path and query of the upstream's URL (Gateway contract, row 9 and section 7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus, unquote_to_bytes

from yarl import URL

from caracal.errors import BadInput
from caracal.services.gateway.refusals import Denied

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NAME_ENDS = re.compile("[&;]")
_DOTS = frozenset((b".", b".."))
_MAX_ROUNDS = 8


def check_path(raw_path: bytes) -> None:
    """Refuse a path that could leave its place at the upstream, however often it is decoded.

    Args:
        raw_path: as on the wire, percent-encoded, without query.

    Raises:
        Denied: 400, a ``.`` or ``..`` segment (with or without parameters), a backslash, NUL,
            or an escape that yields no UTF-8, in the path or in what decoding it yields.
    """
    if _BAD_ESCAPE.search(raw_path):
        raise _traversal()
    path = raw_path
    for _ in range(_MAX_ROUNDS):
        if _climbs(path):
            raise _traversal()
        decoded = unquote_to_bytes(path) if b"%" in path else path
        if decoded == path:
            return
        path = decoded
    raise _traversal()


def _climbs(path: bytes) -> bool:
    if b"\\" in path or b"\0" in path:
        return True
    # Some servers cut parameters first: "..;x" is ".." to them (RFC 3986, section 3.3).
    if b"." in path and any(s.partition(b";")[0] in _DOTS for s in path.split(b"/")):
        return True
    try:
        path.decode()
    except UnicodeDecodeError:
        return True
    return False


def _traversal() -> Denied:
    return Denied(400, "invalid_token", "path traversal not permitted", "denials_path_traversal")


@dataclass(frozen=True, slots=True)
class _Base:
    scheme: str
    authority: str
    path: str
    query: str
    names: frozenset[str]


def upstream_url(base_url: str, raw_path: bytes, query: bytes) -> URL:
    """Return where the call goes: ``base_url`` with the inbound path and query joined on.

    Nothing is decoded or encoded again; the fragment of ``base_url`` is dropped.

    Args:
        base_url: the resource's ``upstream_url``.
        raw_path: of the request, as on the wire.
        query: of the request, as on the wire, without ``?``.

    Raises:
        BadInput: ``internal_error``, the query does not parse or no URL can be made.
    """
    try:
        base = _read_base(base_url)
        if raw_path and not raw_path.startswith(b"/"):
            raise ValueError("no path, as in OPTIONS *")
        return URL.build(
            scheme=base.scheme,
            authority=base.authority,
            path=join_path(base.path, raw_path.decode("ascii")),
            query_string=merge_query(base.query, base.names, query),
            encoded=True,
        )
    except ValueError as error:
        raise BadInput("internal_error", "upstream request build failed") from error


def join_path(base: str, inbound: str) -> str:
    """Return ``base`` and ``inbound`` with exactly one slash between; either may be empty."""
    if base in ("", "/"):
        return inbound or "/"
    if inbound in ("", "/"):
        return base
    return f"{base.rstrip('/')}/{inbound.lstrip('/')}"


def merge_query(own: str, own_names: frozenset[str], sent: bytes) -> str:
    """Return ``own`` and what of ``sent`` names nothing that ``own`` defines, spelt as sent.

    Raises:
        ValueError: ``sent`` holds an undecodable escape or a character that is not ASCII.
    """
    if _BAD_ESCAPE.search(sent):
        raise ValueError("undecodable escape in the query")
    text = sent.decode("ascii")
    if not own:
        return text
    kept = [part for part in text.split("&") if part and own_names.isdisjoint(_names(part))]
    return "&".join((own, *kept))


def _names(query: str) -> list[str]:
    """Names as any reader may see them: ``;`` separates too for some (HTML 4.01, B.2.2)."""
    return [unquote_plus(part.partition("=")[0]) for part in _NAME_ENDS.split(query)]


@lru_cache(maxsize=4096)
def _read_base(base_url: str) -> _Base:
    url = URL(base_url, encoded=True)
    if not url.raw_host or not url.port:  # a port out of range raises by itself
        raise ValueError("upstream URL without host or port")
    query = url.raw_query_string
    names = frozenset(_names(query)) - {""}
    return _Base(url.scheme, url.raw_authority, url.raw_path, query, names)
