"""From decisions to evidence: what is settled in the one call of Redis, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from caracal.errors import CaracalError
from caracal.events.store.audit_entry import NO_ZONE, AuditEvent, Prebuilt
from caracal.events.store.audit_writer import AuditWriter
from caracal.services.sts import evidence
from caracal.services.sts.call import Call
from caracal.services.sts.exchange import Exchange, Granted, Verdict
from caracal.services.sts.refusals import Refused, replayed
from caracal.services.sts.resource_decision import conclude
from caracal.services.sts.settlement import Entry, Settlement, Settlements, Step
from caracal.services.sts.view import StsView

_WINDOW_SECONDS, _MAX_REQUESTS = 60, 1000


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes the evidence of one request, whatever its outcome."""

    view: StsView
    settlements: Settlements
    writer: AuditWriter

    async def refused(self, call: Call, refused: Refused) -> CaracalError:
        """Record a refusal of rows 0c to 9; return what to answer."""
        settlement = Settlement(
            nonce=call.nonce,
            replayed=self._replayed(call),
            when_none=partial(self._of_refusal, call, refused),
        )
        settled = await self.settlements.settle(settlement)
        return replayed().error if settled.replayed else refused.error

    async def granted(
        self, call: Call, exchange: Exchange, verdicts: Sequence[Verdict]
    ) -> list[Granted]:
        """Record the decisions; return what the rate limit leaves.

        Raises:
            CaracalError: the nonce was used before, or nothing is left.
            Unavailable: 503 ``audit_unavailable``: no evidence, no mandate.
        """
        none = partial(self._of_outcome, exchange, "exchange_denied", "nothing granted")
        settled = await self.settlements.settle(
            Settlement(
                self._steps(exchange, verdicts),
                call.nonce,
                self._replayed(call),
                when_none=none,
            )
        )
        if settled.replayed:
            raise replayed().error
        granted, error = conclude(verdicts, settled.limited)
        if error is not None:
            raise error
        return granted

    async def denied(
        self,
        call: Call,
        exchange: Exchange,
        verdicts: Sequence[Verdict],
        error: CaracalError,
        status: str = "exchange_denied",
    ) -> CaracalError:
        """Record the decisions and a deny of the whole request; return what to answer."""
        entry = partial(self._of_outcome, exchange, status, error.description)
        settled = await self.settlements.settle(
            Settlement(
                self._steps(exchange, verdicts),
                call.nonce,
                self._replayed(call),
                when_granted=entry,
                when_none=entry,
            )
        )
        if settled.replayed:
            return replayed().error
        return conclude(verdicts, settled.limited)[1] or error

    def _steps(self, exchange: Exchange, verdicts: Sequence[Verdict]) -> list[Step]:
        return [self._step(exchange, verdict) for verdict in verdicts]

    def _step(self, exchange: Exchange, verdict: Verdict) -> Step:
        within = self._entry(evidence.of_verdict(exchange, verdict))
        if not verdict.counted or verdict.resource is None:
            return Step(within)
        resource, limit = verdict.resource, verdict.resource["rate_limit"] or {}
        return Step(
            within,
            over=partial(self._of_limit, exchange, verdict),
            counter=f"rl:{exchange.zone.id}:{resource['id']}:{exchange.application['id']}",
            limit=limit.get("max_requests", _MAX_REQUESTS),
            window=limit.get("window_seconds", _WINDOW_SECONDS),
            grants=verdict.allowed,
            ends=verdict.ends is not None,
        )

    def _replayed(self, call: Call) -> Entry | None:
        return partial(self._of_refusal, call, replayed()) if call.by_gateway else None

    def _of_refusal(self, call: Call, refused: Refused) -> Prebuilt:
        zone_id = call.request.zone_id
        known = zone_id if self.view.has_zone(zone_id) else NO_ZONE
        return self._entry(evidence.of_refusal(call.request, call.request_id, known, refused))

    def _of_limit(self, exchange: Exchange, verdict: Verdict) -> Prebuilt:
        return self._entry(evidence.of_limit(exchange, verdict))

    def _of_outcome(self, exchange: Exchange, status: str, reason: str) -> Prebuilt:
        return self._entry(evidence.of_outcome(exchange, status, reason))

    def _entry(self, event: AuditEvent) -> Prebuilt:
        return self.writer.prebuilt(event)
