"""The OpenAPI document of the STS: what its raw handlers take and answer.

Made of what they are made of: the fields of a token request, its limits, the error body.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from caracal import __version__
from caracal.events.challenge import ChallengeType
from caracal.mandate import MAX_TOKEN_BYTES
from caracal.services.documented import ERROR, Document
from caracal.services.provider_client import ASSERTION_TYPE
from caracal.services.sts import id_token
from caracal.services.sts.token_request import (
    ACCESS_TOKEN,
    GRANT_TYPE,
    MAX_CALL_CONTEXT,
    MAX_RESOURCES,
    SUBJECT_TYPES,
    TOKEN_TYPES,
    TokenRequest,
)

_FORM = "application/x-www-form-urlencoded"
_TEXT: Document = {"type": "string"}
_TOKEN: Document = {"type": "string", "maxLength": MAX_TOKEN_BYTES}
_NAMES = {"resources": "resource", "scopes": "scope"}
_TOLD: dict[str, Document] = {
    "resource": {"type": "array", "items": _TEXT, "maxItems": MAX_RESOURCES},
    "scope": {"type": "string", "description": "space separated"},
    "client_assertion": _TOKEN,
    "client_assertion_type": {"type": "string", "enum": [ASSERTION_TYPE]},
    "subject_token": {"type": "string", "maxLength": id_token.MAX_BYTES},
    "subject_token_type": {"type": "string", "enum": list(SUBJECT_TYPES)},
    "actor_token": _TOKEN,
    "ttl_seconds": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    "call_context": {"type": "string", "maxLength": MAX_CALL_CONTEXT},
}
_CLIENT = (
    "zone_id",
    "application_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
)


def document() -> Document:
    """Return the document (OpenAPI 3.1)."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Caracal STS", "version": __version__},
        "paths": {
            "/oauth/2/token": {"post": _posted("exchange", _token_form(), _TOKEN_ANSWER)},
            "/oauth/2/introspect": {"post": _posted("introspect", _about_token(), _INTROSPECTED)},
            "/oauth/2/revoke": {"post": _posted("revoke", _about_token(), None)},
            "/step-up/{challenge_id}": {
                "get": _got("step_up_status", _CHALLENGE, ["404", "429"], _in_path("challenge_id"))
            },
            "/.well-known/jwks.json": {
                "get": _got("jwks", _JWKS, ["400", "404"], _in_query("zone_id"))
            },
            "/zones/{zone_id}/.well-known/jwks.json": {
                "get": _got("jwks_of_zone", _JWKS, ["404"], _in_path("zone_id"))
            },
            "/.well-known/oauth-authorization-server": {"get": _got("metadata", _METADATA, [])},
            "/.well-known/oauth-authorization-server/zones/{zone_id}": {
                "get": _got("metadata_of_zone", _METADATA, ["400", "404"], _in_path("zone_id"))
            },
        },
        "components": {"schemas": {"Error": ERROR}},
    }


def _token_form() -> Document:
    read = [_NAMES.get(field.name, field.name) for field in fields(TokenRequest)]
    return _form(
        {
            "grant_type": {"type": "string", "enum": ["", GRANT_TYPE]},
            "actor_token_type": {"type": "string", "enum": list(TOKEN_TYPES)},
            **{name: _TOLD.get(name, _TEXT) for name in read},
        },
        ["zone_id", "application_id", "resource"],
    )


def _about_token() -> Document:
    client = {name: _TOLD.get(name, _TEXT) for name in _CLIENT}
    hint = {"token_type_hint": _TEXT}
    return _form({"token": _TEXT, **hint, **client}, ["token", "zone_id", "application_id"])


def _form(properties: dict[str, Document], required: list[str]) -> Document:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": True, "content": {_FORM: {"schema": schema}}}


def _posted(name: str, form: Document, answer: Document | None) -> Document:
    refused = ["400", "401", "403", "413", "415", "429", "503"]
    return {"operationId": name, "requestBody": form, "responses": _answers(answer, refused)}


def _got(name: str, answer: Document, refused: list[str], *parameters: Document) -> Document:
    return {
        "operationId": name,
        "parameters": list(parameters),
        "responses": _answers(answer, [*refused, "503"]),
    }


def _answers(schema: Document | None, refused: list[str]) -> Document:
    content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusal = {"description": "refused", "content": error}
    return {"200": {"description": "done", **content}, **dict.fromkeys(refused, refusal)}


def _in_path(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _in_query(name: str) -> Document:
    return {"name": name, "in": "query", "required": False, "schema": _TEXT}


def _object(required: str, **properties: Any) -> Document:
    return {"type": "object", "required": required.split(), "properties": properties}


_TOKEN_ANSWER = _object(
    "access_token token_type expires_in issued_token_type target_resources upstreams",
    access_token=_TOKEN,
    token_type={"type": "string", "enum": ["Bearer", "DPoP"]},
    expires_in={"type": "integer", "minimum": 1},
    scope=_TEXT,
    issued_token_type={"type": "string", "const": ACCESS_TOKEN},
    target_resources={"type": "array", "items": _TEXT, "minItems": 1},
    upstreams={
        "type": "object",
        "additionalProperties": _object(
            "url auth_mode auth_header auth_scheme",
            url=_TEXT,
            auth_mode={
                "type": "string",
                "enum": ["caracal_jwt", "provider_oauth", "provider_apikey"],
            },
            auth_header=_TEXT,
            auth_scheme=_TEXT,
            provider_token={"type": "string", "description": "for the Gateway only"},
            expires_at={"type": "integer"},
            allowed_hosts={"type": "array", "items": _TEXT},
        ),
    },
    anchors={"type": "array", "items": _TEXT, "description": "for the Gateway only"},
)
_INTROSPECTED = _object("active", active={"type": "boolean"}, token_type=_TEXT)
_CHALLENGE = _object(
    "id challenge_type satisfied consumed expires_at",
    id=_TEXT,
    challenge_type={"type": "string", "enum": list(get_args(ChallengeType))},
    satisfied={"type": "boolean"},
    consumed={"type": "boolean"},
    expires_at={"type": "string", "format": "date-time"},
)
_JWKS = _object(
    "keys",
    keys={
        "type": "array",
        "minItems": 1,
        "maxItems": 2,
        "items": _object(
            "kty crv use alg kid x y",
            kty={"const": "EC"},
            crv={"const": "P-256"},
            use={"const": "sig"},
            alg={"const": "ES256"},
            kid=_TEXT,
            x={"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
            y={"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"},
        ),
    },
)
_METADATA = _object(
    "issuer token_endpoint introspection_endpoint revocation_endpoint jwks_uri",
    issuer=_TEXT,
    token_endpoint=_TEXT,
    introspection_endpoint=_TEXT,
    revocation_endpoint=_TEXT,
    jwks_uri=_TEXT,
)
