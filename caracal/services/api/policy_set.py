"""Policy sets, their versions, and which one is active: ``/v1/zones/{zone_id}/policy-sets``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from caracal.errors import CaracalError, Conflict, NotFound
from caracal.events.policy_set import (
    PolicySet,
    PolicySetVersion,
    active_key,
    policy_set_not_found,
)
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.policy import policies_of
from caracal.projections.policy_set import (
    get_policy_set,
    get_policy_set_version,
    list_policy_sets,
)
from caracal.services.api.call import Call, CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.api.policy_contract import (
    SCHEMA_VERSION,
    Description,
    broken,
    check_contract,
    check_schema_version,
    find_versions,
)
from caracal.services.call import no_content
from caracal.services.fields import Id
from caracal.services.models import Answer, Body, Name, Text
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/policy-sets", tags=["policy sets"])

BROKEN, _SHADOW_BROKEN = "invalid_policy_contract", "invalid_shadow_policy_contract"
"""Code of a broken contract of a version to activate, and of the one in its shadow."""


class PolicySetInput(Body):
    name: Name
    description: Description | None = None


class ManifestItem(Body):
    policy_version_id: Id


class PolicySetVersionInput(Body):
    manifest: Annotated[list[ManifestItem], Field(min_length=1, max_length=256)]
    schema_version: Text = SCHEMA_VERSION


class ActivationInput(Body):
    version_id: Id
    shadow_version_id: Id | None = None


class PolicySetAnswer(Answer):
    id: str
    zone_id: str
    name: str
    description: str | None
    active_version_id: str | None
    shadow_version_id: str | None
    created_at: datetime


class PolicySetVersionAnswer(Answer):
    id: str
    policy_set_id: str
    version: int
    manifest_sha256: str
    schema_version: str
    created_at: datetime


class PolicySetVersionWithManifest(PolicySetVersionAnswer):
    manifest_json: list[dict[str, str]]
    policies: list[str]


class Activation(BaseModel):
    activated: Literal[True] = True
    version_id: str
    shadow_version_id: str | None
    position: int | None
    """In the log; null when this very activation was in force already."""
    status_url: str


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[PolicySetAnswer]:
    """List the zone's policy sets, newest first."""
    async with call.database() as db:
        rows = await list_policy_sets(db, zone_id, page)
    return [PolicySetAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("policy_set_name_conflict")
async def create(zone_id: ZoneId, body: PolicySetInput, call: CallDep) -> PolicySetAnswer:
    """Create a policy set, without a version as yet."""
    set_id, made = new_id(), list[PolicySet]()

    async def command() -> Saved:
        made[:] = [PolicySet.create(set_id, zone_id=zone_id, **body.model_dump())]
        return await call.api.log.save(*made)

    await call.commit(command, zone_id)
    return PolicySetAnswer.of(made[0])


@router.get("/{policy_set_id}")
@refuses("policy_set_not_found")
async def get(zone_id: ZoneId, policy_set_id: PathId, call: CallDep) -> PolicySetAnswer:
    """Show a policy set."""
    async with call.database() as db:
        row = await get_policy_set(db, zone_id, policy_set_id)
    if row is None:
        raise policy_set_not_found(policy_set_id)
    return PolicySetAnswer(**row)


@router.delete("/{policy_set_id}", status_code=204)
@refuses("policy_set_not_found")
async def delete(zone_id: ZoneId, policy_set_id: PathId, call: CallDep) -> Response:
    """Archive a policy set. Was it the active one, the zone has no policy and denies all."""
    missing = policy_set_not_found(policy_set_id)
    await call.change(PolicySet, policy_set_id, zone_id, PolicySet.archive, missing)
    return no_content(call)


@router.post("/{policy_set_id}/versions", status_code=201)
@refuses("policy_set_not_found", "invalid_policy_contract", "invalid_schema_version")
async def add_version(
    zone_id: ZoneId, policy_set_id: PathId, body: PolicySetVersionInput, call: CallDep
) -> PolicySetVersionAnswer:
    """Add the next version: a manifest of policies that hold the contract, in this order."""
    missing = policy_set_not_found(policy_set_id)
    check_schema_version(body.schema_version)
    await find_set(call, zone_id, policy_set_id, missing)
    manifest = [item.policy_version_id for item in body.manifest]
    policies = await _check_manifest(call, zone_id, manifest)
    version_id, schema_version = new_id(), body.schema_version

    def add(policy_set: PolicySet) -> None:
        policy_set.add_version(
            version_id, manifest=manifest, schema_version=schema_version, policies=policies
        )

    changed = await call.change(PolicySet, policy_set_id, zone_id, add, missing)
    return PolicySetVersionAnswer(
        policy_set_id=policy_set_id, **asdict(changed.version_of(version_id))
    )


@router.get("/{policy_set_id}/versions/{version_id}")
@refuses("policy_set_not_found", "policy_set_version_not_found")
async def get_version(
    zone_id: ZoneId, policy_set_id: PathId, version_id: PathId, call: CallDep
) -> PolicySetVersionWithManifest:
    """Show a version: its manifest, and the ids of the policies in it."""
    async with call.database() as db:
        if await get_policy_set(db, zone_id, policy_set_id) is None:
            raise policy_set_not_found(policy_set_id)
        row = await get_policy_set_version(db, policy_set_id, version_id)
        if row is None:
            raise NotFound("policy_set_version_not_found", f"there is no version {version_id!r}")
        policies = await policies_of(db, row["manifest"])
    manifest = [{"policy_version_id": item} for item in row["manifest"]]
    return PolicySetVersionWithManifest(**row, manifest_json=manifest, policies=policies)


@router.post("/{policy_set_id}/activate", status_code=202)
@refuses(
    "policy_set_binding_not_found",
    "version_not_found",
    "shadow_version_not_found",
    "referenced_policy_version_missing",
    BROKEN,
    _SHADOW_BROKEN,
)
async def activate(
    zone_id: ZoneId, policy_set_id: PathId, body: ActivationInput, call: CallDep
) -> Activation:
    """Make this the zone's only active set; without a shadow version, clear the shadow."""
    missing = binding_not_found(policy_set_id)
    chosen = await find_set(call, zone_id, policy_set_id, missing)
    policies = await check_versions(call, zone_id, _chosen_versions(chosen, body))

    async def command() -> Saved:
        found = await find_set(call, zone_id, policy_set_id, missing)
        holder = await call.api.log.owner(active_key(zone_id))
        other = None if holder in (None, policy_set_id) else str(holder)
        replacing = await call.api.log.find(PolicySet, other) if other else None
        found.activate(
            body.version_id, body.shadow_version_id, policies=policies, replacing=replacing
        )
        # The new one first: a reader of the topic never sees the zone without policy.
        things = (found,) if replacing is None else (found, replacing)
        return await call.api.log.save(*things)

    saved = await call.commit(command, zone_id)
    return Activation(
        **body.model_dump(),
        position=saved.position,
        status_url=_status_url(zone_id, policy_set_id, body.version_id, saved.position),
    )


def _status_url(zone_id: str, policy_set_id: str, version_id: str, position: int | None) -> str:
    """Return where to ask for the status of an activation, a path of this API."""
    query = {"version_id": version_id} | ({} if position is None else {"position": position})
    path = f"/v1/zones/{zone_id}/policy-sets/{policy_set_id}/activation-status"
    return f"{path}?{urlencode(query)}"


def binding_not_found(policy_set_id: str) -> NotFound:
    """Return the refusal of activation, simulation and status where there is no such set."""
    return NotFound("policy_set_binding_not_found", f"there is no policy set {policy_set_id!r}")


async def find_set(call: Call, zone_id: str, set_id: str, missing: CaracalError) -> PolicySet:
    """Load a set of the zone from the log.

    Raises:
        CaracalError: ``missing``, there is none or it is archived.
    """
    found = await call.find(PolicySet, set_id, zone_id)
    if found is None or found.archived:
        raise missing
    return found


async def _check_manifest(call: Call, zone_id: str, manifest: Sequence[str]) -> set[str]:
    """Check a new manifest; return the ids of its policies."""
    seen: set[str] = set()
    for version_id in manifest:
        if version_id in seen:
            raise broken(BROKEN, f"duplicate_policy_version:{version_id}")
        seen.add(version_id)
    rows = await find_versions(call, zone_id, manifest)
    for version_id in manifest:
        if version_id not in rows:
            raise broken(BROKEN, f"policy_version_missing:{version_id}")
    contents = [rows[version_id]["content"] for version_id in manifest]
    await check_contract(call, zone_id, contents, BROKEN)
    return {row["policy_id"] for row in rows.values()}


def _chosen_versions(chosen: PolicySet, body: ActivationInput) -> dict[str, PolicySetVersion]:
    """Return the versions to activate, by the code of a broken contract."""
    versions = {BROKEN: chosen.version_of(body.version_id, "version_not_found")}
    if (shadow_id := body.shadow_version_id) is not None:
        versions[_SHADOW_BROKEN] = chosen.version_of(shadow_id, "shadow_version_not_found")
    return versions


async def check_versions(
    call: Call, zone_id: str, versions: dict[str, PolicySetVersion]
) -> set[str]:
    """Check stored manifests again; return the ids of their policies.

    Raises:
        Conflict: 409 ``referenced_policy_version_missing``, a policy was archived since.
        Unprocessable: 422 with the code in ``versions``, the reason in ``detail``.
    """
    ids = {item for version in versions.values() for item in version.manifest}
    rows = await find_versions(call, zone_id, ids)
    if gone := sorted(ids - rows.keys()):
        raise Conflict(
            "referenced_policy_version_missing", "a policy was archived since", detail=gone[0]
        )
    for code, version in versions.items():
        contents = [rows[item]["content"] for item in version.manifest]
        await check_contract(call, zone_id, contents, code)
    return {row["policy_id"] for row in rows.values()}
