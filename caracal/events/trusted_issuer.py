"""Trusted issuer: an OpenID provider whose word a zone takes for who a user is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate, Fall
from caracal.events.guards import Free, Need, Take, live
from caracal.events.zone import needs_zone

MAX_AGE_SECONDS = 86_400
"""The most that rules may allow an id_token since it was made."""


class TrustedIssuer(Aggregate):
    """created -> changed* -> archived

    ``issuer`` and ``subject_claim`` say who a user is, so they never change: another issuer, or
    another claim, has other users.
    """

    TOPIC = "trusted_issuer"
    PLURAL = "trusted_issuers"

    class Created(base.Created):
        TOPIC = "trusted_issuer.created"
        name: str
        issuer: str
        audiences: list[str]
        algorithms: list[str]
        jwks_uri: str | None
        subject_claim: str
        required_claims: dict[str, Any]
        mapped_claims: list[str]
        application_ids: list[str]
        max_age_seconds: int
        session_seconds: int
        single_use: bool

    class Changed(base.Changed):
        TOPIC = "trusted_issuer.changed"

    class Archived(base.Cascade):
        TOPIC = "trusted_issuer.archived"

        def apply(self, aggregate: TrustedIssuer) -> None:
            aggregate.archived, aggregate.parts = True, self.part

    def __init__(
        self,
        name: str,
        issuer: str,
        audiences: list[str],
        algorithms: list[str],
        jwks_uri: str | None,
        subject_claim: str,
        required_claims: dict[str, Any],
        mapped_claims: list[str],
        application_ids: list[str],
        max_age_seconds: int,
        session_seconds: int,
        single_use: bool,
    ) -> None:
        self.name, self.issuer, self.subject_claim = name, issuer, subject_claim
        self.audiences, self.algorithms, self.jwks_uri = audiences, algorithms, jwks_uri
        self.required_claims, self.mapped_claims = required_claims, mapped_claims
        self.application_ids = application_ids
        self.max_age_seconds, self.session_seconds = max_age_seconds, session_seconds
        self.single_use = single_use
        self.archived = False

    @classmethod
    def create(
        cls,
        issuer_id: str,
        *,
        zone_id: str,
        issuer: str,
        application_ids: list[str],
        **members: Any,
    ) -> Self:
        """Begin to trust ``issuer``; without ``application_ids`` for any application."""
        taken = issuer_taken(issuer)
        return cls._begin(
            cls.Created,
            issuer_id,
            needs_zone(zone_id),
            Take(live("trusted_issuer", issuer_id), issuer_id, taken),
            Take(issuer_key(zone_id, issuer), issuer_id, taken),
            *_needs(application_ids),
            issuer=issuer,
            application_ids=application_ids,
            **members,
        )

    def change(self, changes: dict[str, Any]) -> None:
        """Change members by name. Nothing different, nothing stored."""
        self._check_live()
        if different := self._different(changes):
            needs = _needs(different.get("application_ids", ()))
            self._record(self.Changed, *needs, changes=different)

    def archive(self, fall: Fall) -> None:
        """Trust it no more, and end the sessions of ``fall``, which it began."""
        self._check_live()
        keys = (
            live("trusted_issuer", self.aggregate_id),
            issuer_key(str(self.zone_id), self.issuer),
        )
        self.guards.append(Free(keys, self.aggregate_id))
        self._record_fall(self.Archived, fall)

    def archive_late(self, fall: Fall) -> None:
        """End what began while :meth:`archive` was deciding what falls."""
        if self.archived and fall:
            self._record_fall(self.Archived, fall)

    def _check_live(self) -> None:
        if self.archived:
            raise trusted_issuer_not_found(self.aggregate_id)


def issuer_key(zone_id: str, issuer: str) -> str:
    """Return the guard key of an issuer: a zone has one set of rules for each."""
    return f"trusted_issuer:{zone_id}:{issuer}"


def _needs(application_ids: Iterable[str]) -> list[Need]:
    return [needs_application(application_id) for application_id in application_ids]


def needs_trusted_issuer(issuer_id: str) -> Need:
    """Return the guard by which no session begins with an issuer that is trusted no more."""
    return Need(live("trusted_issuer", issuer_id), trusted_issuer_not_found(issuer_id))


def issuer_taken(issuer: str) -> Conflict:
    return Conflict("trusted_issuer_conflict", f"the zone has rules for {issuer!r} already")


def trusted_issuer_not_found(issuer_id: str) -> NotFound:
    return NotFound("trusted_issuer_not_found", f"there is no trusted issuer {issuer_id!r}")
