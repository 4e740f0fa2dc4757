"""``client.step_up_challenges``."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from caracal.client.call import Call
from caracal.client.method import D, one
from caracal.client.things import Readable


class StepUpChallenge(TypedDict):
    """A challenge that the STS has issued and waits for."""

    id: str
    zone_id: str
    session_id: str
    challenge_type: Literal["human_approval", "mfa", "software_attestation"]
    metadata_json: dict[str, Any] | None
    created_at: str
    expires_at: str
    satisfied_at: str | None


class SatisfiedChallenge(TypedDict):
    """That a challenge is satisfied."""

    id: str
    satisfied_at: str


class StepUpChallenges(Readable[D, StepUpChallenge, StepUpChallenge]):
    """Step-up challenges: what a person approves before a token is issued.

    >>> client.step_up_challenges.satisfy(zone_id, challenge_id, "ada")
    """

    _plural = "step-up-challenges"

    @one
    def satisfy(
        self, zone_id: str, id: str, approver_subject_id: str | None = None
    ) -> Call[SatisfiedChallenge]:
        """Approve; the approver must be another than the challenge's own subject."""
        body = {"approver_subject_id": approver_subject_id} if approver_subject_id else None
        return self._call("POST", zone_id, id, "satisfy", body=body)
