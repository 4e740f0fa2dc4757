"""Agent service: a long-running agent that others invoke, at an endpoint of an application."""

from __future__ import annotations

from typing import Any, Self

from caracal.errors import Conflict, NotFound
from caracal.events import base
from caracal.events.application import needs_application
from caracal.events.base import Aggregate
from caracal.events.guards import Need, Take, live
from caracal.events.zone import needs_zone

MEMBERS = ("protocol_versions", "framework_name", "framework_version", "capabilities", "metadata")


class AgentService(Aggregate):
    """registered -> (updated | lost)*

    Health is telemetry, told by heartbeats; only that they ceased is a fact.
    """

    TOPIC = "agent_service"
    PLURAL = "agent_services"

    class Registered(base.Created):
        TOPIC = "agent_service.registered"
        application_id: str
        endpoint_url: str
        protocol_versions: list[str]
        framework_name: str | None
        framework_version: str | None
        capabilities: list[str]
        metadata: dict[str, Any]

    class Updated(Aggregate.Event):
        TOPIC = "agent_service.updated"
        protocol_versions: list[str]
        framework_name: str | None
        framework_version: str | None
        capabilities: list[str]
        metadata: dict[str, Any]

        def apply(self, aggregate: AgentService) -> None:
            vars(aggregate).update({name: getattr(self, name) for name in MEMBERS})

    class Lost(Aggregate.Event):
        TOPIC = "agent_service.lost"

        def apply(self, aggregate: AgentService) -> None:
            pass

    def __init__(
        self,
        application_id: str,
        endpoint_url: str,
        protocol_versions: list[str],
        framework_name: str | None,
        framework_version: str | None,
        capabilities: list[str],
        metadata: dict[str, Any],
    ) -> None:
        self.application_id, self.endpoint_url = application_id, endpoint_url
        self.protocol_versions = protocol_versions
        self.framework_name, self.framework_version = framework_name, framework_version
        self.capabilities, self.metadata = capabilities, metadata

    @classmethod
    def register(
        cls,
        service_id: str,
        *,
        zone_id: str,
        application_id: str,
        endpoint_url: str,
        **members: Any,
    ) -> Self:
        """Begin a service; one for each endpoint of an application.

        Raises:
            AlreadyRegistered: by its guard; the one that is there is to be updated.
        """
        key = endpoint_key(zone_id, application_id, endpoint_url)
        return cls._begin(
            cls.Registered,
            service_id,
            needs_zone(zone_id),
            needs_application(application_id),
            Take(key, service_id, AlreadyRegistered()),
            Take(live("agent_service", service_id), service_id, AlreadyRegistered()),
            application_id=application_id,
            endpoint_url=endpoint_url,
            **members,
        )

    def update(self, **members: Any) -> None:
        """Replace what the service says of itself. Nothing different, nothing stored."""
        if self._different(members):
            self._record(self.Updated, needs_application(self.application_id), **members)

    def lose(self) -> None:
        """Note that its heartbeats have ceased."""
        self._record(self.Lost)


class AlreadyRegistered(Conflict):
    """The application has a service at this endpoint."""

    def __init__(self) -> None:
        super().__init__("concurrent_update", "another request registers this endpoint")


def endpoint_key(zone_id: str, application_id: str, endpoint_url: str) -> str:
    """Return the guard key of an endpoint; its owner is the service's id."""
    return f"agent_service:{zone_id}:{application_id}:{endpoint_url}"


def needs_agent_service(service_id: str) -> Need:
    """Return the guard by which nothing is invoked that is not there."""
    return Need(live("agent_service", service_id), agent_service_not_found(service_id))


def agent_service_not_found(service_id: str) -> NotFound:
    return NotFound("agent_service_not_found", f"there is no agent service {service_id!r}")
