"""Policy: Rego text in immutable versions. Its check is I/O and comes before the decision."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from caracal.errors import CaracalError, Conflict, NotFound
from caracal.events import base
from caracal.events.base import Aggregate
from caracal.events.guards import Free, Need, Take, live
from caracal.events.zone import needs_zone


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version as the aggregate knows it: all but its text. ``created_at`` is RFC 3339."""

    id: str
    version: int
    content_sha256: str
    schema_version: str
    created_at: str


class Policy(Aggregate):
    """created -> version_added* -> archived"""

    TOPIC = "policy"
    PLURAL = "policies"

    class Created(base.Created):
        TOPIC = "policy.created"
        name: str
        description: str | None
        owner_type: str
        created_by: str

    class VersionAdded(Aggregate.Event):
        TOPIC = "policy.version_added"
        version_id: str
        version: int
        content: str
        content_sha256: str
        schema_version: str

        def apply(self, aggregate: Policy) -> None:
            aggregate.versions.append(
                PolicyVersion(
                    self.version_id,
                    self.version,
                    self.content_sha256,
                    self.schema_version,
                    str(self.timestamp),
                )
            )

    class Archived(Aggregate.Event):
        TOPIC = "policy.archived"

        def apply(self, aggregate: Policy) -> None:
            aggregate.archived = True

    def __init__(
        self, name: str, description: str | None, owner_type: str, created_by: str
    ) -> None:
        self.name, self.description = name, description
        self.owner_type, self.created_by = owner_type, created_by
        self.versions: list[PolicyVersion] = []
        self.archived = False

    @classmethod
    def create(
        cls,
        policy_id: str,
        *,
        zone_id: str,
        name: str,
        description: str | None,
        owner_type: str,
        created_by: str,
    ) -> Self:
        """Begin a policy, without a version as yet."""
        return cls._begin(
            cls.Created,
            policy_id,
            needs_zone(zone_id),
            Take(live("policy", policy_id), policy_id, policy_name_taken(name)),
            Take(policy_name_key(zone_id, name), policy_id, policy_name_taken(name)),
            name=name,
            description=description,
            owner_type=owner_type,
            created_by=created_by,
        )

    def add_version(self, version_id: str, *, content: str, schema_version: str) -> PolicyVersion:
        """Add the next version: 1, 2, ... without a gap."""
        self._check_live()
        self._record(
            self.VersionAdded,
            version_id=version_id,
            version=len(self.versions) + 1,
            content=content,
            content_sha256=sha256(content.encode()).hexdigest(),
            schema_version=schema_version,
        )
        return self.versions[-1]

    def archive(self) -> None:
        """End the policy: no set can be made with, or activated with, its versions."""
        self._check_live()
        keys = (
            live("policy", self.aggregate_id),
            policy_name_key(str(self.zone_id), self.name),
        )
        self._record(self.Archived, Free(keys, self.aggregate_id))

    def _check_live(self) -> None:
        if self.archived:
            raise policy_not_found(self.aggregate_id)


def policy_name_key(zone_id: str, name: str) -> str:
    """Return the guard key of a name: unique among the zone's live policies."""
    return f"policy_name:{zone_id}:{name}"


def needs_policy(policy_id: str, error: CaracalError) -> Need:
    """Return the guard by which nothing is made of an archived policy."""
    return Need(live("policy", policy_id), error)


def policy_name_taken(name: str) -> Conflict:
    return Conflict("policy_name_conflict", f"another policy has the name {name!r}")


def policy_not_found(policy_id: str) -> NotFound:
    return NotFound("policy_not_found", f"there is no policy {policy_id!r}")
