"""What a sink is: it takes records, or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from caracal.services.siem.record import Record


class Refused(Exception):
    """The sink will never have one of these records. The text is the reason: no word of theirs."""


class Away(Exception):
    """The sink cannot have them now; nothing is wrong with the records.

    Attributes:
        retry_after: seconds that the sink asks for; 0 when it does not say.
    """

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Sink(Protocol):
    """Where records go."""

    async def send(self, records: Sequence[Record]) -> None:
        """Hand over; the sink has all of them when this returns.

        Raises:
            Refused: it has none of them, and will not have at least one of them.
            Away: it may have some of them, or none.
        """

    def reopen(self) -> None:
        """Begin anew with the next records: what is open may have been moved aside."""

    async def close(self) -> None:
        """Let go of all that is open."""
