"""What the Coordinator tells its operators: readiness by jobs, metrics and who may see them."""

from __future__ import annotations

from typing import Any

from caracal import clock
from caracal.errors import CaracalError, Forbidden
from caracal.projections.job_tick import stalled_job
from caracal.services.coordinator.call import Coordinator
from caracal.services.coordinator.caller import missing_token
from caracal.services.health import ByLabel, Check
from caracal.services.http import Scope, bearer_of, is_bearer
from caracal.settings import Settings


def metrics_refusal(scope: Scope, given: Settings) -> CaracalError | None:
    """Return why a request may not see the metrics: they are for operators, always."""
    if is_bearer(scope, given.caracal_coordinator_token) or is_bearer(scope, given.metrics_bearer):
        return None
    if bearer_of(scope) is None:
        return missing_token()
    return Forbidden("operator_token_required", "the metrics are for operators")


def jobs_check(parts: Coordinator) -> Check:
    """Return the check that the worker's jobs for the Coordinator go on."""
    given, since = parts.settings, clock.now()
    jobs = {
        "ttl_sweep": given.ttl_sweep_interval_ms,
        "service_lease_sweep": given.service_lease_sweep_interval_ms,
        "invocation_deadline": given.deadline_sweep_interval_ms,
        "retention_cleanup": given.retention_cleanup_interval_ms,
    }

    async def check() -> str | None:
        try:
            async with parts.database() as db:
                stalled = await stalled_job(db, jobs, since)
        except Exception:  # noqa: BLE001 - whatever it is, another check says it of the database
            return "postgres_unreachable"
        return None if stalled is None else f"job_stalled:{stalled}"

    return check


def counted(parts: Coordinator) -> dict[str, Any]:
    """Return the contract's counters."""
    view, counters = parts.view, parts.counters
    return {
        "caracal_invocations_total": ByLabel("status", counters.invocations),
        "caracal_agents_live": view.agents.live_rows,
        "caracal_delegations_active": view.edges.live_rows,
        "caracal_revocations_active": len(view.revocations),
        "caracal_log_emitted_total": counters.emitted,
        "caracal_log_dropped_total": 0,  # the log is the outbox: nothing of it is ever dropped
    }
