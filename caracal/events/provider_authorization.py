"""The consent of a user at a provider that a grant waits for (RFC 6749, section 4.1).

Its state is good for one answer within ten minutes. The log has a digest of it; the verifier of
its challenge (RFC 7636) is in the vault.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Literal

from caracal import clock
from caracal.errors import BadInput

AuthorizationStatus = Literal["pending", "answered", "connected", "failed", "expired"]

LIFE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ProviderAuthorization:
    """An authorization request that was handed out.

    Attributes:
        provider_id: whom it was made for; an answer by way of another one is not its answer.
        initiated_by: the admin token that asked for it.
        return_to: where the user's browser goes afterwards.
        error: why it failed, a code of ours.
    """

    provider_id: str
    state_sha256: str
    verifier_ref: str
    initiated_by: str
    return_to: str | None
    expires_at: str
    status: AuthorizationStatus = "pending"
    error: str | None = None

    def awaits(self, state: str, provider_id: str, now: datetime) -> bool:
        """Say whether it waits for the answer with this state, by way of this provider."""
        holds = (
            compare_digest(self.state_sha256, state_sha256(state)),
            self.provider_id == provider_id,
            self.status == "pending",
            not self.is_over(now),
        )
        return all(holds)

    def is_over(self, now: datetime) -> bool:
        """Say whether its time has run out."""
        return clock.parse(self.expires_at) <= now


def state_sha256(state: str) -> str:
    """Return what the log knows of a state."""
    return sha256(state.encode("utf-8", "surrogatepass")).hexdigest()


def state_invalid() -> BadInput:
    """Return the one refusal of all states that nothing waits for: nothing is told apart."""
    return BadInput("authorization_state_invalid", "no authorization waits for this answer")
