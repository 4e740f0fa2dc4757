"""The error codes of the control plane, and which route answers which.

A route says by :func:`refuses` what only its own decision can answer; what follows from its form
(a token, a zone, a body, a list) is implied and stands here once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from caracal.services.documented import body_code

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_BY_STATUS: Mapping[int, Mapping[str, str]] = {
    400: {
        "invalid_body": "the body does not fit its schema",
        "invalid_zone": "the body of a zone does not fit its schema",
        "invalid_params": "an id in the path, or Caracal-Min-Position, is malformed",
        "invalid_query": "a query parameter is malformed or out of range",
        "invalid_cursor": "the cursor is none that a Link header gave",
        "no_fields": "nothing to change was sent",
        "dcr_shutdown_not_applicable": "dcr_shutdown goes with dcr_enabled false only",
        "retention_above_limit": "the retention is above the maximum of this deployment",
        "return_to_not_allowed": "the provider does not list this URL in allowed_return_urls",
        "authorization_state_invalid": "no authorization waits for this answer",
        "authorization_issuer_mismatch": "the answer is not the provider's own",
    },
    401: {"invalid_admin_token": "a valid admin token is needed"},
    403: {
        "admin_token_zone_mismatch": "this token is for another zone",
        "admin_token_capability": "this token may only read",
        "admin_token_management_requires_global": "a global token is needed",
        "authorization_denied": "the provider's consent was not given",
        "dcr_disabled": "the zone takes no dynamic registrations",
        "grant_scopes_exceed_resource": "the resource has not all these scopes",
        "loopback_only": "bootstrap answers callers on this machine only",
        "trait_count_exceeded": "there are too many traits",
        "trait_invalid": "a trait is malformed",
        "trait_duplicate": "a trait stands twice",
        "trait_forbidden": "traits of control are given by global tokens only",
    },
    404: {
        "not_found": "there is no such route",
        "zone_not_found": "there is no such zone",
        "application_not_found": "there is no such application",
        "resource_not_found": "there is no such resource",
        "provider_not_found": "there is no such provider",
        "trusted_issuer_not_found": "there is no such trusted issuer",
        "policy_not_found": "there is no such policy",
        "policy_set_not_found": "there is no such policy set",
        "policy_set_version_not_found": "the policy set has no such version",
        "grant_not_found": "there is no such grant",
        "challenge_not_found": "there is no such challenge",
        "challenge_not_found_or_expired": "there is no such challenge, or it is over",
        "request_not_found": "nothing in this zone is known of that request",
        "admin_token_not_found": "there is no such admin token",
        "policy_template_not_found": "there is no such policy template",
        "gateway_application_not_found": "there is no such application for the Gateway",
        "version_not_found": "the policy set has no such version",
        "shadow_version_not_found": "the policy set has no such version to shadow with",
        "policy_set_binding_not_found": "there is no such policy set to activate",
    },
    405: {"method_not_allowed": "the path has other methods"},
    408: {"request_timeout": "the body did not come in time"},
    409: {
        "zone_slug_conflict": "another zone has this slug",
        "resource_identifier_conflict": "another resource has this identifier",
        "provider_identifier_conflict": "another provider has this identifier",
        "provider_secret_unreadable": "what is kept cannot be read; name all secrets anew",
        "provider_takes_no_consent": "no consent of a user gives the resource's credential",
        "provider_not_configured": "the provider lacks what an authorization needs, see detail",
        "callback_url_not_configured": "API_URL is not set, so no browser could come back",
        "authorization_failed": "the provider gave no tokens",
        "trusted_issuer_conflict": "the zone has rules for this issuer already",
        "policy_name_conflict": "another policy has this name",
        "policy_set_name_conflict": "another policy set has this name",
        "app_referenced_by_active_policy": "a policy of the active set names the application",
        "referenced_policy_version_missing": "a policy was archived since",
        "zone_not_local_bootstrap": "zone1 was not made by bootstrap, or not all of it is left",
        "dcr_shutdown_required": "say what becomes of the registrations that are live",
        "resource_quota_exceeded": "the zone has as many resources as it may",
        "challenge_not_satisfiable": "nobody approves their own challenge",
        "last_admin_token": "no other global write token is live",
        "concurrent_update": "the thing kept changing; try again",
    },
    413: {"payload_too_large": "the body is over the limit"},
    422: {
        "invalid_rego": "the policy is refused, the reason is in detail",
        "invalid_schema_version": "there is no such schema version",
        "invalid_policy_contract": "the manifest is refused, the reason is in detail",
        "invalid_shadow_policy_contract": "the shadow's manifest is refused, see detail",
    },
    429: {
        "rate_limited": "too many requests; slow down",
        "dcr_rate_limit_exceeded": "too many registrations in this second",
        "dcr_limit_exceeded": "the zone has as many dynamic registrations as it may",
    },
    500: {"internal_error": "internal error"},
    503: {
        "projection_lagging": "the read models have not come that far yet",
        "state_stale": "the state is not known to be current",
        "unavailable": "the database cannot be reached now",
    },
}
STATUS_OF: Mapping[str, int] = {
    code: status for status, codes in _BY_STATUS.items() for code in codes
}
TEXT_OF: Mapping[str, str] = {
    code: text for codes in _BY_STATUS.values() for code, text in codes.items()
}


def refuses(*codes: str) -> Callable[[Endpoint], Endpoint]:
    """Declare the codes that only this route answers; without any: there are none."""

    def declare(endpoint: Endpoint) -> Endpoint:
        vars(endpoint)["refuses"] = codes
        return endpoint

    return declare


def declared(endpoint: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return what :func:`refuses` said of a route; None when it was forgotten."""
    return getattr(endpoint, "refuses", None)


def implied(path: str, method: str, operation: Mapping[str, Any], *, public: bool) -> list[str]:
    """Return the codes that follow from the form of an operation of the OpenAPI."""
    codes = ["invalid_params", "internal_error", "unavailable", "projection_lagging"]
    if not public:
        codes += _guarded(path, method)
    if path.startswith("/v1/zones/{zone_id}/"):
        codes.append("zone_not_found")
    if "requestBody" in operation:
        codes += [body_code(operation["tags"]), "payload_too_large", "request_timeout"]
    return codes + _of_parameters(operation.get("parameters", ()))


def _guarded(path: str, method: str) -> list[str]:
    codes = ["invalid_admin_token", "rate_limited", "state_stale"]
    tokens = path.startswith("/v1/admin-tokens")
    codes.append(f"admin_token_{'management_requires_global' if tokens else 'zone_mismatch'}")
    if method != "get":
        codes += ["admin_token_capability", "concurrent_update"]
    return codes


def _of_parameters(parameters: Iterable[Mapping[str, Any]]) -> list[str]:
    names = {(parameter["in"], parameter["name"]) for parameter in parameters}
    places = {place for place, _ in names}
    codes = {
        "not_found": "path" in places,  # an id with an encoded slash
        "invalid_query": "query" in places,
        "invalid_cursor": ("query", "cursor") in names,
    }
    return [code for code, applies in codes.items() if applies]
