"""The rows of design, section 9, in the order in which they are measured.

What needs a database alone comes first, so that nothing else runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from bench.report import Row
from bench.rows import (
    cascade,
    coordinator,
    full_zone,
    hot_path,
    log,
    many_zones,
    mutations,
    pages,
    policy,
    revocation,
    stall,
    start,
    zone,
)
from bench.setting import Setting

Measure = Callable[[Setting], Coroutine[Any, Any, Row]]

ROWS: Mapping[str, Measure] = {
    "policy": policy.decision,
    "policy-modules": policy.modules,
    "appends": log.appends,
    "rebuild": log.rebuilding,
    "up": start.ready,
    "exchange": hot_path.exchange,
    "exchange-alone": hot_path.exchange_alone,
    "exchange-many": hot_path.exchange_many,
    "ambient": hot_path.ambient,
    "verification": hot_path.verification,
    "large-zone": zone.large,
    "many-zones": many_zones.started,
    "governed": hot_path.governed,
    "governed-alone": hot_path.governed_alone,
    "governed-steady": hot_path.governed_steady,
    "policy-shadow": policy.shadow,
    "policy-activation": policy.activation,
    "visible": mutations.visible,
    "mutations": mutations.by_http,
    "list-pages": pages.lists,
    "agents": coordinator.agents,
    "delegations": coordinator.delegations,
    "full-zone": full_zone.beside_empty,
    "cascade-tree": cascade.of_tree,
    "cascade-graph": cascade.of_graph,
    "revoke": revocation.by_api,
    "revoke-relay-dead": revocation.relay_dead,
    "policy-stall": stall.apart,
}
