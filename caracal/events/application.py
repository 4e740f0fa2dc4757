"""Application: an OAuth client, the software that acts for users or for itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self

from caracal import clock
from caracal.errors import CaracalError, Conflict, Forbidden, NotFound, TooMany
from caracal.events import base
from caracal.events.base import Aggregate, Fall, Private
from caracal.events.guards import Erase, Free, FreeSeats, Guard, Need, Seat, Secret, Take, live
from caracal.events.zone import dcr_seats, needs_dcr, needs_zone

RegistrationMethod = Literal["managed", "dcr"]
CredentialType = Literal["token", "password", "public-key", "url", "public"]
Consent = Literal["implicit", "required"]
ArchiveReason = Literal["requested", "expired", "dcr_shutdown"]

MAX_DCR = 1000
"""Most live DCR applications of a zone: neither archived nor expired."""
MAX_TRAITS = 32
_TRAIT = re.compile(r"[A-Za-z][A-Za-z0-9._:-]{0,127}")
_RESERVED = "control"


class Application(Aggregate):
    """created -> changed* -> archived"""

    TOPIC = "application"
    PLURAL = "applications"

    class Created(base.Created):
        TOPIC = "application.created"
        name: str
        registration_method: str
        credential_type: str
        client_secret_ref: Private
        jwks: dict[str, Any] | None
        jwks_uri: str | None
        traits: list[str]
        consent: str
        expires_at: str | None

    class Changed(base.Changed):
        TOPIC = "application.changed"

    class Archived(base.Cascade):
        TOPIC = "application.archived"
        reason: str

        def apply(self, aggregate: Application) -> None:
            aggregate.archived, aggregate.parts = True, self.part
            aggregate.reason = self.reason

    def __init__(
        self,
        name: str,
        registration_method: str,
        credential_type: str,
        client_secret_ref: str | None,
        jwks: dict[str, Any] | None,
        jwks_uri: str | None,
        traits: list[str],
        consent: str,
        expires_at: str | None,
    ) -> None:
        self.name, self.registration_method = name, registration_method
        self.credential_type, self.client_secret_ref = credential_type, client_secret_ref
        self.jwks, self.jwks_uri = jwks, jwks_uri
        self.traits, self.consent, self.expires_at = traits, consent, expires_at
        self.archived, self.reason = False, ""

    @classmethod
    def create(
        cls,
        application_id: str,
        *,
        zone_id: str,
        registration_method: RegistrationMethod,
        secret: Secret | None = None,
        expires_at: datetime | None = None,
        itself: bool = False,
        **members: Any,
    ) -> Self:
        """Begin an application. ``secret`` is the sealed hash of its client secret.

        ``itself``: the client registers itself, which the zone must allow. Every ``dcr``
        application has one of the zone's seats, until it is archived or expires.
        """
        ends = clock.rfc3339(expires_at) if expires_at else None
        guards: list[Guard] = [secret] if secret else []
        if registration_method == "dcr":
            guards.append(Seat(dcr_seats(zone_id), application_id, ends, MAX_DCR, dcr_full()))
        return cls._begin(
            cls.Created,
            application_id,
            needs_zone(zone_id),
            *([needs_dcr(zone_id)] if itself else []),
            Take(
                live("application", application_id),
                application_id,
                application_known(application_id),
            ),
            *guards,
            registration_method=registration_method,
            client_secret_ref=secret.ref if secret else None,
            expires_at=ends,
            **members,
        )

    def change(self, changes: dict[str, Any], secret: Secret | None = None) -> None:
        """Change members by name, and the client secret with them; its old hash is erased."""
        self._check_live()
        different = self._different(changes)
        guards: list[Guard] = []
        if secret is not None:
            guards = [*self._erased(), secret]
            different["client_secret_ref"] = secret.ref
        if different:
            self._record(self.Changed, *guards, changes=different)

    def archive(self, fall: Fall, reason: ArchiveReason = "requested") -> None:
        """End the application, and with it the sessions, agents and edges of ``fall``."""
        self._check_live()
        key = live("application", self.aggregate_id)
        self.guards += [Free((key,), self.aggregate_id), *self._erased()]
        if self.registration_method == "dcr":
            self.guards.append(FreeSeats(dcr_seats(str(self.zone_id)), (self.aggregate_id,)))
        self._record_fall(self.Archived, fall, reason=reason)

    def archive_late(self, fall: Fall) -> None:
        """End what began while :meth:`archive` was deciding what falls."""
        if self.archived and fall:
            self._record_fall(self.Archived, fall, reason=self.reason)

    def expired(self, moment: datetime) -> bool:
        """Say whether the registration has run out at ``moment``."""
        return self.expires_at is not None and clock.parse(self.expires_at) <= moment

    def _check_live(self) -> None:
        if self.archived:
            raise application_not_found(self.aggregate_id)

    def _erased(self) -> list[Guard]:
        return [Erase((self.client_secret_ref,))] if self.client_secret_ref else []


def check_traits(traits: Sequence[str], *, may_control: bool) -> None:
    """Refuse traits against the rules; only global tokens may give those of ``control``.

    Raises:
        Forbidden: 403 ``trait_count_exceeded``, ``trait_invalid``, ``trait_duplicate``,
            ``trait_forbidden``.
    """
    if len(traits) > MAX_TRAITS:
        raise Forbidden("trait_count_exceeded", f"at most {MAX_TRAITS} traits are allowed")
    if not all(_TRAIT.fullmatch(trait) for trait in traits):
        raise Forbidden("trait_invalid", "a trait is a letter, then A-Z a-z 0-9 . _ : -, to 128")
    if len(set(traits)) != len(traits):
        raise Forbidden("trait_duplicate", "a trait stands once")
    if not may_control and any(_namespace(trait) == _RESERVED for trait in traits):
        raise Forbidden("trait_forbidden", "traits of control are given by global tokens only")


def _namespace(trait: str) -> str:
    return re.split(r"[.:]", trait, maxsplit=1)[0].lower()


def needs_application(application_id: str, error: CaracalError | None = None) -> Need:
    """Return the guard by which nothing hangs on a dead application."""
    return Need(live("application", application_id), error or application_not_found(application_id))


def application_known(application_id: str) -> Conflict:
    return Conflict("concurrent_update", f"the application {application_id!r} is there already")


def dcr_full() -> TooMany:
    return TooMany("dcr_limit_exceeded", f"the zone has its {MAX_DCR} DCR applications")


def application_not_found(application_id: str) -> NotFound:
    return NotFound("application_not_found", f"there is no application {application_id!r}")
