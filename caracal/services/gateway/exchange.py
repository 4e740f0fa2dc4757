"""The exchange of a bearer for a mandate at the STS: one per proxied call, never cached."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson

from caracal.errors import CaracalError, Unavailable
from caracal.services.gateway_signature import sign

_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name, no secret
_PATH = "/oauth/2/token"
_MAX_SUCCESS, _MAX_ERROR = 65_536, 16_384
_STEP_UP = ("challenge_id", "challenge_type", "challenge_secret", "challenge_expires_at", "detail")
_FAILURES, _OPEN_SECONDS = 5, 2.0


class ExchangeRefused(CaracalError):
    """What the STS answered, passed on: same status, same code, same sentence."""

    def __init__(
        self, status: int, code: str, description: str, retry_after: str | None, **extras: Any
    ) -> None:
        super().__init__(code, description, **extras)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Granted:
    """A mandate for one call."""

    mandate: str
    anchors: tuple[str, ...]
    upstream: Mapping[str, Any]


class Exchange:
    """Asks the STS; after repeated failures it waits a little before it asks again."""

    def __init__(
        self, session: aiohttp.ClientSession, sts_url: str, key: bytes, timeout: float
    ) -> None:
        self._session, self._key = session, key
        self._url = f"{sts_url}{_PATH}"
        self._path = urlsplit(self._url).path
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._failures = 0
        self._open_until = 0.0

    async def __call__(self, form: Mapping[str, str | None], request_id: str) -> Granted:
        """Exchange; ``form`` are the call's own fields, None = not sent.

        Raises:
            ExchangeRefused: the STS refused, or its answer cannot be used.
            Unavailable: 503 ``sts_unavailable``, it failed too often just now.
        """
        if time.monotonic() < self._open_until:
            raise Unavailable("sts_unavailable", "sts unavailable", retry_after=2)
        resource = form["resource"]
        fields = {"grant_type": _GRANT_TYPE, "subject_token_type": _TOKEN_TYPE, **form}
        body = urlencode({k: v for k, v in fields.items() if v is not None}).encode()
        try:
            status, content, retry_after = await self._post(body, request_id)
            granted = _granted(status, content, retry_after, str(resource))
        except TimeoutError:
            raise self._failed(504, "sts timeout") from None
        except (aiohttp.ClientError, OSError):
            raise self._failed(502, "sts unavailable") from None
        except ExchangeRefused as refusal:
            if refusal.code == "sts_unavailable":
                self._count_failure()
            else:
                self._failures = 0
            raise
        self._failures = 0
        return granted

    async def _post(self, body: bytes, request_id: str) -> tuple[int, bytes, str | None]:
        signature = sign(
            self._key,
            request_id=request_id,
            method="POST",
            path=self._path,
            body=body,
            now=time.time(),
        )
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "caracal-gateway",
            "X-Request-Id": request_id,
            **signature,
        }
        async with self._session.post(
            self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
        ) as answer:
            limit = _MAX_SUCCESS if answer.status == 200 else _MAX_ERROR
            content = await answer.content.read(limit + 1)
            while len(content) <= limit and not answer.content.at_eof():
                content += await answer.content.read(limit + 1 - len(content))
            return answer.status, content[: limit + 1], answer.headers.get("Retry-After")

    def _failed(self, status: int, description: str) -> ExchangeRefused:
        self._count_failure()
        return ExchangeRefused(status, "sts_unavailable", description, None)

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._open_until = time.monotonic() + _OPEN_SECONDS


def _granted(status: int, content: bytes, retry_after: str | None, resource: str) -> Granted:
    body = _json(content)
    if status != 200:
        raise _refusal(status, body, retry_after)
    token, anchors, upstreams = (body.get(k) for k in ("access_token", "anchors", "upstreams"))
    usable = len(content) <= _MAX_SUCCESS and isinstance(token, str) and _is_texts(anchors)
    if not usable or not isinstance(token, str) or anchors is None:
        raise ExchangeRefused(502, "sts_unavailable", "sts response invalid", None)
    upstream = upstreams.get(resource) if isinstance(upstreams, dict) else None
    if not isinstance(upstream, dict) or not upstream.get("url"):
        raise ExchangeRefused(403, "access_denied", "resource upstream not configured", None)
    return Granted(token, tuple(anchors), upstream)


def _refusal(status: int, body: Mapping[str, Any], retry_after: str | None) -> ExchangeRefused:
    if 300 <= status < 400:
        return ExchangeRefused(502, "sts_unavailable", "sts answered with a redirect", None)
    code, text = body.get("error"), body.get("error_description")
    if not isinstance(code, str) or not isinstance(text, str) or not 400 <= status <= 599:
        known = status if 400 <= status <= 599 else 502
        return ExchangeRefused(known, "sts_unavailable", "sts unavailable", retry_after)
    extras = {name: body[name] for name in _STEP_UP if name in body}
    return ExchangeRefused(status, code, text, retry_after, **extras)


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
