"""``Caracal``: the agents' side. Spawns agents, hands authority on, and ends both in time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx

from caracal.client.acting import (
    CreatedDelegationEdge,
    DelegationConstraints,
    delegating,
    ending,
    revoking,
    spawning,
)
from caracal.client.agent import AgentKind, AgentSession
from caracal.client.ambient import (
    ACCESS_TOKEN,
    Credentials,
    IssuedToken,
    TokenEndpoint,
    TokenSource,
)
from caracal.client.asynchronous import Async
from caracal.client.call import Call
from caracal.client.core import Core
from caracal.client.envelope import Place, current, envelope_headers, new_trace, standing
from caracal.client.errors import AdminApiError
from caracal.client.gateway import GatewayTransport
from caracal.client.options import Endpoint, check_url
from caracal.client.settled import finished, made
from caracal.errors import CaracalError
from caracal.trace import Hint

T = TypeVar("T")

AGENT_SESSION_REQUIRED = "agent_session_required"
GATEWAY_URL_NOT_CONFIGURED = "gateway_url_not_configured"
_TOKEN_MS = 5_000
_END_MS = 5_000
_REQUIRED = {
    "zone_id": "CARACAL_ZONE_ID",
    "application_id": "CARACAL_APPLICATION_ID",
    "client_secret": "CARACAL_CLIENT_SECRET",
    "sts_url": "CARACAL_STS_URL",
    "coordinator_url": "CARACAL_COORDINATOR_URL",
    "resources": "CARACAL_RESOURCES",
}
_OPTIONAL = {
    "scope": "CARACAL_SCOPE",
    "gateway_url": "CARACAL_GATEWAY_URL",
    "upstreams": "CARACAL_UPSTREAMS",
}


class Delegated(NamedTuple):
    """An agent and the edge that leads to it."""

    agent: AgentSession
    edge: CreatedDelegationEdge


class Caracal:
    """An application whose agents act: asynchronous, for one event loop.

    >>> async with Caracal.from_env() as caracal:
    ...     async with caracal.spawn() as agent:
    ...         async with caracal.delegate_to_spawn(scopes=["read"]) as child:
    ...             ...

    Args:
        zone_id: the zone of the application.
        application_id: the application.
        client_secret: its secret; goes to the STS only.
        sts_url: base of the STS.
        coordinator_url: base of the Coordinator.
        resources: identifiers that the ambient mandate is asked for; each declares ``scope``.
        scope: of the ambient mandate, space separated.
        gateway_url: base of the Gateway; needed for ``http``.
        upstreams: upstream prefix to resource identifier: calls below it go through the Gateway.
        http_client: an HTTP client to use for STS and Coordinator; it stays yours to close.
        timeout_ms: limit of each attempt at the Coordinator, in milliseconds.
        retries: how many attempts may follow the first one; a delegation is attempted once.

    Raises:
        ValueError: a URL, a number or a resource that cannot work.
        AdminApiError: by every method, STS or Coordinator refused.
        AdminTransportError: by every method, no answer came.
    """

    def __init__(
        self,
        *,
        zone_id: str,
        application_id: str,
        client_secret: str,
        sts_url: str,
        coordinator_url: str,
        resources: Sequence[str],
        scope: str = "agent:lifecycle",
        gateway_url: str | None = None,
        upstreams: Mapping[str, str] | None = None,
        http_client: httpx.AsyncClient | None = None,
        timeout_ms: int = 30_000,
        retries: int = 3,
    ) -> None:
        if not (zone_id and application_id and client_secret):
            raise ValueError("zone_id, application_id and client_secret must not be empty")
        if isinstance(resources, str) or not resources:
            raise ValueError("resources must be a list with at least one identifier")
        self.zone_id, self.application_id = zone_id, application_id
        self._coordinator = Endpoint(
            "coordinator_url", coordinator_url, timeout_ms=timeout_ms, retries=retries
        )
        sts = Endpoint("sts_url", sts_url, timeout_ms=min(timeout_ms, _TOKEN_MS), retries=retries)
        self._gateway_url, self._upstreams = gateway_url, dict(upstreams or {})
        if gateway_url is not None:
            check_url("gateway_url", gateway_url)
        self._http = httpx.AsyncClient(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        credentials = Credentials(zone_id, application_id, client_secret)
        self._sts = TokenEndpoint(sts, credentials, self._http)
        self.tokens = TokenSource(self._sts, resources, scope)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **more: Any) -> Self:
        """Make one from ``CARACAL_*`` variables; keywords win over them.

        ``CARACAL_ZONE_ID``, ``CARACAL_APPLICATION_ID``, ``CARACAL_CLIENT_SECRET``,
        ``CARACAL_STS_URL``, ``CARACAL_COORDINATOR_URL``, ``CARACAL_RESOURCES`` (space separated)
        are needed; ``CARACAL_SCOPE``, ``CARACAL_GATEWAY_URL`` and ``CARACAL_UPSTREAMS``
        (``prefix=resource``, space separated) are not.

        Raises:
            ValueError: a variable is missing or cannot be read; no value is repeated.
        """
        found = _from(os.environ if environ is None else environ) | more
        if missing := [name for keyword, name in _REQUIRED.items() if keyword not in found]:
            raise ValueError(f"not set: {', '.join(missing)}")
        return cls(**found)

    @asynccontextmanager
    async def spawn(
        self,
        *,
        kind: AgentKind = "instance",
        capabilities: Sequence[str] = (),
        ttl_seconds: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_id: str | None = None,
        subject_session_id: str | None = None,
        end: bool | None = None,
    ) -> AsyncIterator[AgentSession]:
        """Spawn an agent that ends with the context, however that is left.

        Inside of another ``spawn`` of this application the new agent is that one's child; an
        agent that came with a request is a parent only if ``parent_id`` names it. A cancelled
        task ends its agent before it goes. A ``service`` outlives its process by its lease, so
        it is left alone; ``end`` decides otherwise.

        Raises:
            AdminApiError: the Coordinator refused, at the beginning or at the end.
        """
        call = spawning(
            self.zone_id,
            self.application_id,
            kind=kind,
            capabilities=capabilities,
            ttl_seconds=ttl_seconds,
            metadata=metadata,
            parent_id=self._own_session() if parent_id is None else parent_id,
            subject_session_id=subject_session_id,
        )
        agent = await made(self._ask(call), lambda made: self._end(_id_of(made)))
        session_id, ends = _id_of(agent), kind != "service" if end is None else end
        async with _leaving(lambda: self._end(session_id), "agent session", ends):
            with standing(self._place_of(agent)):
                yield agent

    @asynccontextmanager
    async def delegate(
        self,
        to: AgentSession | str,
        *,
        scopes: Sequence[str],
        ttl_seconds: int | None = 300,
        receiver_application_id: str | None = None,
        source_session_id: str | None = None,
        resource_id: str | None = None,
        constraints: DelegationConstraints | None = None,
        parent_edge_id: str | None = None,
        revoke: bool = False,
    ) -> AsyncIterator[CreatedDelegationEdge]:
        """Hand scopes of the surrounding agent on to another agent.

        Calls made inside name the edge in their envelope. On leaving, the edge is left to its
        ``ttl_seconds``, unless ``revoke``: revoking an edge ends the agent that it leads to.
        ``to`` is of this application when it is a bare id and nothing else is said.

        Raises:
            CaracalError: ``agent_session_required``, there is no surrounding agent.
            AdminApiError: the Coordinator refused.
        """
        receiver = self.application_id if isinstance(to, str) else to["application_id"]
        edge = await made(
            self._delegated(
                to if isinstance(to, str) else _id_of(to),
                source_session_id=source_session_id,
                receiver_application_id=receiver_application_id or receiver,
                scopes=list(scopes),
                ttl_seconds=ttl_seconds,
                resource_id=resource_id,
                constraints=constraints,
                parent_edge_id=parent_edge_id,
            ),
            lambda made: self._revoke(_edge_of(made)),
        )
        place, edge_id = current(), _edge_of(edge)
        hint = replace(
            place.hint,
            agent_session=edge["source_session_id"],
            delegation_edge=edge_id,
            parent_edge=edge.get("parent_edge_id"),
        )
        async with _leaving(lambda: self._revoke(edge_id), "delegation edge", revoke):
            with standing(replace(place, hint=hint)):
                yield edge

    @asynccontextmanager
    async def delegate_to_spawn(
        self,
        *,
        scopes: Sequence[str],
        ttl_seconds: int = 300,
        resource_id: str | None = None,
        constraints: DelegationConstraints | None = None,
        kind: AgentKind = "instance",
        capabilities: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Delegated]:
        """Spawn a child of the surrounding agent and hand scopes on to it; both end together.

        Raises:
            CaracalError: ``agent_session_required``, there is no surrounding agent.
            AdminApiError: the Coordinator refused; a child without its edge is ended.
        """
        parent = self._own_session()
        if parent is None:
            raise _no_agent()
        held = current().held_edge
        spawned = self.spawn(
            kind=kind,
            capabilities=capabilities,
            ttl_seconds=ttl_seconds,
            metadata=metadata,
            end=True,
        )
        async with spawned as child:
            edge = await self._delegated(
                _id_of(child),
                source_session_id=parent,
                receiver_application_id=self.application_id,
                scopes=list(scopes),
                ttl_seconds=ttl_seconds,
                resource_id=resource_id,
                constraints=constraints,
                parent_edge_id=held,
            )
            place = current()
            hint = replace(place.hint, delegation_edge=_edge_of(edge), parent_edge=held)
            with standing(replace(place, hint=hint, held_edge=_edge_of(edge))):
                yield Delegated(child, edge)

    async def mandate(
        self,
        *resources: str,
        scopes: Sequence[str] = (),
        ttl_seconds: int | None = None,
        **members: str | None,
    ) -> IssuedToken:
        """Exchange the ambient mandate for one of a single call, for the surrounding agent.

        For resource servers that are called directly; the Gateway does this by itself. Further
        form fields by name (``challenge_id``, ``challenge_response``, ``actor_token``).

        Raises:
            AdminApiError: the STS refused; a step-up is ``interaction_required``, its challenge
                stands in ``body``.
        """
        place = current()
        ours = place.owner == (self.zone_id, self.application_id)
        return await self._sts.issue(
            resources,
            subject_token=await self.tokens.token(),
            subject_token_type=ACCESS_TOKEN,
            scope=" ".join(scopes) or None,
            ttl_seconds=ttl_seconds,
            agent_session_id=place.hint.agent_session if ours else None,
            delegation_edge_id=place.held_edge if ours else None,
            **members,
        )

    def http(self, **options: Any) -> httpx.AsyncClient:
        """Return an HTTP client whose calls of the bound upstreams go through the Gateway.

        It is the caller's to close. Keywords are those of ``httpx.AsyncClient``.
        """
        options.setdefault("trust_env", False)
        return httpx.AsyncClient(transport=self.transport(), **options)

    def transport(self, inner: httpx.AsyncBaseTransport | None = None) -> GatewayTransport:
        """Return the transport of :meth:`http`, around one of your own.

        Raises:
            CaracalError: ``gateway_url_not_configured``.
        """
        if self._gateway_url is None:
            raise CaracalError(GATEWAY_URL_NOT_CONFIGURED, "the client has no gateway_url")
        return GatewayTransport(self._gateway_url, self._upstreams, self.tokens.token, inner)

    async def headers(self) -> dict[str, str]:
        """Return ``Authorization``, ``traceparent`` and ``baggage`` for a call between apps."""
        token = await self.tokens.token()
        return {"Authorization": f"Bearer {token}", **envelope_headers()}

    async def aclose(self) -> None:
        """Forget the token; close the connections, unless the HTTP client was given."""
        await self.tokens.close()
        if self._is_ours:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(zone_id={self.zone_id!r}, {self.application_id!r})"

    def _own_session(self) -> str | None:
        place = current()
        ours = place.owner == (self.zone_id, self.application_id)
        return place.hint.agent_session if ours else None

    def _place_of(self, agent: AgentSession) -> Place:
        place = current()
        hint = Hint(_id_of(agent), hop=place.hint.hop or 0)
        trace = place.traceparent or new_trace()
        return Place(hint, trace, owner=(self.zone_id, self.application_id))

    async def _delegated(
        self, target_session_id: str, *, source_session_id: str | None, **members: Any
    ) -> CreatedDelegationEdge:
        """Create an edge; once: a second attempt might make a second edge."""
        source = source_session_id or self._own_session()
        if source is None:
            raise _no_agent()
        place = current()
        if members["parent_edge_id"] is None and place.hint.agent_session == source:
            members["parent_edge_id"] = place.held_edge
        call = delegating(
            self.zone_id,
            source_session_id=source,
            target_session_id=target_session_id,
            issuer_application_id=self.application_id,
            **members,
        )
        return await self._ask(call, retries=0)

    async def _end(self, session_id: str) -> None:
        await self._ask(ending(self.zone_id, session_id), timeout_ms=_END_MS, retries=1)

    async def _revoke(self, edge_id: str) -> None:
        try:
            await self._ask(revoking(self.zone_id, edge_id), timeout_ms=_END_MS, retries=1)
        except AdminApiError as error:
            if error.code != "delegation_not_found":  # it has ended by itself
                raise

    async def _ask(self, call: Call[T], **limits: Any) -> T:
        token = await self.tokens.token()
        place = current()
        call = replace(call, headers={**call.headers, **_traced(place)})
        core = Core(replace(self._coordinator, token=token, **limits))
        try:
            return await Async(core, self._http, None).bound(core.answer)(call)
        except AdminApiError as error:
            if error.status == 401:  # its session has ended; the STS decides about another one
                self.tokens.forget()
            raise


@asynccontextmanager
async def _leaving(
    leave: Callable[[], Awaitable[None]], what: str, wanted: bool
) -> AsyncIterator[None]:
    """End something on leaving; an error of the body is not replaced by one of the end."""
    try:
        yield
    except BaseException as error:
        if wanted:
            try:
                await finished(_run(leave))
            except CaracalError as failure:
                error.add_note(f"the {what} could not be ended: {failure}")
        raise
    if wanted:
        await finished(_run(leave))


async def _run(leave: Callable[[], Awaitable[None]]) -> None:
    await leave()


def _traced(place: Place) -> dict[str, str]:
    return {} if place.traceparent is None else {"traceparent": place.traceparent.decode()}


def _id_of(agent: AgentSession) -> str:
    return agent.get("agent_session_id") or agent["id"]


def _edge_of(edge: CreatedDelegationEdge) -> str:
    return edge.get("delegation_edge_id") or edge["id"]


def _no_agent() -> CaracalError:
    return CaracalError(AGENT_SESSION_REQUIRED, "there is no agent around: spawn one first")


def _from(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {**_REQUIRED, **_OPTIONAL}
    found: dict[str, Any] = {k: environ[name] for k, name in names.items() if environ.get(name)}
    if "resources" in found:
        found["resources"] = found["resources"].split()
    if "upstreams" in found:
        found["upstreams"] = dict(map(_upstream, found["upstreams"].split()))
    return found


def _upstream(text: str) -> tuple[str, str]:
    prefix, equals, resource = text.partition("=")
    if not equals:
        raise ValueError("CARACAL_UPSTREAMS must be prefix=resource, space separated")
    return prefix, resource
