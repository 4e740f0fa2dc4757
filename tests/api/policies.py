"""Policies and sets as callers make them: what the tests of both share."""

from __future__ import annotations

from typing import Any

from caracal.ids import new_id
from tests.api.running import Plane

HEAD = "package caracal.authz\nimport rego.v1\n"
REGO = HEAD + 'result := {"decision": "deny", "evaluation_status": "complete"}\n'
SCHEMA = "2026-03-16"


def rego(remark: str) -> str:
    """A valid policy with a text of its own, for all sets together."""
    return f"{REGO}# {remark}\n"


def policies(zone: str, *rest: str) -> str:
    return "/".join((f"/zones/{zone}/policies", *rest))


def sets(zone: str, *rest: str) -> str:
    return "/".join((f"/zones/{zone}/policy-sets", *rest))


def manifest(*version_ids: str) -> dict[str, Any]:
    """The body of a set version."""
    return {"manifest": [{"policy_version_id": item} for item in version_ids]}


async def policy_of(api: Plane, zone: str, content: str = REGO) -> dict[str, Any]:
    """Make a policy with a name of its own; its ``version`` is the first."""
    return await api.made(policies(zone), {"name": new_id(), "content": content})


async def version_of(api: Plane, zone: str, content: str = REGO) -> str:
    """Make a policy; return the id of its version."""
    return str((await policy_of(api, zone, content))["version"]["id"])


async def set_of(api: Plane, zone: str, *manifests: list[str]) -> tuple[str, list[str]]:
    """Make a set with a version of each manifest; return its id and theirs."""
    made = await api.made(sets(zone), {"name": new_id()})
    versions = [
        await api.made(sets(zone, made["id"], "versions"), manifest(*items)) for items in manifests
    ]
    return made["id"], [version["id"] for version in versions]
