"""The next page: ``Link: <...>; rel="next"`` (RFC 8288), never leading to another origin."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urljoin, urlsplit

MAX_LINK = 16_384
_TARGET = re.compile(r"[\s,]*<([^<>]*)>")
_PARAMETER = re.compile(
    r'\s*;\s*([A-Za-z0-9!#$&+.^_`|~*-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*))?'
)
_PRINTABLE = re.compile(r"[!#-;=?-\[\]_a-z~]*")  # RFC 3986, appendix A: no space, quote, backslash
_PORTS = {"http": 80, "https": 443}


def next_link(header: str | None) -> str | None:
    """Return the target of the first link whose relations include ``next``."""
    if header is None or len(header) > MAX_LINK:
        return None
    at = 0
    while found := _TARGET.match(header, at):
        at, parameters = _parameters(header, found.end())
        # Section 3.2: a link with an anchor is about something else than this answer.
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return found[1].strip()
    return None


def _parameters(header: str, at: int) -> tuple[int, dict[str, str]]:
    parameters: dict[str, str] = {}
    while found := _PARAMETER.match(header, at):
        at, value = found.end(), found[2] or ""
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters.setdefault(found[1].lower(), value)  # section 3.3: the first one counts
    return at, parameters


def same_origin_target(base: str, requested: str, link: str) -> str:
    """Return path and query of ``link`` below ``base``.

    Only these are taken from the link, so no reading of it can send the token elsewhere.

    Args:
        base: the base URL, without a trailing slash; a path in it is kept.
        requested: the URL that was answered with the link.

    Raises:
        ValueError: the link leaves the base's scheme, host or port, or is no URL.
    """
    if not printable(link):
        raise ValueError("the next link is no URL")
    there, prefix = urlsplit(urljoin(requested, link)), urlsplit(base).path
    if "@" in there.netloc or origin(there.geturl()) != origin(base):
        raise ValueError("the next link leads to another origin")
    # A server behind a prefix does not know of it.
    path = there.path.removeprefix(prefix) if there.path.startswith(f"{prefix}/") else there.path
    if not path.startswith("/"):
        path = f"/{path}"
    return f"{path}?{there.query}" if there.query else path


def cursor_of(target: str) -> str | None:
    """Return the ``cursor`` in a target's query."""
    values = parse_qs(urlsplit(target).query, max_num_fields=100).get("cursor")
    return values[0] if values else None


def printable(url: str) -> bool:
    """Tell whether a URL has only the characters of one."""
    return bool(_PRINTABLE.fullmatch(url))


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port; the scheme's own port where none is written.

    Raises:
        ValueError: the port is none.
    """
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else _PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port
