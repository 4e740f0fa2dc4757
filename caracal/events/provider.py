"""Provider: who issues the credential that an upstream wants, and how it is had there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.base import Aggregate, Private
from caracal.events.guards import Erase, Free, Guard, Need, Secret, Take, live, retake
from caracal.events.zone import needs_zone

ProviderKind = Literal[
    "oauth2",
    "oidc",
    "apikey",
    "workload",
    "none",
    "caracal_mandate",
    "oauth2_authorization_code",
    "oauth2_client_credentials",
    "api_key",
    "bearer_token",
]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The secret part of a configuration: its sorted names, and all of it for the vault.

    ``value`` is None when there is no name.
    """

    names: tuple[str, ...] = ()
    value: Secret | None = None

    @property
    def members(self) -> dict[str, Any]:
        """Return what events know of it."""
        return {
            "secret_config_ref": self.value.ref if self.value else None,
            "secret_config_keys": list(self.names),
        }

    @property
    def guards(self) -> list[Guard]:
        """Return what puts it into the vault."""
        return [self.value] if self.value else []


class Provider(Aggregate):
    """created -> changed* -> archived"""

    TOPIC = "provider"
    PLURAL = "providers"

    class Created(base.Created):
        TOPIC = "provider.created"
        identifier: str
        name: str
        kind: str
        owner_type: str
        client_id: str | None
        config: dict[str, Any]
        secret_config_ref: Private
        secret_config_keys: list[str]

    class Changed(base.Changed):
        TOPIC = "provider.changed"

    class Archived(Aggregate.Event):
        TOPIC = "provider.archived"

        def apply(self, aggregate: Provider) -> None:
            aggregate.archived = True

    def __init__(
        self,
        identifier: str,
        name: str,
        kind: ProviderKind,
        owner_type: str,
        client_id: str | None,
        config: dict[str, Any],
        secret_config_ref: str | None,
        secret_config_keys: list[str],
    ) -> None:
        self.identifier, self.name, self.kind = identifier, name, kind
        self.owner_type, self.client_id, self.config = owner_type, client_id, config
        self.secret_config_ref, self.secret_config_keys = secret_config_ref, secret_config_keys
        self.archived = False

    @classmethod
    def create(
        cls, provider_id: str, *, zone_id: str, identifier: str, sealed: Sealed, **members: Any
    ) -> Self:
        """Begin a provider; ``sealed`` is the secret part of its configuration."""
        taken = identifier_taken(identifier)
        return cls._begin(
            cls.Created,
            provider_id,
            needs_zone(zone_id),
            Take(live("provider", provider_id), provider_id, taken),
            Take(identifier_key(zone_id, identifier), provider_id, taken),
            *sealed.guards,
            identifier=identifier,
            **sealed.members,
            **members,
        )

    def change(self, changes: dict[str, Any], sealed: Sealed | None = None) -> None:
        """Change members by name, and with ``sealed`` the secret part; the old one is erased.

        Secrets are never compared with those there: the answer would tell a guess from a miss.
        """
        self.check_live()
        different = self._different(changes)
        guards = self._identifier_guards(different)
        if sealed is not None:
            guards += [*self._erased(), *sealed.guards]
            different |= sealed.members
        if different:
            self._record(self.Changed, *guards, changes=different)

    def archive(self) -> None:
        """End the provider and erase its secrets.

        Resources keep its id: their credential is not provisioned any more, so they are refused
        until they name another provider, or none.
        """
        self.check_live()
        keys = (
            live("provider", self.aggregate_id),
            identifier_key(str(self.zone_id), self.identifier),
        )
        self._record(self.Archived, Free(keys, self.aggregate_id), *self._erased())

    def check_live(self) -> None:
        """Refuse commands on what is archived.

        Raises:
            NotFound: 404 ``provider_not_found``.
        """
        if self.archived:
            raise provider_not_found(self.aggregate_id)

    def _erased(self) -> list[Guard]:
        return [Erase((self.secret_config_ref,))] if self.secret_config_ref else []

    def _identifier_guards(self, changes: dict[str, Any]) -> list[Guard]:
        if (identifier := changes.get("identifier")) is None:
            return []
        old, new = (identifier_key(str(self.zone_id), i) for i in (self.identifier, identifier))
        return retake(old, new, self.aggregate_id, identifier_taken(identifier))


def identifier_key(zone_id: str, identifier: str) -> str:
    """Return the guard key of an identifier: unique among the zone's live providers."""
    return f"provider_identifier:{zone_id}:{identifier}"


def needs_provider(provider_id: str) -> Need:
    """Return the guard by which nothing comes to hang on a dead provider."""
    return Need(live("provider", provider_id), provider_not_found(provider_id))


def identifier_taken(identifier: str) -> Conflict:
    return Conflict(
        "provider_identifier_conflict", f"another provider has the identifier {identifier!r}"
    )


def provider_not_found(provider_id: str) -> NotFound:
    return NotFound("provider_not_found", f"there is no provider {provider_id!r}")
