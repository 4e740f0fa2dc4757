"""Zone: the tenant. Everything else lives in one."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any, Literal, Self

from caracal.errors import Conflict, Forbidden, NotFound
from caracal.events import base
from caracal.events.base import Aggregate, Fall, Private
from caracal.events.guards import (
    Erase,
    Free,
    Guard,
    Need,
    NoSeats,
    Overtaken,
    Secret,
    Take,
    live,
    retake,
)

DcrShutdown = Literal["keep_live", "revoke_live"]


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
        gateway_only: bool = field(default=False, kw_only=True)

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
        gateway_only: bool = False,
    ) -> None:
        self.name, self.slug, self.org_id = name, slug, org_id
        self.dcr_enabled, self.pkce_required = dcr_enabled, pkce_required
        self.login_flow, self.data_key_ref = login_flow, data_key_ref
        self.gateway_only = gateway_only
        self.archived = False

    @classmethod
    def create(
        cls, zone_id: str, *, slug: str, data_key: Secret, dcr_enabled: bool, **members: Any
    ) -> Self:
        """Begin a zone.

        Args:
            data_key: the sealed zone data key.
            members: the others by name; with ``gateway_only`` mandates for resources are issued
                to the Gateway, and to nobody else.
        """
        return cls._begin(
            cls.Created,
            zone_id,
            Take(live("zone", zone_id), zone_id, slug_taken(slug)),
            Take(slug_key(slug), zone_id, slug_taken(slug)),
            data_key,
            *([_opens_dcr(zone_id)] if dcr_enabled else []),
            slug=slug,
            data_key_ref=data_key.ref,
            dcr_enabled=dcr_enabled,
            **members,
        )

    def change(
        self,
        changes: dict[str, Any],
        *,
        dcr_shutdown: DcrShutdown | None = None,
        live_dcr: int = 0,
    ) -> None:
        """Change members by name. Nothing different, nothing stored.

        ``live_dcr`` is how many applications that registered themselves are live. To close
        registration over them takes ``dcr_shutdown``: keep them, or revoke them (the caller
        archives them in the same transaction). Without one the guard refuses with
        :class:`Overtaken` what registered meanwhile.

        Raises:
            Conflict: 409 ``dcr_shutdown_required``.
        """
        self._check_live()
        if different := self._different(changes):
            guards = self._slug_guards(different)
            guards += self._dcr_guards(different, dcr_shutdown, live_dcr)
            self._record(self.Changed, *guards, changes=different)

    def archive(self, fall: Fall) -> None:
        """End the zone, and with it what ``fall`` lists."""
        self._check_live()
        zone_id = self.aggregate_id
        keys = (live("zone", zone_id), slug_key(self.slug), dcr_key(zone_id))
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

    def _dcr_guards(
        self, changes: dict[str, Any], shutdown: DcrShutdown | None, live_dcr: int
    ) -> list[Guard]:
        zone_id = self.aggregate_id
        if (enabled := changes.get("dcr_enabled")) is None:
            return []
        if enabled:
            return [_opens_dcr(zone_id)]
        closes = Free((dcr_key(zone_id),), zone_id)
        if shutdown is not None:
            return [closes]
        if live_dcr:
            raise dcr_shutdown_required(live_dcr)
        seats = dcr_seats(zone_id)
        return [closes, NoSeats(seats, Overtaken(seats))]


def slug_key(slug: str) -> str:
    """Return the guard key of a slug: unique among the zones that are not archived."""
    return f"zone_slug:{slug}"


def slug_of(name: str) -> str:
    """Derive a slug: lower case, runs outside ``a-z0-9`` become ``-``; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "zone"


def needs_zone(zone_id: str) -> Need:
    """Return the guard by which nothing is made in a dead zone."""
    return Need(live("zone", zone_id), zone_not_found(zone_id))


def dcr_key(zone_id: str) -> str:
    """Return the guard key that a zone owns while clients may register themselves."""
    return f"dcr_enabled:{zone_id}"


def dcr_seats(zone_id: str) -> str:
    """Return the guard key of the seats that the zone's live DCR applications have."""
    return f"dcr:{zone_id}"


def needs_dcr(zone_id: str) -> Need:
    """Return the guard by which no client registers itself where it may not."""
    return Need(dcr_key(zone_id), dcr_disabled())


def _opens_dcr(zone_id: str) -> Take:
    key = dcr_key(zone_id)
    return Take(key, zone_id, Overtaken(key))


def dcr_disabled() -> Forbidden:
    return Forbidden("dcr_disabled", "clients may not register themselves in this zone")


def dcr_shutdown_required(live_dcr: int) -> Conflict:
    return Conflict(
        "dcr_shutdown_required",
        "applications that registered themselves are live: dcr_shutdown says what becomes of them",
        detail=f"{live_dcr} live DCR applications",
        live_dcr_applications=live_dcr,
    )


def slug_taken(slug: str) -> Conflict:
    return Conflict("zone_slug_conflict", f"another zone has the slug {slug!r}")


def zone_not_found(zone_id: str) -> NotFound:
    return NotFound("zone_not_found", f"there is no zone {zone_id!r}")
