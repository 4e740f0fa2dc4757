"""Signing key: what a zone's mandates are signed with. Its id is the ``kid``."""

from __future__ import annotations

from typing import Any, Literal, Self

from caracal.events import base
from caracal.events.base import Aggregate, Private
from caracal.events.guards import Erase, Free, Guard, Overtaken, Secret, Take
from caracal.events.zone import needs_zone


class SigningKey(Aggregate):
    """created -> retired"""

    TOPIC = "signing_key"
    PLURAL = "signing_keys"

    class Created(base.Created):
        TOPIC = "signing_key.created"
        version: int
        alg: str
        public_jwk: dict[str, Any]
        private_key_ref: Private
        replaces: str | None

    class Retired(Aggregate.Event):
        TOPIC = "signing_key.retired"
        reason: str

        def apply(self, aggregate: SigningKey) -> None:
            aggregate.retired = True

    def __init__(self, version: int, private_key_ref: str) -> None:
        self.number, self.private_key_ref = version, private_key_ref
        self.retired = False

    @classmethod
    def create(
        cls,
        kid: str,
        *,
        zone_id: str,
        public_jwk: dict[str, Any],
        private_key: Secret,
        number: int = 1,
        replaces: str | None = None,
    ) -> Self:
        """Begin the zone's key ``number`` (from 1), in place of its newest one, ``replaces``.

        ``private_key`` is the sealed private part. The guard refuses with :class:`Overtaken`
        when another key is the newest by then: so numbers have no gap and none comes twice.
        """
        key = newest_key(zone_id)
        handed_over: list[Guard] = [Free((key,), replaces)] if replaces is not None else []
        return cls._begin(
            cls.Created,
            kid,
            needs_zone(zone_id),
            *handed_over,
            Take(key, kid, Overtaken(key)),
            private_key,
            version=number,
            alg="ES256",
            public_jwk=public_jwk,
            private_key_ref=private_key.ref,
            replaces=replaces,
        )

    def successor(self, kid: str, *, public_jwk: dict[str, Any], private_key: Secret) -> SigningKey:
        """Begin the key that takes over the signing; tokens signed with this one stay valid."""
        return self.create(
            kid,
            zone_id=str(self.zone_id),
            public_jwk=public_jwk,
            private_key=private_key,
            number=self.number + 1,
            replaces=self.aggregate_id,
        )

    def retire(self, reason: Literal["rotated", "unreadable"]) -> None:
        """Sign no more; the private part is erased. Again changes nothing."""
        if not self.retired:
            self._record(self.Retired, Erase((self.private_key_ref,)), reason=reason)


def newest_key(zone_id: str) -> str:
    """Return the guard key that the newest signing key of the zone owns."""
    return f"signing_key:{zone_id}"
