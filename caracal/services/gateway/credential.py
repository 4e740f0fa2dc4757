"""The credential for the upstream, as the exchange's directive says (contract, section 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from caracal.services.gateway.headers import Header
from caracal.services.gateway.refusals import Undeliverable

PROVIDER_MODES = ("provider_oauth", "provider_apikey")
_IDENTITY = b"x-caracal-identity"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # token, RFC 9110 section 5.6.2
# A directive that could change where or how the message ends is not a credential.
_RESERVED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"te", b"trailer")
)


def credential_headers(directive: Mapping[str, Any], mandate: str, host: str) -> list[Header]:
    """Return the headers that carry the credential, names in lower case.

    Args:
        directive: ``upstreams[resource]`` of the exchange's answer.
        mandate: the access token of that answer.
        host: the upstream's, to be one of the directive's ``allowed_hosts`` if it has any.

    Raises:
        Undeliverable: nothing may be forwarded: unknown ``auth_mode``, no provider token,
            a host that is not allowed, or a header that cannot be sent.
    """
    mode = directive.get("auth_mode")
    _check_host(directive.get("allowed_hosts"), host)
    name = _header_name(directive.get("auth_header") or "Authorization")
    scheme = directive.get("auth_scheme")
    if mode == "caracal_jwt":
        return [(name, _value(scheme or "Bearer", mandate))]
    if mode not in PROVIDER_MODES:
        raise Undeliverable("unknown auth_mode")
    token = directive.get("provider_token")
    if not isinstance(token, str) or not token or name == _IDENTITY:
        raise Undeliverable("no provider token, or no place for it")
    value = _value("Bearer" if scheme is None else scheme, token)
    return [(name, value), (_IDENTITY, _value("", mandate))]


def _check_host(allowed: Any, host: str) -> None:
    if allowed is None:
        return
    if not isinstance(allowed, list) or host.lower() not in {str(h).lower() for h in allowed}:
        raise Undeliverable("upstream host outside allowed_hosts")


def _header_name(name: Any) -> bytes:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Undeliverable("auth_header is no header name")
    lower = name.lower().encode()
    if lower in _RESERVED:
        raise Undeliverable("auth_header is reserved")
    return lower


def _value(scheme: Any, token: str) -> bytes:
    if not isinstance(scheme, str):
        raise Undeliverable("auth_scheme is no text")
    value = f"{scheme} {token}" if scheme else token
    if any(character in value for character in "\r\n\0"):
        raise Undeliverable("credential holds a line break")
    return value.encode()
