"""The exchange of a bearer for a mandate at the STS: one per proxied call, never cached."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import aiohttp
import orjson

from caracal import telemetry
from caracal.services.gateway.refusals import CircuitOpen, ExchangeRefused, StsUnavailable
from caracal.services.gateway_signature import sign

_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name, no secret
_PATH = "/oauth/2/token"
_MAX_SUCCESS, _MAX_ERROR = 65_536, 16_384
_PASSED = ("challenge_id", "challenge_type", "challenge_secret", "challenge_expires_at", "detail")
_FAILURES, _OPEN_SECONDS = 5, 2.0
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")  # unreserved, RFC 3986, section 2.3
_ESCAPES = {
    byte: chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"%{byte:02X}" for byte in range(256)
}


@dataclass(frozen=True, slots=True)
class Granted:
    """A mandate for one call."""

    mandate: str
    anchors: frozenset[str]
    upstream: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content: bytes
    retry_after: str


class Exchange:
    """Asks the STS; after repeated failures it waits a little before it asks again."""

    def __init__(
        self, session: aiohttp.ClientSession, sts_url: str, key: bytes, timeout: float
    ) -> None:
        self._session, self._key = session, key
        self._url = f"{sts_url}{_PATH}"
        parts = urlsplit(self._url)
        self._path, self._host, self._port = parts.path, parts.hostname or "", parts.port
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._failures = 0
        self._open_until = 0.0

    async def __call__(
        self, form: Mapping[str, str | None], request_id: str, position: int | None = None
    ) -> Granted:
        """Exchange; ``form`` are the call's own fields, None = not sent.

        ``position``: of the log, which the STS has to see, since the caller wants to.

        Raises:
            ExchangeRefused: the STS refused, or gave no upstream.
            StsUnavailable: 502 or 504, it cannot be reached, or its answer cannot be used.
            CircuitOpen: 503, it failed too often just now.
        """
        if time.monotonic() < self._open_until:
            raise CircuitOpen(retry_after=int(_OPEN_SECONDS))
        body = encoded({"grant_type": _GRANT_TYPE, "subject_token_type": _TOKEN_TYPE, **form})
        try:
            granted = _granted(await self._post(body, request_id, position), str(form["resource"]))
        except TimeoutError:
            self._count_failure()
            raise StsUnavailable(504, "sts timeout") from None
        except (aiohttp.ClientError, OSError):
            self._count_failure()
            raise StsUnavailable(502, "sts unavailable") from None
        except (StsUnavailable, ExchangeRefused) as refusal:
            if refusal.code == "sts_unavailable":
                self._count_failure()
            else:
                self._failures = 0
            raise
        self._failures = 0
        return granted

    async def _post(self, body: bytes, request_id: str, position: int | None) -> _Answer:
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
        if position is not None:
            headers["Caracal-Min-Position"] = str(position)
        with telemetry.calling("POST", self._host, self._port) as span:
            headers |= telemetry.passed_on()
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                span.answered(answer.status, fails_at=400)
                limit = _MAX_SUCCESS if answer.status == 200 else _MAX_ERROR
                content = await _bounded(answer.content, limit)
                return _Answer(answer.status, content, answer.headers.get("Retry-After", ""))

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._open_until = time.monotonic() + _OPEN_SECONDS


async def _bounded(stream: aiohttp.StreamReader, limit: int) -> bytes:
    """Return all there is; of what is longer than ``limit`` bytes nothing."""
    content = b""
    async for chunk in stream.iter_any():
        content += chunk
        if len(content) > limit:
            return b""
    return content


def encoded(form: Mapping[str, str | None]) -> bytes:
    """Return a form as ``application/x-www-form-urlencoded``; None is not sent.

    One pass in C for each value: ``urllib.parse.urlencode`` took a sixth of a whole call.
    """
    pairs = (f"{name}={_quoted(text)}" for name, text in form.items() if text is not None)
    return "&".join(pairs).encode("ascii")


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return text.encode().decode("latin-1").translate(_ESCAPES)


def _granted(answer: _Answer, resource: str) -> Granted:
    body = _json(answer.content)
    if answer.status != 200:
        raise _refusal(answer, body)
    token, anchors, upstreams = (body.get(k) for k in ("access_token", "anchors", "upstreams"))
    if not isinstance(token, str) or not token or not _is_texts(anchors):
        raise StsUnavailable(502, "sts response invalid")
    upstream = upstreams.get(resource) if isinstance(upstreams, dict) else None
    if not isinstance(upstream, dict) or not upstream.get("url"):
        raise ExchangeRefused(403, "access_denied", "resource upstream not configured")
    return Granted(token, frozenset(anchors), upstream)


def _refusal(answer: _Answer, body: Mapping[str, Any]) -> ExchangeRefused | StsUnavailable:
    if not 400 <= answer.status <= 599:
        return StsUnavailable(502, "sts unavailable")
    wait = int(answer.retry_after) if answer.retry_after.isdecimal() else 1
    code, text = body.get("error"), body.get("error_description")
    if not isinstance(code, str) or not isinstance(text, str):
        return ExchangeRefused(answer.status, "sts_unavailable", "sts unavailable", wait)
    extras = {name: body[name] for name in _PASSED if name in body}
    return ExchangeRefused(answer.status, code, text, wait, **extras)


def _json(content: bytes) -> Mapping[str, Any]:
    """Return the object in a body; an empty one for anything else, also for too much."""
    try:
        body = orjson.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
