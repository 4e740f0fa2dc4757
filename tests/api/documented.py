"""Every answer that the tests see is one that the OpenAPI promises."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx

from caracal.services.api.app import routes

_PARAMETER = re.compile(r"\{[^}]+\}")


@cache
def document() -> dict[str, Any]:
    """The OpenAPI of the control plane."""
    return routes().openapi()


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    paths = sorted(document()["paths"], key=lambda path: path.count("{"))  # fixed ones first
    return [(re.compile(_PARAMETER.sub("[^/]+", path)), path) for path in paths]


def operation_of(request: httpx.Request) -> tuple[str, dict[str, Any]] | None:
    """Return template and operation of a request; None for what is no route."""
    path = request.url.raw_path.decode("ascii", "replace").partition("?")[0]
    method = {"HEAD": "get"}.get(request.method, request.method.lower())
    for pattern, template in _templates():
        if pattern.fullmatch(path):
            operation = document()["paths"][template].get(method)
            return None if operation is None else (template, operation)
    return None


def check_documented(answer: httpx.Response) -> None:
    """Check that an answer's status, and the code of an error, are declared of its route."""
    if (found := operation_of(answer.request)) is None:
        return
    template, operation = found
    name = f"{answer.request.method} {template}"
    declared = operation["responses"].get(str(answer.status_code))
    assert declared is not None, f"{name} answered {answer.status_code} {answer.text}: {_add()}"
    if answer.status_code >= 400 and answer.content:
        code = answer.json()["error"]
        codes = declared["content"]["application/json"]["examples"]
        assert code in codes, f"{name} answered {code!r}: {_add()}"


def _add() -> str:
    return "add the code to @refuses(...) of the route"
