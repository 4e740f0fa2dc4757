"""Step-up challenge: a person, or a second factor, must agree before a mandate is issued.

The STS issues and consumes it, the control plane satisfies it. Its secret is known to who asked
for the mandate; the log has the digest of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Literal, NamedTuple, Self

from caracal import clock
from caracal.errors import Conflict, NotFound, Unauthenticated
from caracal.events import base
from caracal.events.base import Aggregate, Private
from caracal.events.zone import needs_zone

ChallengeType = Literal["human_approval", "mfa", "software_attestation"]

LIFE = timedelta(minutes=5)

Called = Mapping[str, Any]
"""The call behind the Gateway that a mandate is for: its ``http``, and for MCP its ``mcp``."""
_UNKNOWN: Any = object()


class Actor(NamedTuple):
    """Who would act by the mandate; named as in the metadata. None: no agent, no edge."""

    agent_session_id: str | None = None
    delegation_edge_id: str | None = None


class Challenge(Aggregate):
    """issued -> satisfied -> consumed; nothing happens to it once its time is over"""

    TOPIC = "challenge"
    PLURAL = "challenges"

    class Issued(base.Created):
        TOPIC = "challenge.issued"
        principal: str
        session_id: str | None
        challenge_type: str
        secret_sha256: Private
        resources_sha256: str
        metadata: dict[str, Any]
        expires_at: str

    class Satisfied(Aggregate.Event):
        TOPIC = "challenge.satisfied"
        approver_subject_id: str | None

        def apply(self, aggregate: Challenge) -> None:
            aggregate.satisfied_at = self.timestamp

    class Consumed(Aggregate.Event):
        TOPIC = "challenge.consumed"

        def apply(self, aggregate: Challenge) -> None:
            aggregate.consumed = True

    def __init__(
        self,
        principal: str,
        session_id: str | None,
        challenge_type: str,
        secret_sha256: str,
        resources_sha256: str,
        metadata: dict[str, Any],
        expires_at: str,
    ) -> None:
        self.principal, self.session_id = principal, session_id
        self.challenge_type, self.metadata = challenge_type, metadata
        self.secret_sha256, self.resources_sha256 = secret_sha256, resources_sha256
        self.expires_at = expires_at
        self.satisfied_at: Any = None
        self.consumed = False

    @classmethod
    def issue(
        cls,
        challenge_id: str,
        *,
        zone_id: str,
        principal: str,
        session_id: str | None,
        challenge_type: ChallengeType,
        secret: str,
        resources: Iterable[str],
        metadata: dict[str, Any],
        call: Called | None,
        now: datetime,
    ) -> Self:
        """Begin a challenge that lives for 5 minutes.

        Args:
            principal: ``sub`` of the subject, else the application.
            session_id: its session; without one (None or empty) the challenge is bound to none.
            secret: 32 random bytes in base64url, which are told to the caller alone.
            resources: all that the mandate is asked for, as the caller names them.
            metadata: what is shown to who agrees: so its scopes and its actor bind, too.
            call: what the mandate is for; shown as well, so it binds. None: a mandate is asked
                for without a call.
        """
        return cls._begin(
            cls.Issued,
            challenge_id,
            needs_zone(zone_id),
            principal=principal,
            session_id=session_id or None,
            challenge_type=challenge_type,
            secret_sha256=_digest(secret),
            resources_sha256=resources_sha256(resources),
            metadata={**metadata, "call": call},
            expires_at=clock.rfc3339(now + LIFE),
        )

    def satisfy(self, approver_subject_id: str | None, now: datetime) -> None:
        """Note that ``approver_subject_id`` agrees; None: whoever the admin token stands for.

        Raises:
            NotFound: 404 ``challenge_not_found_or_expired``, satisfied before, or too late.
            Conflict: 409 ``challenge_not_satisfiable``, nobody approves what he asked for.
        """
        if self.satisfied_at is not None or self.expired(now):
            raise challenge_over(self.aggregate_id)
        if approver_subject_id == self.principal:
            own = "the challenge's own subject cannot satisfy it"
            raise Conflict("challenge_not_satisfiable", own)
        zone = needs_zone(str(self.zone_id))
        self._record(self.Satisfied, zone, approver_subject_id=approver_subject_id)

    def consume(
        self,
        *,
        zone_id: str,
        principal: str,
        session_id: str | None,
        secret: str,
        resources: Iterable[str],
        scopes: Iterable[str],
        actor: Actor,
        call: Called | None,
        now: datetime,
    ) -> None:
        """Use the challenge up: one mandate, for whom and for what it was issued.

        Of several at once the log lets one win.

        Args:
            session_id: ``sid`` of the subject token; a challenge that is bound to no session does
                not ask for it.
            scopes: that the mandate shall have; fewer than were asked for will do.
            actor: the agent that acts, and the edge by which it does.
            call: what the mandate is for: that very call, and with none, none. A challenge from
                before calls were kept is for no call that there is.

        Raises:
            Unauthenticated: 401 ``access_denied``, whatever is missing: nothing is told apart.
        """
        holds = (
            self.zone_id == zone_id,
            self.principal == principal,
            self.session_id is None or self.session_id == session_id,
            compare_digest(self.secret_sha256, _digest(secret)),
            compare_digest(self.resources_sha256, resources_sha256(resources)),
            set(scopes) <= set(self.metadata.get("requested_scopes", ())),
            actor == tuple(map(self.metadata.get, Actor._fields)),
            self.metadata.get("call", _UNKNOWN) == call,
            self.satisfied_at is not None,
            not self.consumed,
            not self.expired(now),
        )
        if not all(holds):
            raise challenge_not_satisfied()
        self._record(self.Consumed)

    def expired(self, moment: datetime) -> bool:
        """Say whether its time is over at ``moment``."""
        return clock.parse(self.expires_at) <= moment


def resources_sha256(resources: Iterable[str]) -> str:
    """Return the digest of a resource list: order, case and outer spaces do not matter."""
    return _digest("\n".join(sorted(resource.strip().lower() for resource in resources)))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def challenge_not_found(challenge_id: str) -> NotFound:
    return NotFound("challenge_not_found", f"there is no challenge {challenge_id!r}")


def challenge_over(challenge_id: str) -> NotFound:
    return NotFound(
        "challenge_not_found_or_expired", f"no challenge {challenge_id!r} waits to be satisfied"
    )


def challenge_not_satisfied() -> Unauthenticated:
    return Unauthenticated("access_denied", "the step-up challenge is not satisfied")
