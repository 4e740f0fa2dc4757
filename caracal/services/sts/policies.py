"""Which policies are in force in each zone, and what they say (contract, section 14)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from caracal.errors import Unavailable
from caracal.events.base import Fact
from caracal.policy.engine import Bundle, Decision, PolicyCompileError, PolicyEngines, deny
from caracal.projections.memory import Row
from caracal.services.policy_report import Loaded
from caracal.services.sts.view import StsView

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InForce:
    """An active policy set version, compiled."""

    bundle: Bundle
    policy_set_id: str
    policy_set_version_id: str
    loaded_at: float


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided, and by which version; None when no policy spoke."""

    decision: Decision
    by: InForce | None


class Counters:
    """What ``/metrics`` tells of the engine, in the contract's names."""

    def __init__(self) -> None:
        self.eval_total = self.eval_errors = self.eval_duration_ns = 0
        self.compile_total = self.compile_errors = self.compile_duration_ns = 0


class Policies:
    """Keeps each zone's bundle; the old one serves until the new one is compiled.

    Attributes:
        swapped: called with a zone, and the position of the fact that may have changed what is
            loaded for it (0: no fact has).
    """

    def __init__(self, view: StsView, engines: PolicyEngines) -> None:
        self._view, self._engines = view, engines
        self._zones: dict[str, InForce | None] = {}
        self._failed: dict[str, str] = {}
        self._snapshots = -1
        self.swapped: Callable[[str, int], None] = lambda zone_id, position: None
        self.counters = Counters()

    def applied(self, fact: Fact) -> None:
        """Swap the zone's bundle; a listener of the tail."""
        zone_id = fact.zone_id
        # A version of a policy may come after the set that names it: other topic, no order.
        concerns = fact.name.startswith("policy_set.") or (
            fact.name.startswith("policy.") and zone_id in self._failed
        )
        if zone_id is None or not concerns:
            return
        if fact.name == "policy_set.activated":
            self._zones.setdefault(zone_id, None)  # so its first exchange finds it compiled
        if zone_id in self._zones:
            self._refresh(zone_id, fact.position)

    def evaluate(self, zone_id: str, policy_input: Mapping[str, Any]) -> Ruling:
        """Decide on one input.

        Raises:
            Unavailable: 503 ``policy_eval_failed``, the engine cannot be used.
        """
        current = self._in_force(zone_id)
        if current is None:
            missing = zone_id not in self._failed
            return Ruling(
                deny("no_active_policy_set" if missing else "policy_compile_failed"), None
            )
        if self._is_parked(zone_id, current):
            return Ruling(deny("policy_parked"), None)
        started = time.perf_counter_ns()
        try:
            decision = self._engines.evaluate(current.bundle, policy_input)
        except PolicyCompileError as error:
            self.counters.eval_errors += 1
            logger.error("policy %s is gone: %s", current.bundle.manifest_sha256, error)
            raise Unavailable("policy_eval_failed", "policies cannot be evaluated now") from None
        self.counters.eval_total += 1
        self.counters.eval_errors += decision.evaluation_status == "error"
        self.counters.eval_duration_ns += time.perf_counter_ns() - started
        return Ruling(decision, current)

    def loaded(self) -> dict[str, Loaded]:
        """Return what is loaded for each zone that was met."""
        return {zone_id: self.loaded_for(zone_id) for zone_id in self._zones}

    def loaded_for(self, zone_id: str) -> Loaded:
        """Return what is loaded for a zone."""
        current = self._zones.get(zone_id)
        version_id = None if current is None else current.policy_set_version_id
        return Loaded(version_id, self._failed.get(zone_id))

    @property
    def max_age(self) -> float:
        """Return the seconds since the oldest bundle in force was loaded."""
        now = time.monotonic()
        loaded = [zone.loaded_at for zone in self._zones.values() if zone is not None]
        return max((now - at for at in loaded), default=0.0)

    def catch_up(self) -> None:
        """Look at every zone again when the view was taken anew: no fact told of the change."""
        if self._snapshots != self._view.following.snapshots:
            self._snapshots = self._view.following.snapshots
            for known in self._zones:
                self._refresh(known)

    def _in_force(self, zone_id: str) -> InForce | None:
        self.catch_up()
        if zone_id not in self._zones:
            self._zones[zone_id] = None
            self._refresh(zone_id)
        return self._zones[zone_id]

    def _refresh(self, zone_id: str, position: int = 0) -> None:
        self._load(zone_id)
        self.swapped(zone_id, position)

    def _load(self, zone_id: str) -> None:
        self._failed.pop(zone_id, None)
        current, active = self._zones[zone_id], self._active(zone_id)
        if active is None:
            self._zones[zone_id] = None
            return
        if current is not None and current.policy_set_version_id == active["active_version_id"]:
            return
        started = time.perf_counter_ns()
        self.counters.compile_total += 1
        try:
            self._zones[zone_id] = self._compiled(active)
        except PolicyCompileError as error:
            self.counters.compile_errors += 1
            self._failed[zone_id] = active["active_version_id"]
            logger.error("policies of zone %s do not compile: %s", zone_id, error)
        self.counters.compile_duration_ns += time.perf_counter_ns() - started

    def _active(self, zone_id: str) -> Row | None:
        rows = self._view.policy_sets_of(zone_id)
        active = [row for row in rows if row["active_version_id"] is not None]
        return max(active, key=lambda row: int(row["position"]), default=None)

    def _compiled(self, policy_set: Row) -> InForce:
        version_id = policy_set["active_version_id"]
        version = self._view.tables["policy_set_versions"].live(version_id)
        if version is None:
            raise PolicyCompileError(f"version {version_id} is not there")
        modules = tuple((name, self._content(name)) for name in version["manifest"])
        bundle = Bundle(version["manifest_sha256"], modules)
        self._engines.load(bundle)
        return InForce(bundle, policy_set["id"], version_id, time.monotonic())

    def _content(self, version_id: str) -> str:
        row = self._view.tables["policy_versions"].rows.get(version_id)
        if row is None or row["stub"]:
            raise PolicyCompileError(f"policy version {version_id} is not there")
        return str(row["content"])

    def _is_parked(self, zone_id: str, current: InForce) -> bool:
        parked = self._view.following.parked
        if not parked:
            return False
        versions = self._view.tables["policy_versions"].rows
        ids = {row["id"] for row in self._view.policy_sets_of(zone_id)}
        ids |= {versions[name]["policy_id"] for name, _ in current.bundle.modules}
        return not parked.isdisjoint(ids)
