"""The Security Token Service: all its wires meet here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette

from caracal.events.store.appender import Appender
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.log import Log
from caracal.events.store.redis import connect
from caracal.events.store.redis_line import RedisLine
from caracal.events.store.vault import Vault
from caracal.policy.apart import Apart, ApartPool
from caracal.policy.beat import mine
from caracal.policy.engine import PolicyEngines
from caracal.projections.tail import Tail
from caracal.projections.waiter import Waiter
from caracal.services.connections import Pool, pool, rings
from caracal.services.health import Health
from caracal.services.http import App, Edge
from caracal.services.published import Published
from caracal.services.sts.admission import Admission, Traversals
from caracal.services.sts.client_assertion import ClientAssertions
from caracal.services.sts.client_authentication import ClientAuthentication
from caracal.services.sts.client_keys import ClientKeys
from caracal.services.sts.client_secrets import ClientSecrets
from caracal.services.sts.dpop import Senders
from caracal.services.sts.dpop_nonce import Nonces
from caracal.services.sts.evaluator import Evaluator
from caracal.services.sts.failure_limit import FailureLimit
from caracal.services.sts.internal import Internal
from caracal.services.sts.introspection import Introspection
from caracal.services.sts.issued_token import IssuedTokens
from caracal.services.sts.issuer_keys import IssuerKeys
from caracal.services.sts.jwks import Jwks
from caracal.services.sts.login import Logins
from caracal.services.sts.lone_applications import LoneApplications
from caracal.services.sts.openapi import document
from caracal.services.sts.opened_secrets import OpenedSecrets
from caracal.services.sts.policies import Policies
from caracal.services.sts.policy_reports import PolicyReports
from caracal.services.sts.provider_credentials import ProviderCredentials
from caracal.services.sts.provider_guard import Circuits, Leases
from caracal.services.sts.provider_tokens import Asking, ServiceTokens, UserTokens
from caracal.services.sts.recorder import Recorder
from caracal.services.sts.revocation import Revocation
from caracal.services.sts.routes import Route, Routes
from caracal.services.sts.server_metadata import ServerMetadata
from caracal.services.sts.session_facts import SessionFacts
from caracal.services.sts.settlement import Settlements
from caracal.services.sts.shadow import Shadows
from caracal.services.sts.signing_keys import SigningKeys
from caracal.services.sts.step_up import StepUp
from caracal.services.sts.subject_token import Proofs
from caracal.services.sts.token_exchange import Rules, TokenExchange
from caracal.services.sts.token_request import MAX_BODY
from caracal.services.sts.view import OF_ONE_ZONE, StsView, ZoneView
from caracal.services.sts.zone_keys import ZoneKeys
from caracal.services.token_endpoint import Lives, TokenEndpoint
from caracal.services.traced import Traced, exporting
from caracal.services.upstream_guard import public_only
from caracal.services.zones import Zones
from caracal.settings import Settings


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the STS."""
    view = StsView(settings.max_staleness)
    routes, health = Routes(view), Health(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            routes.table = await _start(settings, view, health, stack)
            yield

    edge = Edge(Published(routes, document), body_limit=MAX_BODY)
    return Traced(health.around(edge, lifespan=Starlette(lifespan=lifespan)))


async def _start(
    settings: Settings, view: StsView, health: Health, stack: AsyncExitStack
) -> dict[str, Route]:
    database = await stack.enter_async_context(pool(settings))
    redis = connect(settings.redis_url)
    stack.push_async_callback(redis.aclose)
    writer = await _writer(settings, stack)
    evaluator = _evaluator(settings, stack)
    policies = Policies(view, evaluator)
    keys = SigningKeys(database, Vault(settings.zone_kek), settings.access_token_typ)
    tail = await _follow(settings, view, stack)
    tail.listeners += [policies.applied, keys.applied]
    zones = _zones(settings, view, database, policies, stack)
    reports = PolicyReports(redis, policies, tail)
    reports.start()
    stack.push_async_callback(reports.stop)
    log, waiter = await _log(settings, database, stack)
    credentials = _credentials(settings, view, database, log, redis)
    stack.push_async_callback(credentials.close)
    tail.listeners.append(credentials.applied)
    tail.reloaded.append(credentials.forget_all)
    step_up = StepUp(log, waiter, settings.step_up_rate_limit_per_min)
    logins = _logins(settings, view, database, log, redis, stack)
    admission = _admission(settings, view, database, redis, step_up, logins, stack)
    exchange = TokenExchange(
        rules=_rules(settings),
        view=view,
        admission=admission,
        policies=policies,
        keys=keys,
        sessions=SessionFacts(log, waiter),
        step_up=step_up,
        recorder=_recorder(view, redis, writer, stack),
        shadows=(shadows := _shadows(settings, writer, stack)),
        credentials=credentials,
    )
    jwks = Jwks(view, default_zone=settings.jwks_default_zone_id, dev=not settings.is_runtime)

    async def following() -> str | None:
        return None if tail.running else "stream_consumers_not_ready"

    health.watch(
        database=database,
        redis=redis,
        tail=tail,
        serves_without_database=True,
        checks=(following,),
        details=lambda: _kept_apart(policies),
        counters=lambda: _counters(
            writer,
            admission.traversals,
            jwks,
            engine=_engine(policies, shadows),
            zones=zones.counters,
            logins=logins.counters,
        ),
    )
    metadata = ServerMetadata(view, settings.issuer_url)
    internal = _internal(settings, view, policies, stack)
    return {**_tokens(exchange, log, waiter), **_documents(jwks, metadata), **internal.table()}


def _tokens(exchange: TokenExchange, log: Log, waiter: Waiter) -> dict[str, Route]:
    rules, clients = exchange.rules, exchange.admission.clients
    issued = IssuedTokens(
        exchange.view, clients, exchange.recorder, rules.issuer, rules.max_staleness
    )
    return {
        "/oauth/2/token": ("POST", exchange),
        "/oauth/2/introspect": ("POST", Introspection(issued)),
        "/oauth/2/revoke": ("POST", Revocation(issued, log, waiter)),
        "/step-up/{challenge_id}": ("GET", exchange.step_up.status),
    }


def _documents(jwks: App, metadata: App) -> dict[str, Route]:
    return {
        "/.well-known/jwks.json": ("GET", jwks),
        "/zones/{zone_id}/.well-known/jwks.json": ("GET", jwks),
        "/.well-known/oauth-authorization-server": ("GET", metadata),
        "/.well-known/oauth-authorization-server/zones/{zone_id}": ("GET", metadata),
    }


def _rules(settings: Settings) -> Rules:
    return Rules(
        issuer=settings.issuer_url,
        max_staleness=settings.max_staleness,
        max_grant_seconds=settings.max_grant_ttl_seconds,
        gateway_keys=settings.gateway_sts_hmac_key,
    )


def _recorder(view: StsView, redis: Redis, writer: AuditWriter, stack: AsyncExitStack) -> Recorder:
    line = RedisLine(redis)
    stack.push_async_callback(line.close)
    return Recorder(view, Settlements(line, writer), writer)


async def _writer(settings: Settings, stack: AsyncExitStack) -> AuditWriter:
    writer = AuditWriter(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        keys=settings.audit_hmac_key,
        durability=settings.audit_durability,
        backlog_max=settings.audit_backlog_max,
    )
    await writer.start()
    stack.push_async_callback(writer.stop)
    return writer


async def _follow(settings: Settings, view: StsView, stack: AsyncExitStack) -> Tail:
    view.tail = tail = Tail(
        view.all,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        rings=rings(settings),
        also=OF_ONE_ZONE,
    )
    await tail.start()
    stack.push_async_callback(tail.stop)
    return tail


def _zones(
    settings: Settings, view: StsView, database: Pool, policies: Policies, stack: AsyncExitStack
) -> Zones[ZoneView]:
    make, tail = partial(ZoneView, view), view.following
    view.loaded = zones = Zones(make, tail, database, settings.zone_view_max_bytes)
    stack.push_async_callback(zones.close)
    zones.loaded.append(policies.met)
    zones.evicted.append(policies.forget)
    return zones


def _evaluator(settings: Settings, stack: AsyncExitStack) -> Evaluator:
    timeout = settings.policy_eval_timeout_ms / 1000
    engines = PolicyEngines(settings.policy_engine_max_bytes)
    evaluator = Evaluator(engines, mine(), ApartPool(timeout), timeout)
    stack.push_async_callback(evaluator.close)
    return evaluator


def _shadows(settings: Settings, writer: AuditWriter, stack: AsyncExitStack) -> Shadows:
    shadows = Shadows(Apart(settings.policy_eval_timeout_ms / 1000), writer)
    shadows.start()
    stack.push_async_callback(shadows.stop)
    return shadows


def _internal(
    settings: Settings, view: StsView, policies: Policies, stack: AsyncExitStack
) -> Internal:
    apart = Apart(settings.policy_eval_timeout_ms / 1000)  # started when it is first wanted
    stack.push_async_callback(apart.close)
    failures = FailureLimit(settings.client_auth_fail_limit_per_min)
    return Internal(settings.sts_admin_token, view, policies, apart, failures)


def _kept_apart(policies: Policies) -> dict[str, Any]:
    """Return what ``/ready`` says of policies that stall: other zones do not wait for them."""
    zones = len(policies.apart())
    return {"policies_apart": zones, **({"degraded": True} if zones else {})}


def _admission(
    settings: Settings,
    view: StsView,
    database: Pool,
    redis: Redis,
    step_up: StepUp,
    logins: Logins,
    stack: AsyncExitStack,
) -> Admission:
    secrets = ClientSecrets(
        database,
        Vault(settings.zone_kek),
        parallel=settings.argon2_parallel,
        queue_max=settings.argon2_queue_max,
    )
    stack.callback(secrets.close)
    failures = FailureLimit(settings.client_auth_fail_limit_per_min)
    assertions = _assertions(settings, redis, stack)
    alone, tail = LoneApplications(database), view.following
    tail.listeners.append(alone.applied)
    tail.reloaded.append(alone.forget_all)
    clients = ClientAuthentication(view, secrets, assertions, failures, alone)
    nonces = Nonces(settings.zone_kek[0]) if settings.dpop_nonce else None
    senders = Senders(redis, f"{settings.issuer_url}/oauth/2/token", nonces)
    proofs = Proofs(settings.issuer_url)
    return Admission(view, clients, proofs, database, senders, step_up, logins)


def _logins(
    settings: Settings,
    view: StsView,
    database: Pool,
    log: Log,
    redis: Redis,
    stack: AsyncExitStack,
) -> Logins:
    zone_keys = ZoneKeys(database, log, Vault(settings.zone_kek))
    view.following.listeners.append(zone_keys.applied)
    view.following.reloaded.append(zone_keys.forget_all)
    keys = IssuerKeys(public_only(settings, settings.upstream_host_allowlist))
    stack.push_async_callback(keys.close)
    return Logins(view, keys, zone_keys, redis)


def _assertions(settings: Settings, redis: Redis, stack: AsyncExitStack) -> ClientAssertions:
    keys = ClientKeys(public_only(settings, settings.upstream_host_allowlist))
    stack.push_async_callback(keys.close)
    issuer = settings.issuer_url
    return ClientAssertions(keys, redis, frozenset((issuer, f"{issuer}/oauth/2/token")))


async def _log(settings: Settings, database: Pool, stack: AsyncExitStack) -> tuple[Log, Waiter]:
    appender = Appender(settings.database_url)
    await appender.start()
    stack.push_async_callback(appender.stop)
    waiter = Waiter(settings.database_url)
    await waiter.start()
    stack.push_async_callback(waiter.stop)
    return Log(database, appender), waiter


def _credentials(
    settings: Settings, view: StsView, database: Pool, log: Log, redis: Redis
) -> ProviderCredentials:
    endpoint = TokenEndpoint.of(settings)
    secrets = OpenedSecrets(database, Vault(settings.zone_kek))
    asking, lives = Asking(endpoint, Circuits(redis)), Lives(settings.max_grant_ttl_seconds)
    users = UserTokens(view, log, secrets, asking, Leases(redis), lives)
    return ProviderCredentials(secrets, users, ServiceTokens(asking, lives), endpoint)


def _counters(
    writer: AuditWriter,
    traversals: Traversals,
    jwks: Jwks,
    *,
    engine: dict[str, Any],
    zones: dict[str, float],
    logins: dict[str, int],
) -> dict[str, Any]:
    dropped = writer.counters.dropped
    return {
        "sts": {
            "graph_traversals": traversals.total,
            "graph_traversal_errors": traversals.errors,
            "audit_dropped": dropped,
            "audit_sink_errors": writer.counters.errors,
            "jwks_invalid_keys": jwks.invalid_keys,
            "zones": zones,
            "logins": logins,
        },
        "opa": engine,
        "audit_dropped": dropped,
    }


def _engine(policies: Policies, shadows: Shadows) -> dict[str, Any]:
    return {
        **vars(policies.counters),
        **vars(shadows.counters),
        "max_policy_age_seconds": policies.max_age,
        "policies_apart": len(policies.apart()),
        "processes_lost_total": policies.lost,
    }
