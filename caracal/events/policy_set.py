"""Policy set: manifests of policy versions; at most one set of a zone is active."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import orjson

from caracal.errors import Conflict, NotFound, Unprocessable
from caracal.events import base
from caracal.events.base import Aggregate
from caracal.events.guards import Free, Guard, Overtaken, Take
from caracal.events.policy import needs_policy
from caracal.events.zone import needs_zone


@dataclass(frozen=True, slots=True)
class PolicySetVersion:
    """A version: policy version ids in evaluation order. ``created_at`` is RFC 3339."""

    id: str
    version: int
    manifest: tuple[str, ...]
    manifest_sha256: str
    schema_version: str
    created_at: str


class PolicySet(Aggregate):
    """created -> (version_added | activated | deactivated)* -> archived"""

    TOPIC = "policy_set"
    PLURAL = "policy_sets"

    class Created(base.Created):
        TOPIC = "policy_set.created"
        name: str
        description: str | None

    class VersionAdded(Aggregate.Event):
        TOPIC = "policy_set.version_added"
        version_id: str
        version: int
        manifest: list[str]
        manifest_sha256: str
        schema_version: str

        def apply(self, aggregate: PolicySet) -> None:
            aggregate.versions[self.version_id] = PolicySetVersion(
                self.version_id,
                self.version,
                tuple(self.manifest),
                self.manifest_sha256,
                self.schema_version,
                str(self.timestamp),
            )

    class Activated(Aggregate.Event):
        TOPIC = "policy_set.activated"
        version_id: str
        shadow_version_id: str | None
        manifest_sha256: str

        def apply(self, aggregate: PolicySet) -> None:
            aggregate.active_version_id = self.version_id
            aggregate.shadow_version_id = self.shadow_version_id

    class Deactivated(Aggregate.Event):
        TOPIC = "policy_set.deactivated"
        replaced_by: str

        def apply(self, aggregate: PolicySet) -> None:
            aggregate.active_version_id = aggregate.shadow_version_id = None

    class Archived(Aggregate.Event):
        TOPIC = "policy_set.archived"
        was_active: bool

        def apply(self, aggregate: PolicySet) -> None:
            aggregate.archived = True
            aggregate.active_version_id = aggregate.shadow_version_id = None

    def __init__(self, name: str, description: str | None) -> None:
        self.name, self.description = name, description
        self.versions: dict[str, PolicySetVersion] = {}
        self.active_version_id: str | None = None
        self.shadow_version_id: str | None = None
        self.archived = False

    @classmethod
    def create(
        cls, policy_set_id: str, *, zone_id: str, name: str, description: str | None
    ) -> Self:
        """Begin a set, without a version as yet."""
        return cls._begin(
            cls.Created,
            policy_set_id,
            needs_zone(zone_id),
            Take(set_name_key(zone_id, name), policy_set_id, set_name_taken(name)),
            name=name,
            description=description,
        )

    def add_version(
        self,
        version_id: str,
        *,
        manifest: Sequence[str],
        schema_version: str,
        policies: Iterable[str],
    ) -> PolicySetVersion:
        """Add the next version: 1, 2, ... without a gap.

        ``manifest`` are policy version ids, ``policies`` the ids of the policies they belong to.
        """
        self._check_live()
        gone = Unprocessable(
            "invalid_policy_contract", "a policy is not there", detail="policy_version_missing"
        )
        self._record(
            self.VersionAdded,
            *(needs_policy(policy_id, gone) for policy_id in policies),
            version_id=version_id,
            version=len(self.versions) + 1,
            manifest=list(manifest),
            manifest_sha256=manifest_sha256(manifest),
            schema_version=schema_version,
        )
        return self.versions[version_id]

    def activate(
        self,
        version_id: str,
        shadow_version_id: str | None = None,
        *,
        policies: Iterable[str],
        replacing: PolicySet | None,
    ) -> None:
        """Make this the zone's active set, in place of ``replacing``; save both together.

        ``policies`` are the ids of the policies in the manifests. The guard refuses with
        :class:`Overtaken` when another set than ``replacing`` is active by then: load
        that one and decide again.

        Raises:
            NotFound: no such version of this set.
        """
        self._check_live()
        chosen = self.version_of(version_id, "version_not_found")
        if shadow_version_id is not None:
            self.version_of(shadow_version_id, "shadow_version_not_found")
        if (version_id, shadow_version_id) == (self.active_version_id, self.shadow_version_id):
            return
        missing = Conflict("referenced_policy_version_missing", "a policy was archived since")
        guards: list[Guard] = [needs_policy(policy_id, missing) for policy_id in policies]
        if self.active_version_id is None:
            guards += self._take_over(replacing)
        self._record(
            self.Activated,
            *guards,
            version_id=version_id,
            shadow_version_id=shadow_version_id,
            manifest_sha256=chosen.manifest_sha256,
        )

    def deactivate(self, replaced_by: str) -> None:
        """Give way to the set ``replaced_by``; saved together with its activation."""
        self._record(self.Deactivated, replaced_by=replaced_by)

    def archive(self) -> None:
        """End the set; without an active one the zone denies all."""
        self._check_live()
        zone_id = str(self.zone_id)
        keys = [set_name_key(zone_id, self.name)]
        was_active = self.active_version_id is not None
        if was_active:
            keys.append(active_key(zone_id))
        self._record(self.Archived, Free(tuple(keys), self.aggregate_id), was_active=was_active)

    def version_of(
        self, version_id: str, code: str = "policy_set_version_not_found"
    ) -> PolicySetVersion:
        """Return a version of this set.

        Raises:
            NotFound: it has none with this id.
        """
        if (version := self.versions.get(version_id)) is None:
            raise NotFound(code, f"the policy set has no version {version_id!r}")
        return version

    def _take_over(self, replaced: PolicySet | None) -> list[Guard]:
        key = active_key(str(self.zone_id))
        take = Take(key, self.aggregate_id, Overtaken(key))
        if replaced is None or replaced.active_version_id is None:
            return [take]
        replaced.deactivate(self.aggregate_id)
        return [Free((key,), replaced.aggregate_id), take]

    def _check_live(self) -> None:
        if self.archived:
            raise policy_set_not_found(self.aggregate_id)


def manifest_sha256(manifest: Sequence[str]) -> str:
    """Return the digest of a manifest: SHA-256 hex of its compact JSON, in the given order."""
    return sha256(orjson.dumps([{"policy_version_id": item} for item in manifest])).hexdigest()


def active_key(zone_id: str) -> str:
    """Return the guard key that the zone's one active set owns."""
    return f"active_policy_set:{zone_id}"


def set_name_key(zone_id: str, name: str) -> str:
    """Return the guard key of a name: unique among the zone's live sets."""
    return f"policy_set_name:{zone_id}:{name}"


def set_name_taken(name: str) -> Conflict:
    return Conflict("policy_set_name_conflict", f"another policy set has the name {name!r}")


def policy_set_not_found(policy_set_id: str) -> NotFound:
    return NotFound("policy_set_not_found", f"there is no policy set {policy_set_id!r}")
