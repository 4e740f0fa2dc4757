"""Routes of the operator: what this very replica has in memory, and what it would decide by it.

The API's ``simulate`` and ``activation-status`` speak of versions and of what replicas report;
these speak of one process. They are there when ``STS_ADMIN_TOKEN`` is, and change nothing: no zone
is loaded or noted as used, and what is tried is evaluated in a process of its own, for an input may
make a policy stall.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from caracal.errors import BadInput, NotFound, Unauthenticated
from caracal.policy.apart import Apart
from caracal.policy.input_schema import input_warnings
from caracal.services.http import Receive, Scope, Send, is_bearer, read_body, respond
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.policies import Policies, Ruling
from caracal.services.sts.routes import Route
from caracal.services.sts.token_request import MAX_BODY
from caracal.services.sts.view import StsView, ZoneView
from caracal.services.windows import caller_of


@dataclass(frozen=True, slots=True)
class Internal:
    """The routes; ``token`` opens them, ``apart`` is where simulations run."""

    token: str = field(repr=False)
    view: StsView
    policies: Policies
    apart: Apart
    failures: FailureLimit
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def table(self) -> dict[str, Route]:
        """Return the routes; none without a token."""
        if not self.token:
            return {}
        return {
            "/internal/zones": ("GET", self.list_zones),
            "/internal/zones/{zone_id}": ("GET", self.show_zone),
            "/internal/zones/{zone_id}/simulate": ("POST", self.simulate),
        }

    async def list_zones(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer which zones are in memory, used last first.

        Raises:
            Unauthenticated: 401 ``access_denied``.
            TooMany: 429 ``access_denied``.
        """
        self._check(scope)
        zones = [self._summary(zone) for zone in self.view.zones.kept()]
        await self._answer(send, {"zones": zones})

    async def show_zone(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer how many rows a zone has in memory, and which policies.

        Raises:
            Unauthenticated: 401 ``access_denied``.
            NotFound: 404 ``resource_not_found``, it is not in memory.
        """
        self._check(scope)
        zone = self._zone(scope)
        rows = {name: len(table.rows) for name, table in zone.tables.items()}
        shown = self._summary(zone) | {"rows": rows, "policy": self._policy(zone.id)}
        await self._answer(send, shown)

    async def simulate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the loaded policies say to an ``input``.

        Raises:
            Unauthenticated: 401 ``access_denied``.
            NotFound: 404 ``resource_not_found``, the zone is not in memory.
            BadInput: 400 ``invalid_body``.
        """
        self._check(scope)
        zone = self._zone(scope)
        policy_input = _input(await read_body(receive, scope, MAX_BODY))
        async with self.turn:
            ruling = await self.policies.tried(zone.id, policy_input, self.apart)
        warnings = input_warnings(policy_input, zone.id)
        await self._answer(send, {**_told(ruling), "warnings": warnings})

    def _check(self, scope: Scope) -> None:
        key = ("internal", caller_of(scope))
        self.failures.check(key)
        if not is_bearer(scope, self.token):
            self.failures.failed(key)
            raise Unauthenticated("access_denied", "the administrator's token is needed")

    def _zone(self, scope: Scope) -> ZoneView:
        zone = self.view.zones.peek(scope["path_params"]["zone_id"])
        if zone is None:
            raise NotFound("resource_not_found", "this replica does not have the zone in memory")
        return zone

    def _summary(self, zone: ZoneView) -> dict[str, Any]:
        loaded = self.policies.loaded_for(zone.id)
        return {
            "zone_id": zone.id,
            "bytes": zone.weight,
            "policy_set_version_id": loaded.version_id if loaded else None,
            "failed_version_id": loaded.failed_version_id if loaded else None,
            "apart": loaded is not None and loaded.apart,
        }

    def _policy(self, zone_id: str) -> dict[str, Any] | None:
        current = self.policies.current(zone_id)
        if current is None:
            return None
        return {
            "policy_set_id": current.policy_set_id,
            "manifest_sha256": current.bundle.manifest_sha256,
            "policy_version_ids": [name for name, _ in current.bundle.modules],
            "shadow_version_id": current.shadow_version_id,
            "loaded_seconds": round(time.monotonic() - current.loaded_at, 3),
        }

    async def _answer(self, send: Send, body: dict[str, Any]) -> None:
        position = self.view.following.position
        await respond(send, 200, orjson.dumps({"position": position, **body}), _NOT_STORED)


_NOT_STORED = [(b"cache-control", b"no-store")]


def _input(body: bytes) -> dict[str, Any]:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        given = None
    policy_input = given.get("input") if isinstance(given, dict) else None
    if not isinstance(policy_input, dict):
        raise BadInput("invalid_body", "the body is an object with an object input")
    return policy_input


def _told(ruling: Ruling) -> dict[str, Any]:
    by = ruling.by
    return {
        "policy_set_version_id": by.policy_set_version_id if by else None,
        "manifest_sha256": by.bundle.manifest_sha256 if by else None,
        "result": asdict(ruling.decision),
    }
