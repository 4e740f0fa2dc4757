"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from caracal.cli.text import printable
from caracal.errors import CaracalError, StartError, Unavailable

REFUSED, USAGE, UNREACHABLE = 1, 2, 3

_GONE = frozenset({502, 503, 504})  # it answered, and cannot say now: as good as out of reach
_MAX_ISSUES = 5

_HINTS = {
    "invalid_admin_token": "set CARACAL_ADMIN_TOKEN, or name a --token-file",
    "admin_token_zone_mismatch": "name the zone of this token, by its id, with --zone",
    "admin_token_capability": "use a token of capability write",
    "admin_token_management_requires_global": "use a token of scope global",
    "rate_limited": "wait a minute, or raise API_V1_RATE_LIMIT_PER_MIN (agents: COORDINATOR_…)",
    "zone_not_found": "`caracal zone list` shows the zones",
    "application_not_found": "`caracal app list` shows the applications",
    "resource_not_found": "`caracal resource list` shows the resources",
    "provider_not_found": "`caracal provider list` shows the providers",
    "trusted_issuer_not_found": "`caracal issuer list` shows the issuers",
    "trusted_issuer_conflict": "`caracal issuer patch` changes the rules it has",
    "policy_not_found": "`caracal policy list` shows the policies",
    "policy_set_not_found": "`caracal policy-set list` shows the sets",
    "policy_set_binding_not_found": "`caracal policy-set list` shows the sets",
    "version_not_found": "`caracal policy-set add-version` makes one",
    "grant_not_found": "`caracal grant list` shows the grants",
    "challenge_not_found": "`caracal challenge list` shows the challenges",
    "challenge_not_found_or_expired": "`caracal challenge list` shows the challenges",
    "admin_token_not_found": "`caracal token list` shows the tokens",
    "policy_template_not_found": "`caracal template list` shows the templates",
    "agent_not_found": "`caracal agent list` shows the agents",
    "delegation_not_found": "`caracal delegation active` shows the delegations",
    "request_not_found": "a decision takes a moment to reach the ledger: try again",
    "dcr_shutdown_required": "say --dcr-shutdown keep_live or revoke_live",
    "dcr_disabled": "`caracal zone patch --dcr-enabled` allows it",
    "grant_scopes_exceed_resource": "`caracal resource get` shows the scopes it has",
    "provider_takes_no_consent": "`caracal provider get` shows its kind; users consent to oauth2",
    "provider_not_configured": "`caracal provider patch` sets what is missing",
    "callback_url_not_configured": "set API_URL of the control plane",
    "return_to_not_allowed": "`caracal provider patch` sets allowed_return_urls",
    "authorization_issuer_mismatch": "is the provider's `issuer` what it calls itself?",
    "no_fields": "name at least one member to change",
    "invalid_token": "CARACAL_COORDINATOR_TOKEN is not this Coordinator's",
    "operator_token_required": "set CARACAL_COORDINATOR_TOKEN",
    "coordinator_url_not_configured": "set CARACAL_COORDINATOR_URL, or --coordinator-url",
    "coordinator_token_not_configured": "set CARACAL_COORDINATOR_TOKEN",
    "not_found": "does this server know the command, and is --api-url right?",
    "admin_request_failed": "is it running (`caracal status`), and is --api-url right?",
    "admin_request_timeout": "is it running (`caracal status`)?",
    "internal_error": "the service's log says more under this request id",
}


class Failure(CaracalError):
    """The command ends here.

    Args:
        code: snake_case, as in the error catalogue.
        description: a sentence for people.
        hint: what to do about it; by ``code`` when None.
        exit_code: REFUSED, USAGE or UNREACHABLE.
    """

    def __init__(
        self, code: str, description: str, hint: str | None = None, *, exit_code: int = REFUSED
    ) -> None:
        super().__init__(code, description)
        self.hint = hint
        self.exit_code = exit_code


@contextmanager
def reported() -> Iterator[None]:
    """Turn what stops a command into one line on standard error and an exit code."""
    try:
        yield
    except CaracalError as error:
        typer.echo(f"caracal: {line_of(error)}", err=True)
        raise typer.Exit(exit_code_of(error)) from None
    except (typer.Exit, typer.Abort, typer.BadParameter, OSError):
        raise  # typer knows what to do
    except Exception as error:  # noqa: BLE001 - a bug of ours; people get no traceback of it
        name = type(error).__name__
        typer.echo(f"caracal: internal_error: {name} in the command itself", err=True)
        raise typer.Exit(REFUSED) from None


def exit_code_of(error: CaracalError) -> int:
    """Return the exit code that tells of ``error``."""
    if isinstance(error, Failure):
        return error.exit_code
    if isinstance(error, StartError) or error.code.endswith("_not_configured"):
        return USAGE
    is_answer = hasattr(error, "body")
    if isinstance(error, Unavailable) or (is_answer and error.status in _GONE):
        return UNREACHABLE
    return UNREACHABLE if not is_answer and error.code.startswith("admin_request_") else REFUSED


def line_of(error: CaracalError) -> str:
    """Return code, sentence, request id and what to do, in one line."""
    if isinstance(error, StartError):
        return printable(error.description)
    body = getattr(error, "body", None)
    sentence = _sentence(error, body if isinstance(body, dict) else {})
    request_id = getattr(error, "request_id", None)
    asked = f" (request {request_id})" if request_id else ""
    hint = getattr(error, "hint", None) or _HINTS.get(error.code)
    return printable(f"{error.code}: {sentence}{asked}" + (f"; {hint}" if hint else ""))


def _sentence(error: CaracalError, body: dict[str, Any]) -> str:
    told = body.get("error_description") or (error.description if not body else "")
    said = str(told or error.code.replace("_", " "))
    more = [_issue(issue) for issue in _dicts(body.get("issues"))[:_MAX_ISSUES]]
    more.append(str(body.get("detail") or ""))
    new = [each for each in more if each not in said]
    return f"{said}: {'; '.join(new)}" if new else said


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _issue(issue: dict[str, Any]) -> str:
    path, message = issue.get("path"), str(issue.get("message") or "")
    place = ".".join(map(str, path)) if isinstance(path, list) else ""
    return f"{place}: {message}" if place else message
