"""Recorded decisions, decided again: ``/v1/zones/{zone_id}/audit/by-request/{id}/replay``.

An entry keeps all that its decision depended on, so the same policies on the same input must say
the same, bit for bit. In a process of its own that is killed at its limits, never in this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from caracal.errors import NotFound
from caracal.policy.engine import ENGINE_VERSION, Bundle, Decision, PolicyCompileError, deny
from caracal.policy.trial import evaluate_all
from caracal.projections.audit import decisions_of_request
from caracal.projections.audit_row import canonical
from caracal.projections.policy_set import recorded_bundle
from caracal.services.api.audit import trail_of
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.fields import Word
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/audit", tags=["audit"])

MAX_REPLAYED = 300
"""A request has at most 256 resources; only one whose id was used again has more."""

_SECONDS = 20.0
_COMPARED = ("decision", "evaluation_status", "determining_policies", "diagnostics")
_SHADOW = "shadow"
_OUTSIDE = {
    "no_policy_asked": "no policy was asked: refused before, or the sum of the other decisions",
    "no_policy_in_force": "no policy set version spoke: none was in force",
    "policies_not_as_recorded": "its policies are not there as they were recorded",
    "left_out": f"only the first {MAX_REPLAYED} are decided again",
}


class Result(BaseModel):
    """What policies said, which, and by which engine."""

    decision: str
    evaluation_status: str | None
    determining_policies: list[Any]
    diagnostics: list[Any]
    policy_set_version_id: str
    manifest_sha: str
    engine_version: str | None


class ReplayedDecision(BaseModel):
    """``differences`` names the members of the two results that differ; none: identical."""

    event_id: str
    resource: str | None
    log_position: int | None
    identical: bool
    recorded: Result
    replayed: Result
    differences: list[str]


class NotReplayed(BaseModel):
    """A decision that no policy can decide again."""

    event_id: str
    event_type: str
    reason: str
    explanation: str


class Replay(BaseModel):
    """``identical``: something was decided again, and all of it as it was."""

    request_id: str
    zone_id: str
    policy_set_version_id: str | None
    engine_version: str
    identical: bool
    decisions: list[ReplayedDecision]
    not_replayed: list[NotReplayed]


Row = Mapping[str, Any]


@router.get("/by-request/{request_id}/replay")
@refuses("request_not_found", "policy_set_version_not_found")
async def replay(
    zone_id: ZoneId, request_id: PathId, call: CallDep, policy_set_version: Word = None
) -> Replay:
    """Decide again what was decided on a request, by the same policies or by another version."""
    async with call.database() as db:
        rows = await decisions_of_request(db, zone_id, request_id)
    if not rows:
        await trail_of(call, zone_id, request_id)  # facts alone: nothing was decided
    bundles = await _bundles(call, zone_id, rows, policy_set_version)
    outside = {row["id"]: reason for row in rows if (reason := _outside(row, bundles))}
    inside = [row for row in rows if row["id"] not in outside]
    outside |= {row["id"]: "left_out" for row in inside[MAX_REPLAYED:]}
    decisions = await _replayed(inside[:MAX_REPLAYED], bundles)
    return Replay(
        request_id=request_id,
        zone_id=zone_id,
        policy_set_version_id=policy_set_version,
        engine_version=ENGINE_VERSION,
        identical=bool(decisions) and all(one.identical for one in decisions),
        decisions=decisions,
        not_replayed=[
            _not_replayed(row, outside[row["id"]]) for row in rows if row["id"] in outside
        ],
    )


class _Bundles:
    """The policies of each version that is needed; ``asked`` decides in place of all."""

    def __init__(self, found: Mapping[str, Bundle | None], asked: str | None) -> None:
        self._found, self._asked = found, asked

    def version(self, row: Row) -> str | None:
        return self._asked or row["policy_set_version_id"]

    def of(self, row: Row) -> Bundle | None:
        return self._found.get(self.version(row) or "")

    def is_as_recorded(self, row: Row) -> bool:
        bundle = self.of(row)
        recorded = self._asked is None and row["manifest_sha"]
        return bundle is not None and (not recorded or bundle.manifest_sha256 == recorded)


async def _bundles(call: Call, zone_id: str, rows: Sequence[Row], asked: str | None) -> _Bundles:
    wanted = {asked} if asked else {row["policy_set_version_id"] for row in rows} - {None}
    async with call.database() as db:
        found = {version: await recorded_bundle(db, zone_id, version) for version in wanted}
    if asked and found[asked] is None:
        raise NotFound("policy_set_version_not_found", f"there is no version {asked!r}")
    return _Bundles(found, asked)


def _outside(row: Row, bundles: _Bundles) -> str | None:
    """Return why a decision cannot be made again; None when it can."""
    if not isinstance(_meta(row).get("policy_input"), dict):
        return "no_policy_asked"
    if bundles.version(row) is None:
        return "no_policy_in_force"
    return None if bundles.is_as_recorded(row) else "policies_not_as_recorded"


async def _replayed(rows: Sequence[Row], bundles: _Bundles) -> list[ReplayedDecision]:
    by_version: dict[str, list[Row]] = {}
    for row in rows:
        by_version.setdefault(bundles.version(row) or "", []).append(row)
    done: dict[str, ReplayedDecision] = {}
    for version, of_version in by_version.items():
        bundle = bundles.of(of_version[0])
        assert bundle is not None
        inputs = [_meta(row)["policy_input"] for row in of_version]
        for row, decision in zip(of_version, await _decided(bundle, inputs), strict=True):
            done[row["id"]] = _compared(row, decision, version, bundle)
    return [done[row["id"]] for row in rows]


async def _decided(bundle: Bundle, inputs: Sequence[Mapping[str, Any]]) -> list[Decision]:
    try:
        return await evaluate_all(bundle.modules, inputs, timeout=_SECONDS)
    except PolicyCompileError:
        return [deny("policy_compile_failed")] * len(inputs)


def _compared(row: Row, decision: Decision, version: str, bundle: Bundle) -> ReplayedDecision:
    meta = _meta(row)
    recorded = Result(
        decision=row["decision"],
        evaluation_status=row["evaluation_status"],
        determining_policies=row["determining_policies_json"] or [],
        diagnostics=row["diagnostics_json"] or [],
        policy_set_version_id=row["policy_set_version_id"] or "",
        manifest_sha=row["manifest_sha"] or "",
        engine_version=meta.get("engine_version"),
    )
    is_shadow = recorded.evaluation_status == _SHADOW  # of such, the status says just that
    replayed = Result(
        decision="allow" if decision.allowed else "deny",
        evaluation_status=_SHADOW if is_shadow else decision.evaluation_status,
        determining_policies=decision.determining_policies,
        diagnostics=decision.diagnostics,
        policy_set_version_id=version,
        manifest_sha=bundle.manifest_sha256,
        engine_version=ENGINE_VERSION,
    )
    differences = [name for name in _COMPARED if _text(recorded, name) != _text(replayed, name)]
    return ReplayedDecision(
        event_id=row["id"],
        resource=meta.get("resource"),
        log_position=meta.get("log_position"),
        identical=not differences,
        recorded=recorded,
        replayed=replayed,
        differences=differences,
    )


def _text(result: Result, name: str) -> str:
    return canonical(getattr(result, name))


def _meta(row: Row) -> dict[str, Any]:
    return row["metadata_json"] or {}


def _not_replayed(row: Row, reason: str) -> NotReplayed:
    return NotReplayed(
        event_id=row["id"],
        event_type=row["event_type"],
        reason=reason,
        explanation=_OUTSIDE[reason],
    )
