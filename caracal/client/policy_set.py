"""``client.policy_sets``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from caracal.client.call import Call
from caracal.client.method import D, one
from caracal.client.things import Archivable


class PolicySet(TypedDict):
    """A policy set; the active one of a zone has an ``active_version_id``."""

    id: str
    zone_id: str
    name: str
    description: str | None
    active_version_id: str | None
    shadow_version_id: str | None
    created_at: str


class ManifestItem(TypedDict):
    """A policy version in a manifest."""

    policy_version_id: str


class PolicySetVersion(TypedDict):
    """A version of a set; manifest and policies are shown by ``get_version`` only."""

    id: str
    policy_set_id: str
    version: int
    manifest_sha256: str
    schema_version: str
    created_at: str
    manifest_json: NotRequired[list[ManifestItem]]
    policies: NotRequired[list[str]]


class Activation(TypedDict):
    """What an activation has done; ``position`` is where to wait for."""

    activated: bool
    version_id: str
    shadow_version_id: str | None
    position: NotRequired[int | None]
    status_url: NotRequired[str]


class SimulatedPolicy(TypedDict):
    """A policy version of the manifest that was tried."""

    policy_id: str
    policy_version_id: str
    name: str
    version: int
    content_sha256: str
    archived: bool


class Obstacle(TypedDict):
    """Why activating would be refused: the code, detail and sentence of that refusal."""

    error: str
    detail: str | None
    reason: str


class Explanation(TypedDict):
    """A simulation in words."""

    summary: str
    determining_policies: list[Any]
    obstacles: list[Obstacle]


class Simulation(TypedDict):
    """What an activation would do; ``result`` is the decision on the input, if one was given."""

    dry_run: bool
    would_activate: bool
    policies: list[SimulatedPolicy]
    warnings: list[str]
    explanation: Explanation
    result: dict[str, Any] | None


class TopicState(TypedDict):
    """Whether the topic has the activation; None: not known now."""

    position: int | None
    published: bool | None


class StsReplica(TypedDict):
    """What an STS replica has loaded; ``apart``: it stalled there, and is kept apart."""

    replica: str
    version_id: str | None
    state: Literal["loaded", "other", "failed", "on_first_use"]
    position: int
    apart: NotRequired[bool]


class ActivationStatus(TypedDict):
    """How far an activation has come; ``unknown`` names what cannot be known now."""

    active: bool
    propagation_status: Literal[
        "loaded", "waiting_for_activation", "waiting_for_topic", "waiting_for_sts", "failed"
    ]
    topic: TopicState
    sts: list[StsReplica]
    policy_set_id: NotRequired[str]
    version_id: NotRequired[str | None]
    unknown: NotRequired[list[str]]


class PolicySets(Archivable[D, PolicySet, PolicySet]):
    """Policy sets: at most one version per zone is active; without one all is denied.

    >>> version = client.policy_sets.add_version(
    ...     zone_id, set_id, [{"policy_version_id": policy["version"]["id"]}]
    ... )
    >>> client.policy_sets.activate(zone_id, set_id, version["id"])
    """

    _plural = "policy-sets"

    @one
    def create(self, zone_id: str, name: str, description: str | None = None) -> Call[PolicySet]:
        """Create a set without versions."""
        return self._call("POST", zone_id, body={"name": name, "description": description})

    @one
    def add_version(
        self, zone_id: str, id: str, manifest: Sequence[ManifestItem]
    ) -> Call[PolicySetVersion]:
        """Add the next version: policy versions, in this order."""
        body = {"manifest": [dict(item) for item in manifest]}
        return self._call("POST", zone_id, id, "versions", body=body)

    @one
    def get_version(self, zone_id: str, id: str, version_id: str) -> Call[PolicySetVersion]:
        """Show a version with its manifest."""
        return self._call("GET", zone_id, id, "versions", version_id)

    @one
    def activate(
        self, zone_id: str, id: str, version_id: str, shadow_version_id: str | None = None
    ) -> Call[Activation]:
        """Make a version the zone's only active one; without a shadow, clear the shadow."""
        body = {"version_id": version_id, "shadow_version_id": shadow_version_id}
        return self._call("POST", zone_id, id, "activate", body=body)

    @one
    def simulate(
        self, zone_id: str, id: str, version_id: str, input: Mapping[str, Any] | None = None
    ) -> Call[Simulation]:
        """Try a version, with an input or without; nothing changes."""
        body = {"version_id": version_id, "input": input}
        return self._call("POST", zone_id, id, "simulate", body=body)

    @one
    def activation_status(
        self,
        zone_id: str,
        id: str,
        version_id: str | None = None,
        position: int | None = None,
    ) -> Call[ActivationStatus]:
        """Tell whether the topic and every STS have an activation."""
        query = (("version_id", version_id), ("position", position))
        return self._call("GET", zone_id, id, "activation-status", query=query)
