"""Tries a policy set version out: ``POST /v1/zones/{zone_id}/policy-sets/{id}/simulate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel

from caracal.errors import Conflict, Unprocessable
from caracal.events.policy_set import PolicySetVersion
from caracal.policy.engine import MAX_INPUT, Decision, PolicyCompileError
from caracal.policy.input_schema import input_warnings
from caracal.policy.trial import evaluate
from caracal.projections.policy import zone_versions
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.policy_set import BROKEN, binding_not_found, check_versions, find_set
from caracal.services.fields import Id
from caracal.services.models import Body
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/policy-sets", tags=["policy sets"])


def _evaluable(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse what no exchange could give, so that its end is not mistaken for a decision."""
    try:
        size = len(orjson.dumps(value))
    except TypeError:
        raise ValueError("must be JSON: Unicode, 64-bit integers, not nested too deep") from None
    if size > MAX_INPUT:
        raise ValueError(f"must have at most {MAX_INPUT} bytes")
    return value


class SimulationInput(Body):
    version_id: Id
    input: Annotated[dict[str, Any] | None, AfterValidator(_evaluable)] = None


class SimulatedPolicy(BaseModel):
    policy_id: str
    policy_version_id: str
    name: str
    version: int
    content_sha256: str
    archived: bool


class Obstacle(BaseModel):
    """Why activating would be refused: the code, detail and sentence of that refusal."""

    error: str
    detail: str | None
    reason: str


class Explanation(BaseModel):
    """``determining_policies`` as the decision names them; empty without one."""

    summary: str
    determining_policies: list[str | dict[str, Any]]
    obstacles: list[Obstacle]


class Simulation(BaseModel):
    """``result`` is null when no input was given, or no decision can be made."""

    dry_run: Literal[True] = True
    would_activate: bool
    policies: list[SimulatedPolicy]
    warnings: list[str]
    explanation: Explanation
    result: dict[str, Any] | None


@router.post("/{policy_set_id}/simulate")
@refuses("policy_set_binding_not_found", "version_not_found")
async def simulate(
    zone_id: ZoneId, policy_set_id: PathId, body: SimulationInput, call: CallDep
) -> Simulation:
    """Say whether a version could be activated, and what it decides on an input.

    Changes nothing; evaluated in a process that is killed at its limits.
    """
    found = await find_set(call, zone_id, policy_set_id, binding_not_found(policy_set_id))
    version = found.version_of(body.version_id, "version_not_found")
    obstacles = await _obstacles(call, zone_id, version)
    async with call.database() as db:
        rows = await zone_versions(db, zone_id, version.manifest)
    decision = None
    if body.input is not None and len(rows) == len(version.manifest):
        try:
            decision = await evaluate([(row["id"], row["content"]) for row in rows], body.input)
        except PolicyCompileError as error:
            obstacles = obstacles or [Obstacle(error=error.code, detail=None, reason=_COMPILED)]
    return Simulation(
        would_activate=not obstacles,
        policies=[SimulatedPolicy(**row, policy_version_id=row["id"]) for row in rows],
        warnings=[] if body.input is None else input_warnings(body.input, zone_id),
        explanation=_explanation(decision, obstacles),
        result=None if decision is None else asdict(decision),
    )


_COMPILED = "the policies do not compile together"


async def _obstacles(call: Call, zone_id: str, version: PolicySetVersion) -> list[Obstacle]:
    try:
        await check_versions(call, zone_id, {BROKEN: version})
    except (Conflict, Unprocessable) as refusal:
        detail = refusal.extras.get("detail")
        return [Obstacle(error=refusal.code, detail=detail, reason=refusal.description)]
    return []


def _explanation(decision: Decision | None, obstacles: list[Obstacle]) -> Explanation:
    would = f"would not activate: {obstacles[0].reason}" if obstacles else "would activate"
    determining = [] if decision is None else decision.determining_policies
    return Explanation(
        summary=f"{would}; {_told(decision)}",
        determining_policies=determining,
        obstacles=obstacles,
    )


def _told(decision: Decision | None) -> str:
    if decision is None:
        return "nothing was decided"
    if decision.evaluation_status != "complete":
        return f"no usable decision, which denies (status {decision.evaluation_status})"
    if decision.allowed:
        return "allows this input"
    return "denies this input" + (f" until {decision.step_up}" if decision.step_up else "")
