"""Resource: what mandates are for; with an upstream URL, one that the Gateway routes to."""

from __future__ import annotations

from typing import Any, Literal, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate
from caracal.events.guards import Count, Free, Guard, Need, Take, live, retake
from caracal.events.provider import needs_provider
from caracal.events.zone import needs_zone

Protocol = Literal["http", "mcp"]


class Resource(Aggregate):
    """created -> changed* -> archived"""

    TOPIC = "resource"
    PLURAL = "resources"

    class Created(base.Created):
        TOPIC = "resource.created"
        identifier: str
        name: str
        upstream_url: str | None
        scopes: list[str]
        prefix_match: bool
        provider_id: str | None
        gateway_application_id: str | None
        protocol: str
        rate_limit: dict[str, int] | None

    class Changed(base.Changed):
        TOPIC = "resource.changed"

    class Archived(Aggregate.Event):
        TOPIC = "resource.archived"

        def apply(self, aggregate: Resource) -> None:
            aggregate.archived = True

    def __init__(
        self,
        identifier: str,
        name: str,
        upstream_url: str | None,
        scopes: list[str],
        prefix_match: bool,
        provider_id: str | None,
        gateway_application_id: str | None,
        protocol: str,
        rate_limit: dict[str, int] | None,
    ) -> None:
        self.identifier, self.name, self.upstream_url = identifier, name, upstream_url
        self.scopes, self.prefix_match, self.provider_id = scopes, prefix_match, provider_id
        self.gateway_application_id = gateway_application_id
        self.protocol, self.rate_limit = protocol, rate_limit
        self.archived = False

    @classmethod
    def create(
        cls, resource_id: str, *, zone_id: str, identifier: str, quota: int, **members: Any
    ) -> Self:
        """Begin a resource; ``quota`` is how many the zone may have."""
        taken = identifier_taken(identifier)
        return cls._begin(
            cls.Created,
            resource_id,
            needs_zone(zone_id),
            Take(live("resource", resource_id), resource_id, taken),
            Take(identifier_key(zone_id, identifier), resource_id, taken),
            Count(_count_key(zone_id), 1, quota, quota_exceeded(quota)),
            *_needs(members),
            identifier=identifier,
            **members,
        )

    def change(self, changes: dict[str, Any]) -> None:
        """Change members by name. Nothing different, nothing stored."""
        self._check_live()
        if different := self._different(changes):
            guards = [*self._identifier_guards(different), *_needs(different)]
            self._record(self.Changed, *guards, changes=different)

    def archive(self) -> None:
        """End the resource: mandates for it are refused from now on."""
        self._check_live()
        zone_id = str(self.zone_id)
        keys = (live("resource", self.aggregate_id), identifier_key(zone_id, self.identifier))
        self._record(
            self.Archived,
            Free(keys, self.aggregate_id),
            Count(_count_key(zone_id), -1, 0, quota_exceeded(0)),
        )

    def _check_live(self) -> None:
        if self.archived:
            raise resource_not_found(self.aggregate_id)

    def _identifier_guards(self, changes: dict[str, Any]) -> list[Guard]:
        if (identifier := changes.get("identifier")) is None:
            return []
        old, new = (identifier_key(str(self.zone_id), i) for i in (self.identifier, identifier))
        return retake(old, new, self.aggregate_id, identifier_taken(identifier))


def _needs(members: dict[str, Any]) -> list[Guard]:
    needs: list[Guard] = []
    if (provider_id := members.get("provider_id")) is not None:
        needs.append(needs_provider(provider_id))
    if (application_id := members.get("gateway_application_id")) is not None:
        missing = gateway_application_not_found(application_id)
        needs.append(needs_application(application_id, missing))
    return needs


def identifier_key(zone_id: str, identifier: str) -> str:
    """Return the guard key of an identifier: unique among the zone's live resources."""
    return f"resource_identifier:{zone_id}:{identifier}"


def _count_key(zone_id: str) -> str:
    return f"resources:{zone_id}"


def needs_resource(resource_id: str) -> Need:
    """Return the guard by which nothing hangs on a dead resource."""
    return Need(live("resource", resource_id), resource_not_found(resource_id))


def identifier_taken(identifier: str) -> Conflict:
    return Conflict(
        "resource_identifier_conflict", f"another resource has the identifier {identifier!r}"
    )


def quota_exceeded(quota: int) -> Conflict:
    return Conflict("resource_quota_exceeded", f"the zone has its {quota} resources")


def resource_not_found(resource_id: str) -> NotFound:
    return NotFound("resource_not_found", f"there is no resource {resource_id!r}")


def gateway_application_not_found(application_id: str) -> NotFound:
    return NotFound("gateway_application_not_found", f"there is no application {application_id!r}")
