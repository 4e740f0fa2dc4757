"""What came back, and what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import orjson

from caracal.client.call import Call
from caracal.client.errors import INVALID_RESPONSE, REQUEST_FAILED, AdminApiError

T = TypeVar("T")

_POSITION = re.compile(r"[0-9]{1,19}", re.ASCII)


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

    @property
    def position(self) -> int | None:
        """Return the log position that the answer names."""
        text = self.headers.get("caracal-position", "").strip()
        return int(text) if _POSITION.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing came back."""

    error: Exception
    timed_out: bool


Outcome = Answer | Failed


def object_of(answer: Answer, call: Call[T]) -> T:
    """Return what a call answers: an object, or None.

    Raises:
        AdminApiError: ``invalid_response``.
    """
    if answer.status == 204 or call.nothing:
        return cast("T", None)
    value = _value(answer)
    if not isinstance(value, dict):
        raise unusable(answer, "an object was expected")
    return cast("T", value)


def items_of(answer: Answer) -> tuple[list[Any], str | None]:
    """Return the items and, where the body itself names it, the cursor of the next page.

    Raises:
        AdminApiError: ``invalid_response``.
    """
    value, cursor = ([], None) if answer.status == 204 else (_value(answer), None)
    if isinstance(value, dict):  # other generations of the server
        cursor = value.get("next_cursor")
        value = value["items"] if "items" in value else value.get("rows")
    sound = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if not sound or not isinstance(cursor, str | None):
        raise unusable(answer, "a list of objects was expected")
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
    raise unusable(answer, "JSON was expected")


def unusable(answer: Answer, description: str) -> AdminApiError:
    """Return the error of a success that cannot be read."""
    return _error_of(answer, INVALID_RESPONSE, _body(answer), description)


def refusal_of(answer: Answer) -> AdminApiError:
    """Return the error of an answer that is no success."""
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
        position=answer.position,
    )


def _body(answer: Answer) -> object:
    """Return the parsed body, the raw text when it is no JSON, ``{}`` when it is empty."""
    if not answer.body:
        return {}
    try:
        return orjson.loads(answer.body)
    except ValueError:
        return answer.body.decode(errors="replace")
