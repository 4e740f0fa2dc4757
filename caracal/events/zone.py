"""Zone: the tenant. Everything else lives in one."""

from __future__ import annotations

import re
from typing import Any, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.base import Aggregate, Fall, Private
from caracal.events.guards import Erase, Free, Guard, Need, Secret, Take, live, retake


class Zone(Aggregate):
    """created -> changed* -> archived"""

    TOPIC = "zone"
    PLURAL = "zones"

    class Created(base.Created):
        TOPIC = "zone.created"
        name: str
        slug: str
        org_id: str
        dcr_enabled: bool
        pkce_required: bool
        login_flow: str
        data_key_ref: Private

    class Changed(base.Changed):
        TOPIC = "zone.changed"

    class Archived(base.Cascade):
        TOPIC = "zone.archived"

        def apply(self, aggregate: Zone) -> None:
            aggregate.archived, aggregate.parts = True, self.part

    def __init__(
        self,
        name: str,
        slug: str,
        org_id: str,
        dcr_enabled: bool,
        pkce_required: bool,
        login_flow: str,
        data_key_ref: str,
    ) -> None:
        self.name, self.slug, self.org_id = name, slug, org_id
        self.dcr_enabled, self.pkce_required = dcr_enabled, pkce_required
        self.login_flow, self.data_key_ref = login_flow, data_key_ref
        self.archived = False

    @classmethod
    def create(cls, zone_id: str, *, slug: str, data_key: Secret, **members: Any) -> Self:
        """Begin a zone. ``data_key`` is the sealed zone data key."""
        return cls._begin(
            cls.Created,
            zone_id,
            Take(live("zone", zone_id), zone_id, slug_taken(slug)),
            Take(slug_key(slug), zone_id, slug_taken(slug)),
            data_key,
            slug=slug,
            data_key_ref=data_key.ref,
            **members,
        )

    def change(self, changes: dict[str, Any]) -> None:
        """Change members by name. Nothing different, nothing stored."""
        self._check_live()
        if different := self._different(changes):
            self._record(self.Changed, *self._slug_guards(different), changes=different)

    def archive(self, fall: Fall) -> None:
        """End the zone, and with it what ``fall`` lists."""
        self._check_live()
        keys = (live("zone", self.aggregate_id), slug_key(self.slug))
        self.guards += [Free(keys, self.aggregate_id), Erase((self.data_key_ref,))]
        self._record_fall(self.Archived, fall)

    def archive_late(self, fall: Fall) -> None:
        """End what began while :meth:`archive` was deciding what falls."""
        if self.archived and fall:
            self._record_fall(self.Archived, fall)

    def _check_live(self) -> None:
        if self.archived:
            raise zone_not_found(self.aggregate_id)

    def _slug_guards(self, changes: dict[str, Any]) -> list[Guard]:
        if (slug := changes.get("slug")) is None:
            return []
        old, new = slug_key(self.slug), slug_key(slug)
        return retake(old, new, self.aggregate_id, slug_taken(slug))


def slug_key(slug: str) -> str:
    """Return the guard key of a slug: unique among the zones that are not archived."""
    return f"zone_slug:{slug}"


def slug_of(name: str) -> str:
    """Derive a slug: lower case, runs outside ``a-z0-9`` become ``-``; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "zone"


def needs_zone(zone_id: str) -> Need:
    """Return the guard by which nothing is made in a dead zone."""
    return Need(live("zone", zone_id), zone_not_found(zone_id))


def slug_taken(slug: str) -> Conflict:
    return Conflict("zone_slug_conflict", f"another zone has the slug {slug!r}")


def zone_not_found(zone_id: str) -> NotFound:
    return NotFound("zone_not_found", f"there is no zone {zone_id!r}")
