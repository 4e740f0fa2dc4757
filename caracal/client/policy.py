"""``client.policies``."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from caracal.client.call import Call, api
from caracal.client.method import D, one
from caracal.client.things import Archivable

SCHEMA_VERSION = "2026-03-16"


class PolicyVersion(TypedDict):
    """A version; ``content`` is shown by ``policies.get`` only."""

    id: str
    policy_id: str
    version: int
    content_sha256: str
    schema_version: str
    created_at: str
    content: NotRequired[str]


class Policy(TypedDict):
    """A policy without its versions."""

    id: str
    zone_id: str
    name: str
    description: str | None
    owner_type: str
    created_by: str
    created_at: str


class PolicyWithVersion(Policy):
    """A policy just created, with its first version."""

    version: PolicyVersion


class PolicyWithVersions(Policy):
    """A policy with all its versions, the newest first."""

    versions: list[PolicyVersion]


class PolicyInput(TypedDict):
    """A new policy; ``content`` is Rego."""

    name: str
    content: str
    description: NotRequired[str | None]
    owner_type: NotRequired[str | None]
    schema_version: NotRequired[str | None]


class PolicyValidation(TypedDict):
    """What the upload check says of a valid text."""

    valid: bool
    schema_version: str
    input_schema_version: str
    output_contract: dict[str, Any]
    warnings: list[str]


class Policies(Archivable[D, Policy, PolicyWithVersions]):
    """Policies: immutable; new Rego is a new version.

    >>> policy = client.policies.create(zone_id, {"name": "p", "content": rego})
    >>> client.policies.add_version(zone_id, policy["id"], better_rego)
    """

    _plural = "policies"

    @one
    def create(self, zone_id: str, input: PolicyInput) -> Call[PolicyWithVersion]:
        """Create a policy with its first version; 422 ``invalid_rego`` says where it is wrong."""
        return self._call("POST", zone_id, body=input)

    @one
    def add_version(
        self, zone_id: str, id: str, content: str, schema_version: str | None = None
    ) -> Call[PolicyVersion]:
        """Add the next version."""
        body = {"content": content, "schema_version": schema_version or SCHEMA_VERSION}
        return self._call("POST", zone_id, id, "versions", body=body)

    @one
    def validate(self, content: str, schema_version: str | None = None) -> Call[PolicyValidation]:
        """Check a text as an upload would; nothing is stored."""
        body = {"content": content, "schema_version": schema_version}
        return api("POST", "policies", "validate", body=body)
