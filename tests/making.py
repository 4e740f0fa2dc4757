"""Things of a zone, made as commands make them: for tests of events and projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from caracal import clock
from caracal.events.agent import Agent, SpawnLimits
from caracal.events.application import Application
from caracal.events.base import Aggregate, Fact, acting
from caracal.events.challenge import Actor, Challenge
from caracal.events.delegation import Delegation
from caracal.events.grant import Grant
from caracal.events.guards import Secret
from caracal.events.policy import Policy
from caracal.events.policy_set import PolicySet
from caracal.events.provider import Provider, Sealed
from caracal.events.resource import Resource
from caracal.events.session import Session
from caracal.events.signing_key import SigningKey
from caracal.events.store.memory import MemoryLog
from caracal.events.topics import TOPICS
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.ids import new_id
from caracal.projections.memory import MemoryMarks, MemoryTable, Row, apply
from caracal.projections.projection import Projection
from caracal.projections.table import Merged

ZONE = "zone-of-tests"


def in_zone(zone_id: str = ZONE) -> AbstractContextManager[None]:
    """A command in a zone."""
    return acting(zone_id=zone_id, actor="operator")


def sealed(ref: str) -> Secret:
    """A secret as the vault seals one."""
    return Secret(ref, "key-1", b"n" * 12, b"sealed")


def new_key(zone_id: str = ZONE, **members: Any) -> SigningKey:
    kid = new_id()
    with in_zone(zone_id):
        return SigningKey.create(
            kid,
            zone_id=zone_id,
            public_jwk={"kty": "EC", "kid": kid},
            private_key=sealed(f"key/{kid}"),
            **members,
        )


def new_application(zone_id: str = ZONE, **members: Any) -> Application:
    given: dict[str, Any] = {
        "name": "app",
        "registration_method": "managed",
        "credential_type": "token",
        "jwks": None,
        "jwks_uri": None,
        "traits": [],
        "consent": "implicit",
    }
    with in_zone(zone_id):
        return Application.create(new_id(), zone_id=zone_id, **(given | members))


def new_resource(zone_id: str = ZONE, **members: Any) -> Resource:
    given: dict[str, Any] = {
        "identifier": f"resource://{new_id()}",
        "name": "resource",
        "quota": 10,
        "upstream_url": None,
        "scopes": ["read", "write"],
        "prefix_match": False,
        "provider_id": None,
        "gateway_application_id": None,
        "protocol": "http",
        "rate_limit": None,
    }
    with in_zone(zone_id):
        return Resource.create(new_id(), zone_id=zone_id, **(given | members))


def new_provider(zone_id: str = ZONE, *, secrets: Iterable[str] = (), **members: Any) -> Provider:
    given: dict[str, Any] = {
        "identifier": f"provider://{new_id()}",
        "name": "provider",
        "kind": "oauth2",
        "owner_type": "customer",
        "client_id": None,
        "config": {},
    }
    with in_zone(zone_id):
        return Provider.create(
            new_id(), zone_id=zone_id, sealed=sealed_config(*secrets), **(given | members)
        )


def sealed_config(*names: str, ref: str = "provider/1") -> Sealed:
    """The secret part of a provider's configuration."""
    return Sealed(names, sealed(ref)) if names else Sealed()


def new_trusted_issuer(zone_id: str = ZONE, **members: Any) -> TrustedIssuer:
    given: dict[str, Any] = {
        "name": "login",
        "issuer": f"https://login.example/{new_id()}",
        "audiences": ["client"],
        "algorithms": ["RS256", "PS256", "ES256"],
        "jwks_uri": None,
        "subject_claim": "sub",
        "required_claims": {},
        "mapped_claims": [],
        "application_ids": [],
        "max_age_seconds": 3600,
        "session_seconds": 3600,
        "single_use": True,
    }
    with in_zone(zone_id):
        return TrustedIssuer.create(new_id(), zone_id=zone_id, **(given | members))


def new_policy(zone_id: str = ZONE, *, name: str = "policy", versions: int = 0) -> Policy:
    with in_zone(zone_id):
        policy = Policy.create(
            new_id(),
            zone_id=zone_id,
            name=name,
            description=None,
            owner_type="customer",
            created_by="operator",
        )
        for number in range(1, versions + 1):
            policy.add_version(new_id(), content=f"text {number}", schema_version="2026-03-16")
        return policy


def new_policy_set(
    zone_id: str = ZONE, *, name: str = "set", manifests: Iterable[list[str]] = ()
) -> PolicySet:
    with in_zone(zone_id):
        made = PolicySet.create(new_id(), zone_id=zone_id, name=name, description=None)
        for manifest in manifests:
            made.add_version(new_id(), manifest=manifest, schema_version="2026-03-16", policies=())
        return made


def new_grant(
    application_id: str, resource_id: str, *, user_id: str | None = None, zone_id: str = ZONE
) -> Grant:
    with in_zone(zone_id):
        return Grant.create(
            new_id(),
            zone_id=zone_id,
            application_id=application_id,
            resource_id=resource_id,
            scopes=["read"],
            of=["read", "write"],
            user_id=user_id,
        )


def new_session(application_id: str, *, zone_id: str = ZONE, **members: Any) -> Session:
    given: dict[str, Any] = {
        "session_type": "user",
        "subject_id": "ada",
        "authenticated_at": clock.now(),
        "expires_at": clock.now() + timedelta(hours=1),
    }
    with in_zone(zone_id):
        return Session.start(
            new_id(), zone_id=zone_id, application_id=application_id, **(given | members)
        )


LIMITS = SpawnLimits(depth=10, children=10, zone=50, application=200)


def row_of(thing: Agent | Delegation) -> dict[str, Any]:
    """A thing as its read model shows it."""
    return {**vars(thing), "id": thing.aggregate_id}


def new_agent(
    session: Session,
    *,
    parent: Agent | None = None,
    application_id: str | None = None,
    zone_id: str = ZONE,
    limits: SpawnLimits = LIMITS,
    **members: Any,
) -> Agent:
    given: dict[str, Any] = {
        "kind": "instance",
        "capabilities": [],
        "ttl_seconds": 3600,
        "metadata": {},
    }
    with in_zone(zone_id):
        return Agent.spawn(
            new_id(),
            zone_id=zone_id,
            application_id=application_id or session.application_id,
            subject_session_id=session.aggregate_id,
            parent=row_of(parent) if parent else None,
            limits=limits,
            **(given | members),
        )


def new_edge(
    source: Agent,
    target: Agent,
    /,
    *,
    parent: Delegation | Mapping[str, Any] | None = None,
    zone_id: str = ZONE,
    edge_id: str | None = None,
    **members: Any,
) -> Delegation:
    given: dict[str, Any] = {
        "source": row_of(source),
        "target": row_of(target),
        "parent": row_of(parent) if isinstance(parent, Delegation) else parent,
        "resource_id": None,
        "resources": (),
        "scopes": ["read"],
        "constraints": {"max_hops": 3},
        "expires_at": clock.now() + timedelta(hours=1),
    }
    with in_zone(zone_id):
        return Delegation.create(edge_id or new_id(), zone_id=zone_id, **(given | members))


def new_challenge(zone_id: str = ZONE, *, now: datetime | None = None, **members: Any) -> Challenge:
    given: dict[str, Any] = {
        "principal": "ada",
        "session_id": "sid-1",
        "challenge_type": "human_approval",
        "secret": "the secret",
        "resources": ["resource://one"],
        "metadata": {"resource": "resource://one"},
        "call": None,
    }
    with in_zone(zone_id):
        return Challenge.issue(
            new_id(), zone_id=zone_id, now=now or clock.now(), **(given | members)
        )


def consume(challenge: Challenge, now: datetime, **members: Any) -> Challenge:
    """Use up a challenge of :func:`new_challenge`, by what it was issued for."""
    given: dict[str, Any] = {
        "zone_id": challenge.zone_id,
        "principal": "ada",
        "session_id": "sid-1",
        "secret": "the secret",
        "resources": ["resource://one"],
        "scopes": (),
        "actor": Actor(),
        "call": None,
    }
    with in_zone(str(challenge.zone_id)):
        challenge.consume(now=now, **(given | members))
    return challenge


async def store_with(*things: Aggregate, keys: Iterable[str] = (f"live:zone:{ZONE}",)) -> MemoryLog:
    """A log in memory in which the zone lives and ``things`` are saved."""
    store = MemoryLog()
    store.held.keys.update(dict.fromkeys(keys, "zone"))
    for thing in things:
        await store.save(thing)
    return store


def facts(store: MemoryLog) -> list[Fact]:
    """The facts of a log, as projections read them."""
    return [record.fact() for record in store.records]


def told(store: MemoryLog) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each fact."""
    return [(fact.name, fact.data) for fact in facts(store)]


def signals(store: MemoryLog, name: str) -> list[dict[str, str]]:
    """The entries that a log has on a signal topic."""
    topic = TOPICS[name]
    records = (record for record in store.records if record.name in topic.sources)
    return [entry for record in records for entry in topic.entries(record)]


def reduced(projection: Projection, store: MemoryLog) -> dict[str, dict[str, Row]]:
    """Return what a projection makes of a log: rows by table and id, without nulls."""
    views: dict[str, Any] = {
        table.name: MemoryMarks(table) if isinstance(table, Merged) else MemoryTable(table)
        for table in projection.tables
    }
    for fact in facts(store):
        apply(views, projection.reduce(fact))
    return {
        name: {row_id: _told(row) for row_id, row in view.rows.items()}
        for name, view in views.items()
    }


def _told(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}
