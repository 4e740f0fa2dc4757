"""The loop over the requested resources, one verdict each (contract, section 8).

The rate limit (step D) is counted where the evidence is written, in one call for all; until then
a verdict says what holds within the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from caracal.errors import CaracalError, Forbidden, TooMany
from caracal.events.challenge import ChallengeType
from caracal.projections.memory import Row
from caracal.services.provider_kind import NOT_PROVISIONED
from caracal.services.sts.exchange import Exchange, Granted, Verdict
from caracal.services.sts.policies import Policies, Ruling
from caracal.services.sts.policy_input import policy_input
from caracal.services.sts.provider_directive import Brokered
from caracal.services.sts.refusals import InteractionRequired

EVAL_FAILED = "policy_eval_failed"


Credentials = Mapping[str, Brokered]
_NONE: Credentials = {}


async def decide(
    exchange: Exchange, policies: Policies, credentials: Credentials = _NONE
) -> list[Verdict]:
    """Return the verdict on each requested resource, in order.

    After one that ends the request the loop goes on: that one may be over its rate limit yet.

    Args:
        exchange: what is asked.
        policies: in force.
        credentials: of resources with a provider, by their id; without its own such a resource
            is refused, and its verdict says that it ``brokers``.
    """
    verdicts: list[Verdict] = []
    patient = True
    for requested in exchange.request.resources:
        verdict = await _decide(exchange, policies, requested, credentials, patient)
        patient = patient and verdict.ends is None
        verdicts.append(verdict)
    return verdicts


def conclude(
    verdicts: Sequence[Verdict], limited: Sequence[bool]
) -> tuple[list[Granted], CaracalError | None]:
    """Return what is granted, or why nothing is; rows 10 to 12 of the validation order.

    Args:
        verdicts: of all resources, in order.
        limited: which of them are over their rate limit.
    """
    granted: list[Granted] = []
    step_up: ChallengeType | None = None
    for verdict, over in zip(verdicts, limited, strict=True):
        if over:
            continue
        if verdict.ends is not None:
            return [], verdict.ends
        step_up = step_up or verdict.step_up
        if verdict.allowed and verdict.resource is not None:
            granted.append(
                Granted(verdict.requested, verdict.resource, verdict.grant_id, verdict.upstream)
            )
    if step_up is not None:
        return [], InteractionRequired(step_up)
    if granted:
        return granted, None
    if all(limited):
        return [], TooMany("provider_rate_limited", "too many exchanges for the resource")
    return [], Forbidden("access_denied", "policy denied")


async def _decide(
    exchange: Exchange,
    policies: Policies,
    requested: str,
    credentials: Credentials,
    patient: bool,
) -> Verdict:
    resource = exchange.zone.resource(requested)
    if resource is None:
        return Verdict(requested, "resource_not_found", unknown=True)
    if not set(exchange.request.scopes) <= set(resource["scopes"]):
        return Verdict(requested, "scope_mismatch", resource)
    delegation = exchange.binding.delegation
    if delegation is not None and not delegation.covers(resource):
        return Verdict(requested, "resource_outside_delegation", resource)
    if resource["provider_id"] is None:
        verdict = _by_grant(exchange, requested, resource)
    else:
        verdict = _by_credential(exchange, requested, resource, credentials.get(resource["id"]))
    if not verdict.allowed:
        return verdict
    return await _by_policy(exchange, policies, verdict, patient)


def _by_grant(exchange: Exchange, requested: str, resource: Row) -> Verdict:
    """Step E. Where there never was a grant, policy alone decides."""
    zone, application_id = exchange.zone, exchange.application["id"]
    if not zone.has_grants(application_id, resource["id"]):
        return Verdict(requested, "complete", resource, allowed=True, counted=True)
    for grant in exchange.grants(resource):
        return Verdict(
            requested, "complete", resource, allowed=True, counted=True, grant_id=grant["id"]
        )
    return Verdict(requested, "grant_required", resource, counted=True, unknown=True)


def _by_credential(
    exchange: Exchange, requested: str, resource: Row, found: Brokered | None
) -> Verdict:
    """Step E of a resource with a provider."""
    refused = Verdict(requested, NOT_PROVISIONED, resource, counted=True)
    if found is None:
        return replace(refused, brokers=True)
    if no := found.refused:
        return replace(refused, status=no.status, reason=no.reason, unknown=no.unknown)
    if not found.is_of(exchange.zone.provider(resource["provider_id"])):
        return replace(refused, reason="the provider has changed meanwhile", unknown=True)
    if not found.needs_grant:
        return replace(_by_grant(exchange, requested, resource), upstream=found.upstream)
    return replace(
        refused,
        status="complete",
        allowed=True,
        grant_id=found.grant_id,
        upstream=found.upstream,
    )


async def _by_policy(
    exchange: Exchange, policies: Policies, verdict: Verdict, patient: bool
) -> Verdict:
    """Steps F to I."""
    assert verdict.resource is not None
    given = policy_input(exchange, verdict.resource)
    try:
        ruling = await policies.evaluate(exchange.zone.id, given, patient=patient)
    except CaracalError as error:
        return replace(verdict, allowed=False, status=EVAL_FAILED, ends=error, policy_input=given)
    decision = ruling.decision
    return replace(
        verdict,
        allowed=decision.allowed,
        decision="allow" if decision.allowed else "deny",
        status=decision.evaluation_status,
        ends=_unusable(ruling),
        by=ruling.by,
        step_up=None if exchange.challenge_resolved else decision.step_up,
        unknown=ruling.by is None,
        determining_policies=decision.determining_policies,
        diagnostics=decision.diagnostics,
        policy_input=given,
    )


def _unusable(ruling: Ruling) -> CaracalError | None:
    if ruling.decision.evaluation_status == "complete":
        return None
    return Forbidden(EVAL_FAILED, "the policy gave no usable decision")
