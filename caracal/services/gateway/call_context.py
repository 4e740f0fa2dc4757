"""What policy may know of a call: method and path, and for MCP which tool, with what.

What does not fit is never left out in silence: a policy must not decide on less than what goes
to the upstream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import orjson

from caracal.errors import BadInput
from caracal.services.gateway.headers import Header

MAX_MCP_BODY = 1_048_576
MAX_CONTEXT = 8_192
_MAX_KEYS = 2_048  # bytes, all names of arguments together
_MAX_NAME = 512
UNREADABLE = {"method": ""}
"""The place of an MCP call that is no single JSON-RPC message of a sensible size."""
_ENVELOPE = ("jsonrpc", "id", "method", "params", "result", "error")  # JSON-RPC 2.0, 4 and 5
_PARAMS = ("name", "uri", "arguments")
# RFC 3986, section 2.2: what may stand plain in a path, and then means something else.
_RESERVED = re.compile(rb"(?i)%(?:2[1467-9a-cf]|3[abd]|40|5[bd])")

_CHARSET = re.compile(rb"[;\s]charset\s*=\s*[\"']?([^\s;\"',]+)")
_UTF_8 = frozenset((b"utf-8", b"utf8"))


def call_context(
    method: str, path: str, body: bytes | None, *, mcp: bool, raw_path: bytes = b""
) -> str:
    """Return the exchange's field ``call_context``.

    Arguments stay in the Gateway: policy sees their SHA-256 and their top-level names.

    Args:
        method: of the request.
        path: of the request, decoded.
        body: of the request; None when it cannot be read before it is sent on, or is not plain.
        mcp: the resource speaks MCP.
        raw_path: as on the wire. It is told where the decoded path stands for others, too, which
            the upstream may tell apart: an agreement must not hold for them.

    Raises:
        BadInput: 400, method and path are too long to be told.
    """
    # Where the path joins the upstream's, leading slashes become one.
    context: dict[str, Any] = {"http": {"method": method, "path": "/" + path.lstrip("/")}}
    if raw_path.startswith(b"//") or _RESERVED.search(raw_path):
        context["http"]["raw_path"] = raw_path.decode("latin-1")
    if mcp and body != b"":
        context["mcp"] = _mcp(body) if body is not None else UNREADABLE
    text = orjson.dumps(context)
    if len(text) > MAX_CONTEXT:
        raise BadInput("internal_error", "upstream request build failed")
    return text.decode()


def is_plain(headers: Iterable[Header]) -> bool:
    """Say whether a body is what it looks like: of no coding, and in no charset but JSON's own.

    An upstream that minds the charset could read another call in the same bytes.
    """
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return False
        if name == b"content-type":
            named = _CHARSET.findall(value.lower())
            if value.lower().count(b"charset") != len(named) or not _UTF_8.issuperset(named):
                return False
    return True


def _mcp(body: bytes) -> dict[str, Any]:
    """Return what a JSON-RPC message asks for."""
    try:
        orjson.loads(body)  # strict: UTF-8, no NaN; then once more for what it cannot tell
        message = json.loads(body, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError):
        return UNREADABLE
    if not isinstance(message, dict) or not _is_exact(message, _ENVELOPE):
        return UNREADABLE  # a batch
    if "method" not in message:
        return {"method": "response"} if "id" in message else UNREADABLE
    params = message.get("params") or {}
    if not isinstance(params, dict) or not _is_exact(params, _PARAMS):
        return UNREADABLE
    if "name" in params and "uri" in params:
        return UNREADABLE  # which of them the upstream goes by is its own matter
    name = params.get("name", params.get("uri", ""))
    if not _is_short(message["method"]) or not _is_short(name):
        return UNREADABLE
    try:
        arguments = _arguments(params.get("arguments")) | _further(params)
    except TypeError:
        return UNREADABLE
    found: dict[str, Any] = {"method": message["method"]}
    return found | ({"name": name} if name else {}) | arguments


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse names that another parser may take for one: it would see another call than policy."""
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        raise ValueError("ambiguous member names")
    return dict(pairs)


def _is_exact(members: dict[str, Any], names: Sequence[str]) -> bool:
    """Say whether no member is one of ``names`` but for its case: some parsers do not mind it."""
    return all(name in names or name.casefold() not in names for name in members)


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
    keys = sorted(arguments)
    known = {"argument_keys": keys} if len(orjson.dumps(keys)) <= _MAX_KEYS else {}
    return {"arguments_sha256": _digest(arguments), **known}


def _further(params: dict[str, Any]) -> dict[str, Any]:
    """Return the digest of what other methods go by: a task's id, a prompt that is completed.

    ``_meta`` is none of that, and another one at each attempt.

    Raises:
        TypeError: it has no one spelling.
    """
    further = {name: params[name] for name in params if name not in (*_PARAMS, "_meta")}
    return {"further_sha256": _digest(further)} if further else {}


def _digest(members: dict[str, Any]) -> str:
    return sha256(orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).hexdigest()
