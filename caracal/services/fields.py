"""Types of body and query members that several routes share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from math import isfinite
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
from fastapi import Query
from pydantic import AfterValidator, BeforeValidator, Field

from caracal import clock
from caracal.errors import BadInput
from caracal.ids import ID_PATTERN
from caracal.services.models import printable

_URL_TEXT = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986, appendix A: no space, quote, backslash

MAX_JSON_BYTES = 16 * 1024
MAX_JSON_DEPTH = 8
_JSON_NAME_LENGTH = 128

Id = Annotated[str, Field(pattern=ID_PATTERN.pattern)]


def url_of(*schemes: str) -> Callable[[str], str]:
    """Return the check of an absolute URL: one of ``schemes``, a host, no user information."""

    def check(text: str) -> str:
        if not _URL_TEXT.fullmatch(text):
            raise ValueError("must be a URL of printable ASCII characters")
        try:
            parts = urlsplit(text)
            sound = bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or "@" in parts.netloc:
            raise ValueError("must have a host, a valid port and no user information")
        if parts.scheme not in schemes:
            raise ValueError(f"must begin with {' or '.join(schemes)}")
        return text

    return check


_MOMENT = r"^[-+0-9:.,TWZ]{1,40}$"
_NO_MOMENT = "must be a time with offset, such as 2026-05-11T20:00:00Z"


def _moment(text: str) -> str:
    if re.fullmatch(_MOMENT, text) is None:
        raise ValueError(_NO_MOMENT)
    try:
        clock.parse(text)
    except OverflowError:
        raise ValueError("out of range") from None
    except ValueError:
        raise ValueError(_NO_MOMENT) from None
    return text


Moment = Annotated[
    str | None,
    Query(description="ISO 8601 with offset", json_schema_extra={"pattern": _MOMENT}),
    AfterValidator(_moment),
]
Word = Annotated[str | None, Query(pattern=ID_PATTERN.pattern)]


def moment(text: str | None) -> datetime | None:
    """Return the time that a query names, if any."""
    return clock.parse(text) if text else None


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(url_of("http", "https"))]
HttpsUrl = Annotated[str, Field(max_length=2048), AfterValidator(url_of("https"))]


def json_within(limit: int, depth: int) -> Callable[[Any], Any]:
    """Return the check of a JSON value: storable as it is, at most ``limit`` bytes, so deep.

    It raises ``ValueError`` also for a name over 128 characters, NUL, a lone surrogate, or a
    number that is not finite or not of 64 bits.
    """

    def check(value: Any) -> Any:
        _check_json(value, depth, depth)
        try:
            size = len(orjson.dumps(value))
        except TypeError:
            raise ValueError("must have numbers of 64 bits") from None
        if size > limit:
            raise ValueError(f"must be at most {limit} bytes of JSON")
        return value

    return check


bounded_json = json_within(MAX_JSON_BYTES, MAX_JSON_DEPTH)


def check_size(value: Any, name: str) -> None:
    """Refuse JSON that has grown too large by merging what was bounded.

    Raises:
        BadInput: 400 ``invalid_body``, over :data:`MAX_JSON_BYTES`.
    """
    if len(orjson.dumps(value)) > MAX_JSON_BYTES:
        said = f"must be at most {MAX_JSON_BYTES} bytes of JSON with what is there"
        issues = [{"path": [name], "message": said}]
        details = {"issues": issues}
        raise BadInput("invalid_body", f"{name}: {said}", issues=issues, details=details)


def _check_json(value: Any, depth: int, most: int) -> None:
    if depth < 0:
        raise ValueError(f"must be at most {most} levels deep")
    match value:
        case str():
            printable(value)
        case float() if not isfinite(value):
            raise ValueError("must have finite numbers")
        case list():
            for part in value:
                _check_json(part, depth - 1, most)
        case dict():
            for name, part in value.items():
                if len(printable(name)) > _JSON_NAME_LENGTH:
                    raise ValueError(f"must have names of at most {_JSON_NAME_LENGTH} characters")
                _check_json(part, depth - 1, most)


# Checked before the type: a name that cannot be written would stand in the issue's path.
JsonObject = Annotated[dict[str, Any], BeforeValidator(bounded_json)]


def one_of_names(first: str | None, second: str | None, names: str) -> str | None:
    """Return the value of a query parameter that has two names.

    Raises:
        BadInput: 400 ``invalid_query``, they were given different values.
    """
    if first is not None and second is not None and first != second:
        raise BadInput("invalid_query", f"{names} mean the same and differ")
    return first if first is not None else second
