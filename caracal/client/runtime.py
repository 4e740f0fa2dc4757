"""``Caracal``: the agents' side. Spawns agents, hands authority on, and ends both in time."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

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
from caracal.client.call import Call
from caracal.client.closing import AsyncClosing, Closing
from caracal.client.core import Core
from caracal.client.dpop import Prover
from caracal.client.envelope import Place, current, envelope_headers, new_trace, standing
from caracal.client.errors import AdminApiError
from caracal.client.gateway import Gate, GatewayTransport, SyncGatewayTransport
from caracal.client.options import Endpoint, check_url
from caracal.client.plan import Ask, Make, Plan, Scope, inside, leaving
from caracal.client.plan_async import AsyncPlans
from caracal.client.plan_sync import SyncPlans
from caracal.client.planned import Acting, E, planned, scoped
from caracal.client.variables import REQUIRED, from_variables
from caracal.errors import CaracalError
from caracal.trace import Hint

if TYPE_CHECKING:
    from caracal.client.key import ClientKey

T = TypeVar("T")
H = TypeVar("H", httpx.AsyncClient, httpx.Client)

AGENT_SESSION_REQUIRED = "agent_session_required"
GATEWAY_URL_NOT_CONFIGURED = "gateway_url_not_configured"
_TOKEN_MS = 5_000
_END_MS = 5_000


class Delegated(NamedTuple):
    """An agent and the edge that leads to it."""

    agent: AgentSession
    edge: CreatedDelegationEdge


class Runtime(Acting[E], ABC, Generic[E, H]):
    """What both clients of the agents' side are.

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
        dpop: mandates are bound to a key (RFC 9449): one of your own, or True, one of the process.
        client_key: in place of the secret, a key of the application's ``jwks`` (RFC 7523).
        client_key_id: its ``kid`` there; its thumbprint (RFC 7638) if None.
        issuer: what the STS calls itself (``ISSUER_URL``), if that is not ``sts_url``.

    Raises:
        ValueError: a URL, a number, a key or a resource that cannot work.
        AdminApiError: by every method, STS or Coordinator refused.
        AdminTransportError: by every method, no answer came.
    """

    def __init__(
        self,
        *,
        zone_id: str,
        application_id: str,
        client_secret: str | None = None,
        sts_url: str,
        coordinator_url: str,
        resources: Sequence[str],
        scope: str = "agent:lifecycle",
        gateway_url: str | None = None,
        upstreams: Mapping[str, str] | None = None,
        http_client: H | None = None,
        timeout_ms: int = 30_000,
        retries: int = 3,
        dpop: bool | ClientKey = False,
        client_key: ClientKey | None = None,
        client_key_id: str | None = None,
        issuer: str | None = None,
    ) -> None:
        if not (zone_id and application_id):
            raise ValueError("zone_id and application_id must not be empty")
        if bool(client_secret) == bool(client_key):
            raise ValueError("either client_secret or client_key is needed, not both")
        if isinstance(resources, str) or not resources:
            raise ValueError("resources must be a list with at least one identifier")
        self.zone_id, self.application_id = zone_id, application_id
        self._prover = Prover(_key_of(dpop), signs=client_key is not None)
        self._coordinator = Endpoint(
            "coordinator_url",
            coordinator_url,
            timeout_ms=timeout_ms,
            retries=retries,
            prover=self._prover,
        )
        if issuer is not None:
            check_url("issuer", issuer)
        sts = replace(
            self._coordinator,
            name="sts_url",
            url=sts_url,
            timeout_ms=min(timeout_ms, _TOKEN_MS),
            public_url=issuer,
        )
        self._gate = (
            None if gateway_url is None else Gate(gateway_url, upstreams or {}, self._prover)
        )
        credentials = Credentials(zone_id, application_id, client_secret, client_key, client_key_id)
        self._sts = TokenEndpoint(sts, credentials)
        super().__init__(self._driver(http_client))
        self.tokens = TokenSource(self._plans, self._sts, resources, scope)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **more: Any) -> Self:
        """Make one from ``CARACAL_*`` variables; keywords win over them.

        ``CARACAL_ZONE_ID``, ``CARACAL_APPLICATION_ID``, ``CARACAL_STS_URL``,
        ``CARACAL_COORDINATOR_URL``, ``CARACAL_RESOURCES`` (space separated) are needed, and
        ``CARACAL_CLIENT_SECRET`` or ``CARACAL_CLIENT_KEY_FILE`` (with ``CARACAL_CLIENT_KEY_ID``).
        ``CARACAL_SCOPE``, ``CARACAL_GATEWAY_URL``, ``CARACAL_UPSTREAMS`` (``prefix=resource``,
        space separated), ``CARACAL_ISSUER``, ``CARACAL_DPOP`` (``1``) and
        ``CARACAL_DPOP_KEY_FILE`` are not.

        Raises:
            ValueError: a variable is missing or cannot be read; no value is repeated.
        """
        found = from_variables(os.environ if environ is None else environ, more)
        missing = [name for keyword, name in REQUIRED.items() if keyword not in found]
        if not {"client_secret", "client_key"} & found.keys():
            missing.append("CARACAL_CLIENT_SECRET or CARACAL_CLIENT_KEY_FILE")
        if missing:
            raise ValueError(f"not set: {', '.join(missing)}")
        return cls(**found)

    @scoped
    def spawn(
        self,
        *,
        kind: AgentKind = "instance",
        capabilities: Sequence[str] = (),
        ttl_seconds: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_id: str | None = None,
        subject_session_id: str | None = None,
        end: bool | None = None,
    ) -> Scope[AgentSession]:
        """Spawn an agent that ends with the context, however that is left.

        Inside of another ``spawn`` of this application the new agent is that one's child; an
        agent that came with a request is a parent only if ``parent_id`` names it. A cancelled
        task ends its agent before it goes. A ``service`` outlives its process by its lease, so
        it is left alone; ``end`` decides otherwise.

        Raises:
            AdminApiError: the Coordinator refused, at the beginning or at the end.
        """
        parent = self._own_session() if parent_id is None else parent_id
        call = self._spawning(kind, capabilities, ttl_seconds, metadata, parent, subject_session_id)
        ends = kind != "service" if end is None else end
        yield from self._while_spawned(call, ends, inside)

    @scoped
    def delegate(
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
    ) -> Scope[CreatedDelegationEdge]:
        """Hand scopes of the surrounding agent on to another agent.

        Calls made inside name the edge in their envelope. On leaving, the edge is left to its
        ``ttl_seconds``, unless ``revoke``: revoking an edge ends the agent that it leads to.
        ``to`` is of this application when it is a bare id and nothing else is said.

        Raises:
            CaracalError: ``agent_session_required``, there is no surrounding agent.
            AdminApiError: the Coordinator refused.
        """
        receiver = self.application_id if isinstance(to, str) else to["application_id"]
        edge = yield Make(
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
        body = _standing(replace(place, hint=hint), edge)
        yield from leaving(body, lambda: self._revoke(edge_id), "delegation edge", revoke)

    @scoped
    def delegate_to_spawn(
        self,
        *,
        scopes: Sequence[str],
        ttl_seconds: int = 300,
        resource_id: str | None = None,
        constraints: DelegationConstraints | None = None,
        kind: AgentKind = "instance",
        capabilities: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Scope[Delegated]:
        """Spawn a child of the surrounding agent and hand scopes on to it; both end together.

        Raises:
            CaracalError: ``agent_session_required``, there is no surrounding agent.
            AdminApiError: the Coordinator refused; a child without its edge is ended.
        """
        parent = self._own_session()
        if parent is None:
            raise _no_agent()
        held = current().held_edge

        def handed(child: AgentSession) -> Scope[Delegated]:
            edge = yield from self._delegated(
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
            place = replace(place, hint=hint, held_edge=_edge_of(edge))
            yield from _standing(place, Delegated(child, edge))

        call = self._spawning(kind, capabilities, ttl_seconds, metadata, parent)
        yield from self._while_spawned(call, True, handed)

    @planned
    def mandate(
        self,
        /,
        *resources: str,
        scopes: Sequence[str] = (),
        ttl_seconds: int | None = None,
        **members: str | None,
    ) -> Plan[IssuedToken]:
        """Exchange the ambient mandate for one of a single call, for the surrounding agent.

        For resource servers that are called directly; the Gateway does this by itself. Further
        form fields by name (``challenge_id``, ``challenge_response``, ``actor_token``).

        Raises:
            AdminApiError: the STS refused; a step-up is ``interaction_required``, its challenge
                stands in ``body``.
        """
        place = current()
        ours = place.owner == (self.zone_id, self.application_id)
        subject_token = yield from self.tokens.plan()
        return (
            yield from self._sts.issue(
                resources,
                subject_token=subject_token,
                subject_token_type=ACCESS_TOKEN,
                scope=" ".join(scopes) or None,
                ttl_seconds=ttl_seconds,
                agent_session_id=place.hint.agent_session if ours else None,
                delegation_edge_id=place.held_edge if ours else None,
                **members,
            )
        )

    @planned
    def headers(
        self, method: str | None = None, url: str | None = None, *, token: str | None = None
    ) -> Plan[dict[str, str]]:
        """Return ``Authorization``, ``traceparent`` and ``baggage`` for a call between apps.

        With ``dpop`` also ``DPoP``: a proof for this one request, so ``method`` and ``url`` are
        needed. ``token`` is what to show in place of the ambient mandate, such as that of
        :meth:`mandate`. A WebSocket's handshake is a GET of its URL.

        Raises:
            CaracalError: ``dpop_target_required``, ``method`` or ``url`` is missing.
        """
        if token is None:
            token = yield from self.tokens.plan()
        return {**self._prover.shown(method, url, token), **envelope_headers()}

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

    def _spawning(
        self,
        kind: AgentKind,
        capabilities: Sequence[str],
        ttl_seconds: int | None,
        metadata: Mapping[str, Any] | None,
        parent_id: str | None,
        subject_session_id: str | None = None,
    ) -> Call[AgentSession]:
        return spawning(
            self.zone_id,
            self.application_id,
            kind=kind,
            capabilities=capabilities,
            ttl_seconds=ttl_seconds,
            metadata=metadata,
            parent_id=parent_id,
            subject_session_id=subject_session_id,
        )

    def _while_spawned(
        self,
        call: Call[AgentSession],
        ends: bool,
        then: Callable[[AgentSession], Scope[T]],
    ) -> Scope[T]:
        """Spawn an agent, stand at its place for the body, and perhaps end it."""
        agent = yield Make(self._ask(call), lambda made: self._end(_id_of(made)))
        session_id = _id_of(agent)
        body = _at(self._place_of(agent), lambda: then(agent))
        yield from leaving(body, lambda: self._end(session_id), "agent session", ends)

    def _delegated(
        self, target_session_id: str, *, source_session_id: str | None, **members: Any
    ) -> Plan[CreatedDelegationEdge]:
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
        edge: CreatedDelegationEdge = yield from self._ask(call, retries=0)
        return edge

    def _end(self, session_id: str) -> Plan[None]:
        yield from self._ask(ending(self.zone_id, session_id), timeout_ms=_END_MS, retries=1)

    def _revoke(self, edge_id: str) -> Plan[None]:
        try:
            yield from self._ask(revoking(self.zone_id, edge_id), timeout_ms=_END_MS, retries=1)
        except AdminApiError as error:
            if error.code != "delegation_not_found":  # it has ended by itself
                raise

    def _ask(self, call: Call[T], **limits: Any) -> Plan[T]:
        token = yield from self.tokens.plan()
        call = replace(call, headers={**call.headers, **_traced(current())})
        core = Core(replace(self._coordinator, token=token, **limits))
        try:
            answer: T = yield Ask(core, call)
            return answer
        except AdminApiError as error:
            if error.status == 401:  # its session has ended; the STS decides about another one
                self.tokens.forget()
            raise

    def _passage(self) -> Gate:
        if self._gate is None:
            raise CaracalError(GATEWAY_URL_NOT_CONFIGURED, "the client has no gateway_url")
        return self._gate

    @abstractmethod
    def _driver(self, http_client: H | None) -> E:
        """Return what carries the plans out."""


class Caracal(Runtime[AsyncPlans, httpx.AsyncClient], AsyncClosing):
    """An application whose agents act: asynchronous, for one event loop. ``Runtime`` says how.

    >>> async with Caracal.from_env() as caracal:
    ...     async with caracal.spawn() as agent:
    ...         async with caracal.delegate_to_spawn(scopes=["read"]) as child:
    ...             ...
    """

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
        return GatewayTransport(self._passage(), self.tokens.token, inner)

    async def aclose(self) -> None:
        """Forget the token; close the connections, unless the HTTP client was given."""
        await self._plans.close()
        self.tokens.forget()

    def _driver(self, http_client: httpx.AsyncClient | None) -> AsyncPlans:
        return AsyncPlans(http_client)


class SyncCaracal(Runtime[SyncPlans, httpx.Client], Closing):
    """``Caracal`` without an event loop: the same methods and arguments; threads may share it.

    >>> with SyncCaracal.from_env() as caracal:
    ...     with caracal.spawn() as agent:
    ...         with caracal.delegate_to_spawn(scopes=["read"]) as child:
    ...             ...

    A thread begins at no agent's place, unless it is started within a copy of the context:
    ``pool.submit(contextvars.copy_context().run, work)``.
    """

    def http(self, **options: Any) -> httpx.Client:
        """Return an HTTP client whose calls of the bound upstreams go through the Gateway.

        It is the caller's to close. Keywords are those of ``httpx.Client``.
        """
        options.setdefault("trust_env", False)
        return httpx.Client(transport=self.transport(), **options)

    def transport(self, inner: httpx.BaseTransport | None = None) -> SyncGatewayTransport:
        """Return the transport of :meth:`http`, around one of your own.

        Raises:
            CaracalError: ``gateway_url_not_configured``.
        """
        return SyncGatewayTransport(self._passage(), self.tokens.token, inner)

    def close(self) -> None:
        """Forget the token; close the connections, unless the HTTP client was given."""
        self._plans.close()
        self.tokens.forget()

    def _driver(self, http_client: httpx.Client | None) -> SyncPlans:
        return SyncPlans(http_client)


def _at(place: Place, body: Callable[[], Scope[T]]) -> Scope[T]:
    """Follow a scope at a place."""
    with standing(place):
        yield from body()


def _standing(place: Place, value: T) -> Scope[T]:
    """Let the body run at a place."""
    return _at(place, lambda: inside(value))


def _key_of(dpop: bool | ClientKey) -> ClientKey | None:
    """Return the key that mandates are bound to; cryptography is imported by who uses it."""
    if dpop is False:
        return None
    from caracal.client.key import ClientKey

    key = ClientKey.generate() if dpop is True else dpop
    if not isinstance(key, ClientKey):
        raise ValueError("dpop must be True, False or a ClientKey")
    return key


def _traced(place: Place) -> dict[str, str]:
    return {} if place.traceparent is None else {"traceparent": place.traceparent.decode()}


def _id_of(agent: AgentSession) -> str:
    return agent.get("agent_session_id") or agent["id"]


def _edge_of(edge: CreatedDelegationEdge) -> str:
    return edge.get("delegation_edge_id") or edge["id"]


def _no_agent() -> CaracalError:
    return CaracalError(AGENT_SESSION_REQUIRED, "there is no agent around: spawn one first")
