"""How the Gateway proves itself to the STS: HMAC-SHA256 over the call (STS contract, section 6).

Pure: the caller makes the nonce single use (``caracal:sts:gw-nonce:{nonce}``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from caracal.errors import Unauthenticated

MAX_SKEW = 60
TIMESTAMP = b"x-caracal-gateway-timestamp"
NONCE = b"x-caracal-gateway-request"
SIGNATURE = b"x-caracal-gateway-signature"

_NAMES = frozenset((TIMESTAMP, NONCE, SIGNATURE))
_UNIX = re.compile(rb"[0-9]{1,12}")
_NONCE = re.compile(rb"[A-Za-z0-9_-]{16,128}")


def sign(
    key: bytes, *, request_id: str, method: str, path: str, body: bytes, now: float
) -> dict[str, str]:
    """Return the three headers for one call, with a fresh nonce; ``now`` in Unix seconds."""
    unix, nonce = str(int(now)).encode(), secrets.token_hex(16).encode()
    mac = _mac(key, unix, nonce, request_id, method, path, body)
    return {
        "X-Caracal-Gateway-Timestamp": unix.decode(),
        "X-Caracal-Gateway-Request": nonce.decode(),
        "X-Caracal-Gateway-Signature": mac,
    }


def verify(
    key: bytes | None,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    request_id: str,
    method: str,
    path: str,
    body: bytes,
    now: float,
) -> str | None:
    """Return the nonce of a call that the Gateway signed, ``None`` for an ordinary call.

    Args:
        key: ``GATEWAY_STS_HMAC_KEY``; without it no signed call is accepted.
        headers: of the request, names in lower case.
        request_id: ``X-Request-Id`` as the service took it.
        method: of the request.
        path: of the request, undecoded, without query.
        body: raw request body.
        now: Unix seconds.

    Raises:
        Unauthenticated: ``access_denied``, any of the headers is there and not all are right.
    """
    found = [(name, value) for name, value in headers if name in _NAMES]
    if not found:
        return None
    sent = dict(found)
    if key is None or len(found) != 3 or len(sent) != 3:
        raise _refused()
    unix, nonce = sent[TIMESTAMP], sent[NONCE]
    if not _UNIX.fullmatch(unix) or not _NONCE.fullmatch(nonce):
        raise _refused()
    expected = _mac(key, unix, nonce, request_id, method, path, body)
    if not hmac.compare_digest(expected.encode(), sent[SIGNATURE].lower()):
        raise _refused()
    if abs(now - int(unix)) > MAX_SKEW:
        raise _refused()
    return nonce.decode()


def _mac(
    key: bytes, unix: bytes, nonce: bytes, request_id: str, method: str, path: str, body: bytes
) -> str:
    call = f"{request_id}\n{method.upper()}\n{path}\n{hashlib.sha256(body).hexdigest()}"
    return hmac.digest(key, b"\n".join((unix, nonce, call.encode())), "sha256").hex()


def _refused() -> Unauthenticated:
    return Unauthenticated("access_denied", "gateway signature invalid")
