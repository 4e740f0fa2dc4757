"""The OpenAPI 3.1 document: FastAPI's, and what only we know.

Everything comes from one place: summaries from docstrings, descriptions of tags from those of
modules, errors from :mod:`caracal.services.api.codes`, examples from the schemas.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from caracal.services.api import examples
from caracal.services.api.codes import STATUS_OF, TEXT_OF, declared, implied
from caracal.services.api.door import is_callback
from caracal.services.api.operational import PATHS as OPERATIONAL_PATHS
from caracal.services.api.operational import SCHEMAS as OPERATIONAL_SCHEMAS
from caracal.services.documented import ERROR, Document, clean, operation_id

_SENTENCE_END = re.compile(r"(?<=[^.])\. (?=[A-Z`])")
_METHODS = ("get", "post", "put", "patch", "delete")
_SCHEME = "adminToken"
_ABOUT = """Every mutation is one transaction of an event log. A 2xx on it means committed, and a
later GET on any replica shows it; `Caracal-Position` says where it stands in the log, and
`Caracal-Min-Position` on a request waits for that position.

Errors have one body: `error` is a stable code, `error_description` is for people, `requestId` is
also in the header `X-Request-Id`. A known path with another method answers 405
`method_not_allowed`, any other path 404 `not_found`. HEAD is answered wherever GET is."""

_HEADERS: Mapping[str, tuple[str, Document, Any]] = {
    "X-Request-Id": ("of this request, in logs and audit too", {"type": "string"}, examples.ID),
    "Caracal-Position": ("the last log position that this wrote", {"type": "integer"}, 4711),
    "Caracal-Consistency": (
        "committed, but the read models had not applied it within a second",
        {"type": "string", "enum": ["pending"]},
        "pending",
    ),
    "Link": (
        "RFC 8288: the next page, as a path with the other query parameters kept",
        {"type": "string"},
        '</v1/zones?limit=1&cursor=eyJ0cyI6>; rel="next"',
    ),
    "Retry-After": ("seconds to wait, at least 1", {"type": "integer", "minimum": 1}, 1),
    "WWW-Authenticate": ("RFC 6750", {"type": "string", "enum": ["Bearer"]}, "Bearer"),
}
_HEADERS_OF_STATUS = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_PARAMETERS = {
    "MinPosition": {
        "name": "Caracal-Min-Position",
        "in": "header",
        "description": "wait, at most 2 s, until the read models have this log position",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "example": "4711",
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "an id of your own, 1-128 of A-Z a-z 0-9 . _ : -; else one is made",
        "schema": {"type": "string"},
        "example": "deploy-4711",
    },
    "TraceParent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C Trace Context; kept with the events that the request makes",
        "schema": {"type": "string"},
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
}
_ERROR = {
    **ERROR,
    "properties": {
        **ERROR["properties"],
        "error": {"$ref": "#/components/schemas/ErrorCode"},
        "live_dcr_applications": {
            "type": "integer",
            "description": "of `dcr_shutdown_required`: how many there are",
        },
    },
}


def describe(app: FastAPI, routers: Iterable[APIRouter]) -> Callable[[], Document]:
    """Return the function that makes the document of ``app``, once."""
    made: list[Document] = []

    def openapi() -> Document:
        if not made:
            made.append(_described(app, list(api_routes(routers))))
        return made[0]

    return openapi


def api_routes(routers: Iterable[APIRouter]) -> Iterator[APIRoute]:
    """Yield the routes that the document shows."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                yield route


def _described(app: FastAPI, routes: list[APIRoute]) -> Document:
    document: Document = clean(
        get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
    )
    by_id = {operation_id(route): route for route in routes}
    schemas = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for method in set(item) & set(_METHODS):
            route = by_id[item[method]["operationId"]]
            _complete(path, method, item[method], route, schemas)
    document["tags"] = _tags(routes)
    document["paths"] |= OPERATIONAL_PATHS
    document["security"] = [{_SCHEME: []}]
    document["components"] |= _components()
    schemas |= OPERATIONAL_SCHEMAS | {"Error": _ERROR, "ErrorCode": _error_code()}
    return document


def _complete(
    path: str, method: str, operation: Document, route: APIRoute, schemas: Mapping[str, Any]
) -> None:
    summary, description = _sentences(str(route.endpoint.__doc__ or ""))
    public = path.startswith("/v1/policy-templates") or is_callback(path)
    operation["summary"] = summary
    operation.pop("description", None)
    if description:
        operation["description"] = description
    if public:
        operation["security"] = []
    codes = [*(declared(route.endpoint) or ()), *implied(path, method, operation, public=public)]
    for status, answer in operation["responses"].items():
        _succeed(status, answer, method, operation, schemas)
    operation["responses"] |= _refusals(codes)
    operation["parameters"] = [
        *operation.get("parameters", ()),
        *({"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS),
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content["example"] = examples.example(content["schema"], schemas, request=True)


def _sentences(docstring: str) -> tuple[str, str]:
    """Return the first sentence as a summary, and the whole when there is more."""
    text = _plain(docstring)
    first, *rest = _SENTENCE_END.split(text, maxsplit=1)
    return first.rstrip("."), text if rest else ""


def _plain(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


def _succeed(
    status: str, answer: Document, method: str, operation: Document, schemas: Mapping[str, Any]
) -> None:
    answer["description"] = HTTPStatus(int(status)).phrase
    headers = ["X-Request-Id"]
    if method != "get":
        headers += ["Caracal-Position", "Caracal-Consistency"]
    if any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ())):
        headers.append("Link")
    answer["headers"] = _header_references(headers)
    for content in answer.get("content", {}).values():
        content["example"] = examples.example(content["schema"], schemas, request=False)


def _refusals(codes: Iterable[str]) -> Document:
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_OF[code], []).append(code)
    return {str(status): _refusal(status, found) for status, found in sorted(by_status.items())}


def _refusal(status: int, codes: list[str]) -> Document:
    known = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
    error = {"properties": {"error": {"enum": codes}}}
    schema = {"$ref": "#/components/schemas/Error", **error}
    return {
        "description": "; ".join(f"`{code}`: {TEXT_OF[code]}" for code in codes),
        "headers": _header_references(["X-Request-Id", *_HEADERS_OF_STATUS.get(status, ())]),
        "content": {"application/json": {"schema": schema, "examples": known}},
    }


def _header_references(names: Iterable[str]) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _components() -> Document:
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "an admin token, `cat_…`; a zone's token reaches its own zone only",
    }
    return {
        "securitySchemes": {_SCHEME: scheme},
        "headers": {
            name: {"description": text, "schema": schema, "example": value}
            for name, (text, schema, value) in _HEADERS.items()
        },
        "parameters": _PARAMETERS,
        "examples": {
            code: {
                "summary": text,
                "value": {"error": code, "error_description": text, "requestId": examples.ID},
            }
            for code, text in TEXT_OF.items()
        },
    }


def _error_code() -> Document:
    lines = "\n".join(f"- `{code}` ({STATUS_OF[code]}): {text}" for code, text in TEXT_OF.items())
    return {"type": "string", "description": f"Stable.\n\n{lines}", "enum": [*TEXT_OF]}


def _tags(routes: list[APIRoute]) -> list[Document]:
    """Return the tags in the order of the routers, described by their modules."""
    modules: dict[str, str] = {}
    for route in routes:  # of several modules with one tag the first describes it
        modules.setdefault(str(route.tags[0]), route.endpoint.__module__)
    described = [
        {"name": tag, "description": _plain(str(sys.modules[module].__doc__))}
        for tag, module in modules.items()
    ]
    return [*described, {"name": "operations", "description": "For those who run the service"}]
