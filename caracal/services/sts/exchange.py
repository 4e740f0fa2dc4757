"""One exchange: what is known before its resources are looked at, and what is said of each.

Pure: values go in, values come out; the view answers from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caracal.errors import CaracalError
from caracal.events.challenge import Called, ChallengeType
from caracal.mandate import Claims
from caracal.projections.memory import Row
from caracal.services.sts.binding import Binding
from caracal.services.sts.login import Login
from caracal.services.sts.policies import InForce
from caracal.services.sts.provider_directive import BY_MANDATE, Upstream
from caracal.services.sts.subject_token import Principal
from caracal.services.sts.token_request import TokenRequest
from caracal.services.sts.view import ZoneView


@dataclass(frozen=True, slots=True)
class Exchange:
    """An authenticated request, rows 1 to 9 of the validation order behind it.

    Attributes:
        zone: of the request.
        application: row of the calling application.
        by_gateway: the Gateway signed the call.
        login: a user who has signed in; there is no subject token of ours then.
        challenge_resolved: a step-up challenge was met and is used up.
        jkt: thumbprint of the key that the mandate is bound to.
        call: that the Gateway makes, if it has told: ``http`` and, for MCP, ``mcp``.
        now: when it is decided; ``occurred_at`` is the same as text.
        position: of the log, up to which the view has applied everything.
    """

    request: TokenRequest
    request_id: str
    zone: ZoneView
    application: Row
    by_gateway: bool
    subject: Principal | None
    login: Login | None
    actor: Principal | None
    binding: Binding
    challenge_resolved: bool
    jkt: str | None
    call: Called | None
    now: datetime
    occurred_at: str
    position: int

    @property
    def user(self) -> str:
        """Return whom the mandate speaks of: user or subject, else the application itself."""
        if self.login is not None:
            return self.login.user_id
        return self.subject.subject if self.subject else str(self.application["id"])

    @property
    def subject_claims(self) -> Claims:
        """Return what policies see of whom the mandate speaks of."""
        if self.login is not None:
            return self.login.claims
        return self.subject.claims if self.subject else {}

    def grants(self, resource: Row) -> Iterator[Row]:
        """Yield the active grants for this user that have the requested scopes, newest first."""
        scopes, users = set(self.request.scopes), (None, self.user)
        for grant in self.zone.grants(self.application["id"], resource["id"], self.now):
            if grant["user_id"] in users and scopes <= set(grant["scopes"]):
                yield grant

    @property
    def is_ambient(self) -> bool:
        """Say whether an ambient mandate is wanted."""
        return self.subject is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided on one requested resource.

    Attributes:
        requested: identifier as the caller sent it.
        status: ``evaluation_status`` of the audit entry.
        resource: row, when it is known.
        allowed: granted, unless the rate limit says otherwise.
        decision: of the audit entry.
        counted: it reached the rate limit.
        ends: the answer to the whole request, when there is no usable decision.
        grant_id: the grant that was relied on.
        by: policy set version that decided.
        step_up: what the policy asks for before it would allow.
        unknown: refused because the view knows no such thing: to be looked for once more.
        brokers: refused until the credential of its provider was asked for.
        upstream: how the Gateway authenticates to it.
    """

    requested: str
    status: str
    resource: Row | None = None
    allowed: bool = False
    counted: bool = False
    reason: str = ""
    ends: CaracalError | None = None
    grant_id: str | None = None
    by: InForce | None = None
    step_up: ChallengeType | None = None
    unknown: bool = False
    brokers: bool = False
    upstream: Upstream = BY_MANDATE
    decision: str = "deny"
    determining_policies: list[Any] = field(default_factory=list)
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    policy_input: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A resource that the mandate will cover, the grant relied on, and how it is reached."""

    requested: str
    resource: Row
    grant_id: str | None = None
    upstream: Upstream = BY_MANDATE
