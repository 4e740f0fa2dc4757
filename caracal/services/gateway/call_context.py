"""What policy may know of a call: method and path, and for MCP which tool, with what.

What does not fit is never left out in silence: a policy must not decide on less than what goes
to the upstream.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import orjson

from caracal.errors import BadInput

MAX_MCP_BODY = 1_048_576
MAX_CONTEXT = 8_192
_MAX_KEYS = 2_048  # bytes, all names of arguments together
_MAX_NAME = 512
UNREADABLE = {"method": ""}
"""The place of an MCP call that is no single JSON-RPC message of a sensible size."""


def call_context(method: str, path: str, body: bytes | None, *, mcp: bool) -> str:
    """Return the exchange's field ``call_context``.

    Arguments stay in the Gateway: policy sees their SHA-256 and their top-level names.

    Args:
        method: of the request.
        path: of the request, decoded.
        body: of the request; None when it is too long to be read before it is sent on.
        mcp: the resource speaks MCP.

    Raises:
        BadInput: 400, method and path are too long to be told.
    """
    # Where the path joins the upstream's, leading slashes become one.
    context: dict[str, Any] = {"http": {"method": method, "path": "/" + path.lstrip("/")}}
    if mcp and body != b"":
        context["mcp"] = _mcp(body) if body is not None else UNREADABLE
    text = orjson.dumps(context)
    if len(text) > MAX_CONTEXT:
        raise BadInput("internal_error", "upstream request build failed")
    return text.decode()


def _mcp(body: bytes) -> dict[str, Any]:
    """Return what a JSON-RPC message asks for."""
    try:
        orjson.loads(body)  # strict: UTF-8, no NaN; then once more for what it cannot tell
        message = json.loads(body, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError):
        return UNREADABLE
    if not isinstance(message, dict):
        return UNREADABLE  # a batch
    if "method" not in message:
        return {"method": "response"} if "id" in message else UNREADABLE
    params = message.get("params") or {}
    name = params.get("name", params.get("uri", "")) if isinstance(params, dict) else None
    if not _is_short(message["method"]) or not _is_short(name):
        return UNREADABLE
    try:
        arguments = _arguments(params.get("arguments"))
    except TypeError:
        return UNREADABLE
    found: dict[str, Any] = {"method": message["method"]}
    return found | ({"name": name} if name else {}) | arguments


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse names that another parser may take for one: it would see another call than policy."""
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        raise ValueError("ambiguous member names")
    return dict(pairs)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME


def _arguments(arguments: Any) -> dict[str, Any]:
    """Return what is told of arguments: an agreement to a call binds by this.

    Raises:
        TypeError: no object, or none that has one spelling: an integer beyond 64 bits, or nested
            too deep.
    """
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise TypeError("arguments are an object")
    canonical = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    keys = sorted(arguments)
    known = {"argument_keys": keys} if len(orjson.dumps(keys)) <= _MAX_KEYS else {}
    return {"arguments_sha256": sha256(canonical).hexdigest(), **known}
