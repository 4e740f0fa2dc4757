"""What the OpenAPI says of ``/health``, ``/ready`` and ``/metrics``, which no router has."""

from __future__ import annotations

from typing import Any


def _answer(text: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": schema}}}


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(name: str, summary: str, description: str, responses: Any) -> dict[str, Any]:
    return {
        "tags": ["operations"],
        "operationId": f"operations.{name}",
        "summary": summary,
        "description": description,
        "security": [],
        "responses": responses,
    }


_NUMBERS = {"type": "object", "additionalProperties": True}
_TOO_OFTEN = _answer("`rate_limited`: too many requests; slow down", _schema("Error"))
_TOO_OFTEN["content"]["application/json"]["examples"] = {
    "rate_limited": {"$ref": "#/components/examples/rate_limited"}
}
_TOO_OFTEN["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
_METRICS = _answer("Prometheus text", {"type": "string"}, "text/plain; version=0.0.4")
_METRICS["content"]["application/json"] = {"schema": _NUMBERS}

PATHS: dict[str, Any] = {
    "/health": {
        "get": _operation(
            "health",
            "Say that the process lives",
            "Touches nothing, needs no token.",
            {"200": _answer("OK", _schema("Healthy"))},
        )
    },
    "/ready": {
        "get": _operation(
            "ready",
            "Say whether the service does its work",
            "`degraded` means that it does, with a part gone: Redis, or parked things.",
            {
                "200": _answer("OK", _schema("Ready")),
                "429": _TOO_OFTEN,
                "503": _answer("not ready, or on its way down", _schema("Unready")),
            },
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Show the counters",
            "Prometheus text; JSON with `Accept: application/json`. With `METRICS_BEARER` set,"
            " that token is needed.",
            {
                "200": _METRICS,
                "401": _answer("the token is missing or wrong", _schema("Error")),
            },
        )
    },
}
_TRUE, _FALSE = {"const": True}, {"const": False}
_TEXT, _WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}
SCHEMAS: dict[str, Any] = {
    "Healthy": {"type": "object", "required": ["ok"], "properties": {"ok": _TRUE}},
    "Ready": {
        "type": "object",
        "required": ["ok", "ready", "draining", "degraded"],
        "properties": {
            "ok": _TRUE,
            "ready": _TRUE,
            "draining": _FALSE,
            "degraded": {"type": "boolean"},
            "parked": _WHOLE,
            "position": _WHOLE,
            "staleness_ms": _WHOLE,
        },
    },
    "Unready": {
        "type": "object",
        "required": ["ok"],
        "properties": {
            "ok": _FALSE,
            "draining": _TRUE,
            "error": _TEXT,
            "reason": _TEXT,
            "dependency": _TEXT,
        },
    },
}
