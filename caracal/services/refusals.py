"""Turns every exception of a service with routes of FastAPI into its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import psycopg
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from caracal.errors import BadInput, CaracalError, MethodNotAllowed, NotFound
from caracal.services.documented import body_code
from caracal.services.http import Scope, as_caracal_error, error_body, error_headers

_CODES = {"path": "invalid_params", "query": "invalid_query", "header": "invalid_params"}
_NO_OBJECT = "a JSON object is needed, with Content-Type application/json"
_LIMIT = 20  # issues of one answer


def install(app: FastAPI, routers: Iterable[APIRouter] = (), *, issues_twice: bool = False) -> None:
    """Answer every exception by the product's error body; ``routers`` know a path's methods.

    ``issues_twice``: also as ``details.issues``.
    """
    app.add_exception_handler(CaracalError, _answer)
    app.add_exception_handler(RequestValidationError, partial(_invalid, issues_twice))
    app.add_exception_handler(HTTPException, partial(_http, routers))
    for lost in (psycopg.OperationalError, psycopg.InterfaceError):
        app.add_exception_handler(lost, _answer)
    app.add_exception_handler(Exception, _answer)  # else Starlette's own text; it raises anyway


def _answer(request: Request, error: Exception) -> Response:
    known = as_caracal_error(error)
    headers = {name.decode(): value.decode() for name, value in error_headers(known)}
    body = error_body(known, request.state.request_id)
    return Response(body, known.status, headers, media_type="application/json")


def _invalid(issues_twice: bool, request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    issues = [_issue(found) for found in error.errors()[:_LIMIT]]
    where = str(error.errors()[0]["loc"][0])
    code = _CODES.get(where) or body_code(_tags(request))
    first = issues[0]
    name = ".".join(str(part) for part in first["path"]) or where
    more = {"details": {"issues": issues}} if issues_twice else {}
    refusal = BadInput(code, f"{name}: {first['message']}", issues=issues, **more)
    return _answer(request, refusal)


def _tags(request: Request) -> Sequence[str]:
    return getattr(request.scope.get("route"), "tags", ())


def _issue(found: dict[str, Any]) -> dict[str, Any]:
    # The input itself is left out: it may hold a secret.
    where, *path = found["loc"]
    if found["type"] == "json_invalid":
        return {"path": [], "message": f"not JSON, seen at character {path[0]}"}
    if where == "body" and not path and found["type"] != "value_error":
        return {"path": [], "message": _NO_OBJECT}
    message = found["msg"].removeprefix("Value error, ")
    return {"path": [str(part) for part in path], "message": message}


def _http(routers: Iterable[APIRouter], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        method = f"{request.method} is not a method of this path"
        answer = _answer(request, MethodNotAllowed("method_not_allowed", method))
        # RFC 9110, section 15.5.6
        answer.headers["Allow"] = ", ".join(_methods(routers, request.scope))
        return answer
    if error.status_code == 404:
        return _answer(request, NotFound("not_found", "there is no such route"))
    return _answer(request, BadInput(body_code(_tags(request)), "the request cannot be read"))


def _methods(routers: Iterable[APIRouter], scope: Scope) -> list[str]:
    """Return the methods of a path: each is a route of its own."""
    routes = (route for router in routers for route in router.routes if isinstance(route, Route))
    found = {
        method
        for route in routes
        if route.matches(scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))
