"""Types of body and query members that several routes share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from caracal.errors import BadInput
from caracal.ids import ID_PATTERN

_URL_TEXT = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986, appendix A: no space, quote, backslash

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


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(url_of("http", "https"))]
HttpsUrl = Annotated[str, Field(max_length=2048), AfterValidator(url_of("https"))]


def one_of_names(first: str | None, second: str | None, names: str) -> str | None:
    """Return the value of a query parameter that has two names.

    Raises:
        BadInput: 400 ``invalid_query``, they were given different values.
    """
    if first is not None and second is not None and first != second:
        raise BadInput("invalid_query", f"{names} mean the same and differ")
    return first if first is not None else second
