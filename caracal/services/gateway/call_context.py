"""What policy may know of a call: method and path, and for MCP which tool, with what."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

MAX_MCP_BODY = 262_144
MAX_CONTEXT = 8_192
_MAX_PATH = 2_048
_MAX_KEYS = 64
_MAX_NAME = 256


def call_context(method: str, path: str, body: bytes | None) -> str:
    """Return the exchange's field ``call_context``; ``body`` is that of an MCP call, else None.

    Arguments stay in the Gateway: policy sees their SHA-256 and their top-level names.
    """
    context: dict[str, Any] = {"http": {"method": method, "path": path[:_MAX_PATH]}}
    if body is not None and (mcp := _mcp(body)) is not None:
        context["mcp"] = mcp
    text = orjson.dumps(context)
    if len(text) > MAX_CONTEXT:
        context.pop("mcp", None)
        text = orjson.dumps(context)
    return text.decode()


def _mcp(body: bytes) -> Mapping[str, Any] | None:
    """Return what a JSON-RPC message asks for; None when it is none, or a batch."""
    try:
        message = orjson.loads(body)
    except ValueError:
        return None
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return None
    found: dict[str, Any] = {"method": message["method"][:_MAX_NAME]}
    params = message.get("params")
    if not isinstance(params, dict):
        return found
    name = params.get("name", params.get("uri"))
    if isinstance(name, str):
        found["name"] = name[:_MAX_NAME]
    arguments = params.get("arguments")
    if isinstance(arguments, dict):
        canonical = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
        found["arguments_sha256"] = sha256(canonical).hexdigest()
        found["argument_keys"] = sorted(key[:_MAX_NAME] for key in arguments)[:_MAX_KEYS]
    return found
