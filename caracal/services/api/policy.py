"""Policies and their versions: ``/v1/zones/{zone_id}/policies``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter, Response

from caracal.events.policy import Policy, policy_not_found
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.policy import get_policy, list_policies, versions_of
from caracal.services.api.call import CallDep
from caracal.services.api.codes import refuses
from caracal.services.api.paging import PageDep, cut
from caracal.services.api.policy_contract import (
    SCHEMA_VERSION,
    Content,
    Description,
    check_rego,
    check_schema_version,
)
from caracal.services.call import no_content
from caracal.services.models import Answer, Body, Name, Text
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/policies", tags=["policies"])


class PolicyVersionInput(Body):
    content: Content
    schema_version: Text = SCHEMA_VERSION


class PolicyInput(PolicyVersionInput):
    name: Name
    description: Description | None = None
    owner_type: Name = "customer"


class PolicyVersionAnswer(Answer):
    id: str
    policy_id: str
    version: int
    content_sha256: str
    schema_version: str
    created_at: datetime


class PolicyVersionWithContent(PolicyVersionAnswer):
    content: str


class PolicyAnswer(Answer):
    id: str
    zone_id: str
    name: str
    description: str | None
    owner_type: str
    created_by: str
    created_at: datetime


class PolicyWithVersion(PolicyAnswer):
    version: PolicyVersionAnswer


class PolicyWithVersions(PolicyAnswer):
    versions: list[PolicyVersionWithContent]


@router.get("")
@refuses()
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[PolicyAnswer]:
    """List the zone's policies, newest first, without their versions."""
    async with call.database() as db:
        rows = await list_policies(db, zone_id, page)
    return [PolicyAnswer(**row) for row in cut(rows, page, call.request, call.response)]


@router.post("", status_code=201)
@refuses("policy_name_conflict", "invalid_rego", "invalid_schema_version")
async def create(zone_id: ZoneId, body: PolicyInput, call: CallDep) -> PolicyWithVersion:
    """Create a policy with its first version."""
    await _check(body)
    policy_id, version_id = new_id(), new_id()
    made: list[Policy] = []

    async def command() -> Saved:
        policy = Policy.create(
            policy_id,
            zone_id=zone_id,
            created_by=call.token["name"],
            **body.model_dump(include={"name", "description", "owner_type"}),
        )
        policy.add_version(version_id, **body.model_dump(include={"content", "schema_version"}))
        made[:] = [policy]
        return await call.api.log.save(policy)

    await call.commit(command, zone_id)
    answer = PolicyAnswer.of(made[0])
    return PolicyWithVersion(**answer.model_dump(), version=_newest(made[0]))


@router.get("/{policy_id}")
@refuses("policy_not_found")
async def get(zone_id: ZoneId, policy_id: PathId, call: CallDep) -> PolicyWithVersions:
    """Show a policy with all its versions, the newest first."""
    async with call.database() as db:
        row = await get_policy(db, zone_id, policy_id)
        versions = await versions_of(db, policy_id)
    if row is None:
        raise policy_not_found(policy_id)
    return PolicyWithVersions(**row, versions=[PolicyVersionWithContent(**one) for one in versions])


@router.post("/{policy_id}/versions", status_code=201)
@refuses("policy_not_found", "invalid_rego", "invalid_schema_version")
async def add_version(
    zone_id: ZoneId, policy_id: PathId, body: PolicyVersionInput, call: CallDep
) -> PolicyVersionAnswer:
    """Add the next version: 1, 2, ... without a gap."""
    await _check(body)
    version_id = new_id()

    def add(policy: Policy) -> None:
        policy.add_version(version_id, **body.model_dump())

    policy = await call.change(Policy, policy_id, zone_id, add, policy_not_found(policy_id))
    return _newest(policy)


@router.delete("/{policy_id}", status_code=204)
@refuses("policy_not_found")
async def delete(zone_id: ZoneId, policy_id: PathId, call: CallDep) -> Response:
    """Archive a policy: no set is made or activated with it again; an active one keeps it."""
    await call.change(Policy, policy_id, zone_id, Policy.archive, policy_not_found(policy_id))
    return no_content(call)


async def _check(body: PolicyVersionInput) -> None:
    check_schema_version(body.schema_version)
    await check_rego(body.content)


def _newest(policy: Policy) -> PolicyVersionAnswer:
    return PolicyVersionAnswer(policy_id=policy.aggregate_id, **asdict(policy.versions[-1]))
