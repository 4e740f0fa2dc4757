"""Which policies are in force in each zone, and what they say (contract, section 14)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from caracal import telemetry
from caracal.errors import Unavailable
from caracal.events.base import Fact
from caracal.policy.apart import Apart, Stalled
from caracal.policy.beat import label
from caracal.policy.engine import Bundle, Decision, PolicyCompileError, deny
from caracal.projections.memory import Row
from caracal.services.consistency import state_stale
from caracal.services.policy_report import Loaded
from caracal.services.sts.evaluator import Evaluator
from caracal.services.sts.view import StsView, ZoneView

logger = logging.getLogger(__name__)
_NOTHING: Any = object()

_VERSIONS = 3
"""How many are tried: the active one, the one before, one that was activated meanwhile."""


@dataclass(frozen=True, slots=True)
class Version:
    """A policy set version and its policies."""

    bundle: Bundle
    policy_set_id: str
    policy_set_version_id: str


@dataclass(frozen=True, slots=True)
class InForce(Version):
    """An active version, compiled; ``shadow`` is to be evaluated as well, and never decides.

    What is kept apart is compiled by its first evaluation only: until then ``before`` is what to
    go back to.
    """

    loaded_at: float
    key: bytes
    shadow_version_id: str | None = None
    shadow: Version | None = None
    before: InForce | None = None

    @property
    def is_whole(self) -> bool:
        """Say whether the shadow that is named, if one is, is there."""
        return self.shadow_version_id is None or self.shadow is not None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided, and by which version; None when no policy spoke."""

    decision: Decision
    by: InForce | None


class Policies:
    """Keeps each zone's bundle; the old one serves until the new one is compiled.

    Attributes:
        swapped: called with a zone, and the position of the fact that may have changed what is
            loaded for it (0: no fact has).
    """

    def __init__(self, view: StsView, evaluator: Evaluator) -> None:
        self._view, self._evaluator = view, evaluator
        self._zones: dict[str, InForce | None] = {}
        self._failed: dict[str, str] = {}
        self.swapped: Callable[[str, int], None] = lambda zone_id, position: None
        self.counters = evaluator.counters

    def applied(self, fact: Fact) -> None:
        """Swap the zone's bundle; a listener of the tail."""
        zone_id = fact.zone_id
        # A version of a policy may come after the set that names it: other topic, no order.
        concerns = fact.name.startswith("policy_set.") or (
            fact.name.startswith("policy.") and self._lacks(zone_id)
        )
        if zone_id is None or not concerns:
            return
        if self._view.zones.peek(zone_id) is None:
            self._not_in_memory(zone_id, fact)
            return
        if fact.name == "policy_set.activated":
            self._zones.setdefault(zone_id, None)  # so its first exchange finds it compiled
        if zone_id in self._zones:
            self._refresh(zone_id, fact.position)

    def met(self, zone: ZoneView) -> None:
        """Compile what is in force in a zone whose rows have come."""
        self._zones.setdefault(zone.id, None)
        self._refresh(zone.id)

    def forget(self, zone_id: str, position: int = 0) -> None:
        """Let go what a zone has in force: nothing tells of its changes any more."""
        self._failed.pop(zone_id, None)
        if self._zones.pop(zone_id, _NOTHING) is not _NOTHING:
            self.swapped(zone_id, position)

    async def evaluate(
        self, zone_id: str, policy_input: Mapping[str, Any], *, patient: bool = True
    ) -> Ruling:
        """Decide on one input; waits only where the zone's policies are kept apart.

        Args:
            patient: else what is kept apart is not evaluated: it has stalled a moment ago.

        Raises:
            Unavailable: 503 ``policy_eval_failed``, the engine cannot be used.
        """
        for _ in range(_VERSIONS):
            current = self._in_force(zone_id)
            if current is None:
                return self._by_none(zone_id)
            if self._is_parked(zone_id, current):
                return Ruling(deny("policy_parked"), None)
            try:
                return await self._ruled(zone_id, current, policy_input, patient)
            except PolicyCompileError as error:
                self.counters.eval_errors += 1
                if not self._evaluator.is_apart(zone_id, current.bundle):
                    logger.error("policy %s is gone: %s", current.bundle.manifest_sha256, error)
                    break
                self._go_back(zone_id, current, error)
        raise Unavailable("policy_eval_failed", "policies cannot be evaluated now")

    async def tried(self, zone_id: str, policy_input: Mapping[str, Any], apart: Apart) -> Ruling:
        """Decide by what is loaded for a zone, in ``apart``; nothing is loaded or counted for it.

        What stalls, or does not compile, is a deny with the status ``error``.
        """
        current = self.current(zone_id)
        if current is None:
            return self._by_none(zone_id)
        if self._is_parked(zone_id, current):
            return Ruling(deny("policy_parked"), None)
        try:
            return Ruling(await apart.evaluate(current.bundle, policy_input), current)
        except (Stalled, PolicyCompileError):
            return Ruling(deny("policy_eval_failed", status="error"), current)

    def current(self, zone_id: str) -> InForce | None:
        """Return what is in force for a zone, as far as it is loaded."""
        return self._zones.get(zone_id)

    async def _ruled(
        self, zone_id: str, current: InForce, policy_input: Mapping[str, Any], patient: bool
    ) -> Ruling:
        with telemetry.span("evaluate policy") as span:
            decision = await self._decide(zone_id, current, policy_input, patient)
            if span:
                span.set("caracal.policy_set_version_id", current.policy_set_version_id)
                span.set("caracal.decision", decision.decision)
        return Ruling(decision, current)

    def _by_none(self, zone_id: str) -> Ruling:
        failed = zone_id in self._failed
        return Ruling(deny("policy_compile_failed" if failed else "no_active_policy_set"), None)

    async def _decide(
        self, zone_id: str, current: InForce, policy_input: Mapping[str, Any], patient: bool
    ) -> Decision:
        if not self._evaluator.is_apart(zone_id, current.bundle):
            return self._evaluator.here(current.key, current.bundle, policy_input)
        if not patient:
            return deny("policy_eval_failed", status="error")
        decision = await self._evaluator.apart(current.bundle, policy_input)
        if current.before and decision.evaluation_status != "error":
            self._settle(zone_id, current)
        return decision

    def _settle(self, zone_id: str, current: InForce) -> None:
        """Forget the version before: this one compiles."""
        if self._zones.get(zone_id) is current:
            self._zones[zone_id] = replace(current, before=None)

    def _go_back(self, zone_id: str, current: InForce, error: PolicyCompileError) -> None:
        """Put the version before in force again: this one turned out not to compile."""
        if self._zones.get(zone_id) is not current:
            return  # somebody was faster, or another version has come
        logger.error("policies of zone %s do not compile: %s", zone_id, error)
        self.counters.compile_errors += 1
        self._failed[zone_id] = current.policy_set_version_id
        self._zones[zone_id] = current.before
        self.swapped(zone_id, 0)

    def apart(self) -> list[str]:
        """Return the zones whose policies are kept apart, as far as they were met."""
        is_apart = self._evaluator.is_apart
        met = self._zones.items()
        return [zone_id for zone_id, it in met if it is not None and is_apart(zone_id, it.bundle)]

    def loaded(self) -> dict[str, Loaded | None]:
        """Return what is loaded for each zone that was met."""
        return {zone_id: self.loaded_for(zone_id) for zone_id in self._zones}

    def loaded_for(self, zone_id: str) -> Loaded | None:
        """Return what is loaded for a zone; None when it is not in memory."""
        if zone_id not in self._zones:
            return None
        current = self._zones.get(zone_id)
        version_id = None if current is None else current.policy_set_version_id
        is_apart = current is not None and self._evaluator.is_apart(zone_id, current.bundle)
        return Loaded(version_id, self._failed.get(zone_id), is_apart)

    @property
    def lost(self) -> int:
        """Return how many processes of this service evaluations have cost."""
        return self._evaluator.lost

    @property
    def max_age(self) -> float:
        """Return the seconds since the oldest bundle in force was loaded."""
        now = time.monotonic()
        loaded = [zone.loaded_at for zone in self._zones.values() if zone is not None]
        return max((now - at for at in loaded), default=0.0)

    def _not_in_memory(self, zone_id: str, fact: Fact) -> None:
        """Load a zone in which policies were activated: who did it waits to hear that they are."""
        self.forget(zone_id, fact.position)
        if fact.name == "policy_set.activated":
            self.swapped(zone_id, fact.position)
            self._view.zones.want(zone_id)

    def _lacks(self, zone_id: str | None) -> bool:
        """Say whether something of a zone could not be loaded."""
        current = self._zones.get(zone_id or "")
        return zone_id in self._failed or (current is not None and not current.is_whole)

    def _in_force(self, zone_id: str) -> InForce | None:
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
        if current is not None and current.is_whole and _names(current) == _named(active):
            return
        started = time.perf_counter_ns()
        self.counters.compile_total += 1
        try:
            self._zones[zone_id] = self._compiled(zone_id, active)
        except PolicyCompileError as error:
            self.counters.compile_errors += 1
            self._failed[zone_id] = active["active_version_id"]
            logger.error("policies of zone %s do not compile: %s", zone_id, error)
        self.counters.compile_duration_ns += time.perf_counter_ns() - started

    def _active(self, zone_id: str) -> Row | None:
        rows = self._tables(zone_id).policy_sets()
        active = [row for row in rows if row["active_version_id"] is not None]
        return max(active, key=lambda row: int(row["position"]), default=None)

    def _compiled(self, zone_id: str, policy_set: Row) -> InForce:
        version = self._version(zone_id, policy_set, policy_set["active_version_id"])
        self._evaluator.load(zone_id, version.bundle)
        shadow_id = policy_set["shadow_version_id"]
        return InForce(
            version.bundle,
            version.policy_set_id,
            version.policy_set_version_id,
            loaded_at=time.monotonic(),
            key=label(zone_id, version.bundle.manifest_sha256),
            shadow_version_id=shadow_id,
            shadow=self._shadow(zone_id, policy_set, shadow_id),
            before=self._before(zone_id, version.bundle),
        )

    def _before(self, zone_id: str, bundle: Bundle) -> InForce | None:
        """Return what to go back to should a bundle that is kept apart not compile."""
        current = self._zones[zone_id]
        if current is None or not self._evaluator.is_apart(zone_id, bundle):
            return None
        return current.before or current

    def _shadow(self, zone_id: str, policy_set: Row, version_id: str | None) -> Version | None:
        """Return a shadow; what is wrong with it harms nothing."""
        if version_id is None:
            return None
        try:
            return self._version(zone_id, policy_set, version_id)
        except PolicyCompileError as error:
            logger.warning("shadow of policy set %s: %s", policy_set["id"], error)
            return None

    def _version(self, zone_id: str, policy_set: Row, version_id: str) -> Version:
        tables = self._tables(zone_id).tables
        version = tables["policy_set_versions"].live(version_id)
        if version is None:
            raise PolicyCompileError(f"version {version_id} is not there")
        known = tables["policy_versions"].rows
        modules = tuple((name, _content(known, name)) for name in version["manifest"])
        bundle = Bundle(version["manifest_sha256"], modules)
        return Version(bundle, policy_set["id"], version_id)

    def _is_parked(self, zone_id: str, current: InForce) -> bool:
        parked = self._view.following.parked
        if not parked:
            return False
        zone = self._tables(zone_id)
        versions = zone.tables["policy_versions"].rows
        ids = {row["id"] for row in zone.policy_sets()}
        ids |= {versions[name]["policy_id"] for name, _ in current.bundle.modules}
        return not parked.isdisjoint(ids)

    def _tables(self, zone_id: str) -> ZoneView:
        """Return the zone, which whoever asks holds in memory.

        Raises:
            Unavailable: 503 ``state_stale``, the view was taken anew this moment.
        """
        if (zone := self._view.zones.peek(zone_id)) is None:
            raise state_stale()
        return zone


def _content(versions: Mapping[str, Row], version_id: str) -> str:
    row = versions.get(version_id)
    if row is None or row["stub"]:
        raise PolicyCompileError(f"policy version {version_id} is not there")
    return str(row["content"])


def _names(current: InForce) -> tuple[str, str | None]:
    return current.policy_set_version_id, current.shadow_version_id


def _named(policy_set: Row) -> tuple[str, str | None]:
    return policy_set["active_version_id"], policy_set["shadow_version_id"]
