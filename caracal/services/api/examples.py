"""Examples for the OpenAPI, made from the schemas: one table of values by a member's name.

A value may also be named ``Schema.member``. What the table does not know is made of its type;
optional members of a request that it does not know are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caracal.services.api.policy_contract import SCHEMA_VERSION

Schema = Mapping[str, Any]

ID = "0198b2c6-7f3e-7c41-9d5a-2b8e4f6a1c30"
_OTHER_ID = "0198b2c7-01aa-7d10-8c3f-5e6f7a8b9c0d"
_MOMENT = "2026-05-11T20:00:00.123456Z"
_SHA256 = "e7388625e7afa28ca7927662b2decb5077ef39c5ff1ab43f1847845232968087"
_REGO = """package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["example"],
	"diagnostics": [],
}
"""
_MANIFEST = [{"policy_version_id": _OTHER_ID}]

VALUES: Mapping[str, Any] = {
    "id": ID,
    "name": "Billing agent",
    "slug": "billing",
    "org_id": "default",
    "login_flow": "default",
    "ZoneAnswer.pkce_required": True,
    "identifier": "resource://billing",
    "ResourceAnswer.name": "resource://billing",
    "ResourceInput.name": "Billing API",
    "scopes": ["read", "write"],
    "upstream_url": "https://billing.example/api",
    "ProviderInput.identifier": "accounts",
    "ProviderAnswer.identifier": "accounts",
    "config_json": {"token_endpoint": "https://accounts.example/token"},
    "secret_config_keys": ["client_secret"],
    "client_id": "caracal",
    "traits": ["team:finance"],
    "issuer": "https://login.example",
    "audiences": ["my-client-id"],
    "algorithms": ["RS256", "ES256"],
    "subject_claim": "sub",
    "required_claims": {"hd": "corp.example"},
    "mapped_claims": ["groups"],
    "TrustedIssuerAnswer.name": "Staff",
    "TrustedIssuerInput.name": "Staff",
    "TrustedIssuerPatch.name": "Staff",
    "max_age_seconds": 600,
    "session_seconds": 3600,
    "single_use": True,
    "subject": "248289761001",
    "UserIdAnswer.user_id": "usr_nHkQ2vJ4rP7nB5kL8wZ3cD6fG1hA0eR2uY4iM9mX2yq",
    "credential_type": "token",
    "client_secret": "cs_9mX2yq0sTq1vJ4rP7nB5kL8wZ3cD6fG1hA0eR2uY4iM",
    "ApplicationInput.client_secret": None,
    "ApplicationPatch.client_secret": None,
    "ApplicationPatch.credential_type": None,
    "rate_limit": {"window_seconds": 60, "max_requests": 100},
    "window_seconds": 60,
    "max_requests": 100,
    "content": _REGO,
    "description": "Denies what no other policy allows.",
    "owner_type": "customer",
    "created_by": "bootstrap",
    "AdminTokenAnswer.created_by": ID,
    "AdminTokenWithText.created_by": ID,
    "schema_version": SCHEMA_VERSION,
    "content_sha256": _SHA256,
    "manifest_sha256": _SHA256,
    "manifest": _MANIFEST,
    "manifest_json": _MANIFEST,
    "PolicySetVersionWithManifest.policies": [ID],
    "version_id": _OTHER_ID,
    "active_version_id": _OTHER_ID,
    "position": 4711,
    "subject_id": "ada",
    "user_id": "ada",
    "Connected.status": "connected",
    "RevocationAnswer.status": "revoked",
    "RevocationAnswer.provider_revoked": True,
    "ProviderGrantAnswer.provider_id": _OTHER_ID,
    "ProviderGrantAnswer.authorization_status": "pending",
    "ProviderGrantAnswer.authorization_expires_at": _MOMENT,
    "authorization_url": "https://accounts.example/authorize?response_type=code&client_id=caracal",
    "redirect_uri": f"https://caracal.example/v1/zones/{ID}/provider-grants/oauth/callback"
    f"?provider={_OTHER_ID}",
    "scope": "global",
    "force": False,
    "LocalBootstrap.scope": "read agent:lifecycle",
    "app_client_secret": "6f1c0a9e4b7d2358c6e0f91a3b5d7e2846c8a0f1d3b5e792",
    "capability": "write",
    "approver_subject_id": "grace",
    "challenge_type": "human_approval",
    "expires_in": 86400,
    "kid": ID,
    "token": "cat_2vJ4rP7nB5kL8wZ3cD6fG1hA0eR2uY4iM9mX2yq0sTq",
    "event_type": "token_exchange",
    "decision": "allow",
    "evaluation_status": "complete",
    "metadata_json": {"resource": "resource://billing"},
    "status": "active",
    "would_activate": True,
    "Simulation.warnings": [],
    "retention_days": 30,
    "limit_days": 365,
    "session_type": "user",
    "request_id": _OTHER_ID,
}


def example(
    schema: Schema, schemas: Mapping[str, Schema], *, request: bool, name: str = "", of: str = ""
) -> Any:
    """Return an example of ``schema``: the member ``name`` of the schema named ``of``."""
    if (reference := schema.get("$ref")) is not None:
        of = reference.rpartition("/")[2]
        return example(schemas[of], schemas, request=request, name=name, of=of)
    for known in (f"{of}.{name}", name):
        if known in VALUES and "properties" not in schema:
            return VALUES[known]
    if (options := schema.get("anyOf")) is not None:
        return _of_options(options, schemas, request=request, name=name, of=of)
    if schema.get("type") == "object":
        return _object(schema, schemas, request=request, of=of)
    if schema.get("type") == "array":
        return [example(schema["items"], schemas, request=request, name=name, of=of)]
    return _plain(schema, name)


def _of_options(
    options: list[Schema], schemas: Mapping[str, Schema], *, request: bool, name: str, of: str
) -> Any:
    if name and {"type": "null"} in options:
        return None
    return example(options[0], schemas, request=request, name=name, of=of)


def _object(
    schema: Schema, schemas: Mapping[str, Schema], *, request: bool, of: str
) -> dict[str, Any]:
    required = schema.get("required", ())
    members = {
        name: example(part, schemas, request=request, name=name, of=of)
        for name, part in schema.get("properties", {}).items()
    }
    if not request:
        return members
    known = (name for name in members if name in VALUES or f"{of}.{name}" in VALUES)
    wanted = {*required, *(name for name in known if members[name] is not None)}
    return {name: value for name, value in members.items() if name in wanted}


def _plain(schema: Schema, name: str) -> Any:
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "string":
        is_id = name == "id" or name.endswith("_id")
        return _MOMENT if schema.get("format") == "date-time" else ID if is_id else name
    return {"integer": schema.get("minimum", 1), "boolean": False}.get(str(kind), {})
