"""What the OpenAPI documents of our services share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi.routing import APIRoute

Document = dict[str, Any]

_ISSUE = {
    "type": "object",
    "required": ["path", "message"],
    "properties": {
        "path": {"type": "array", "items": {"type": "string"}},
        "message": {"type": "string"},
    },
}
ERROR: Document = {
    "type": "object",
    "required": ["error", "error_description", "requestId"],
    "properties": {
        "error": {"type": "string", "description": "a stable code"},
        "error_description": {"type": "string", "description": "for people; may change"},
        "requestId": {"type": "string"},
        "issues": {"type": "array", "items": _ISSUE, "description": "what was wrong, and where"},
        "detail": {"type": "string", "description": "a reason for machines, where there is one"},
    },
}
"""The body of every error."""


def operation_id(route: APIRoute) -> str:
    """Return the stable name of an operation, as the clients call it: ``policy_sets.create``."""
    tag = re.sub(r"[ -]", "_", str(route.tags[0]))
    return f"{tag}.{route.name.rstrip('_')}"


def clean(node: Any, *, names: bool = False) -> Any:
    """Return a document without what FastAPI makes up: titles, its error body, null in queries."""
    if isinstance(node, list):
        return [clean(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("in") == "query":
        node = {**node, "schema": _not_null(node["schema"])}
    left_out = {"title"} if not names and isinstance(node.get("title"), str) else set()
    left_out |= {"HTTPValidationError", "ValidationError"} | ({"422"} & set(node))
    return {
        name: part if name == "info" else clean(part, names=name in ("properties", "schemas"))
        for name, part in node.items()
        if name not in left_out
    }


def _not_null(schema: Document) -> Document:
    options: list[Document] = [o for o in schema.get("anyOf", ()) if o != {"type": "null"}]
    if len(options) != 1:
        return schema
    return {name: part for name, part in schema.items() if name != "anyOf"} | options[0]


def body_code(tags: Sequence[str]) -> str:
    """Return the code of a bad body: zones have their own."""
    return "invalid_zone" if "zones" in tags else "invalid_body"
