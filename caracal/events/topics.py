"""Every topic: name, key, sources, entries, retention. No other file spells a topic.

A topic is a Redis Stream that carries events to other processes. Entries are pure functions of
one event, so any relay, and any reader of the log, can make them again, byte for byte.

- *Facts*, one topic per aggregate: signed with a key that only our services hold. Services take
  state from facts only.
- *Signals*, with the contract's names and fields for everyone else: signed with a key that
  integrators hold too, so nothing of ours trusts them.
- *Decisions*: the audit topic, written by the audit writers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from caracal.events.base import Aggregate, Fact
from caracal.events.catalogue import EVENTS_OF
from caracal.events.record import Record

Fields = dict[str, str]
"""An entry without its place (``position``, ``event``/``fact``, ``prev``, ``_sig``)."""

RELAYED_MAXLEN = 100_000
"""Cap of a relayed topic; readers fill what is older from the log."""

HEARTBEAT = "caracal.relay.heartbeat"
HEARTBEAT_MAXLEN = 1_000
AUDIT = "caracal.audit.events"
AUDIT_DEAD = f"{AUDIT}.dlq"
DEAD_MAXLEN = 100_000

SIEM_GROUP = "siem-export"
SIEM_DEAD = "caracal.siem.dead"
"""What the SIEM process would not send, or the sink would not have; of whatever topic."""

AUDIT_GROUPS = ("audit-ingestor", SIEM_GROUP)
"""Groups whose watermark the trimming of the audit topic respects; the first is the ledger's."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A relayed topic: which events it has, and the entries each yields."""

    name: str
    key: Literal["facts", "signals"]
    sources: tuple[str, ...]
    entries: Callable[[Record], list[Fields]]

    @property
    def dead(self) -> str:
        """Return where entries go that are not ours."""
        return f"{self.name}.dead"


def group(read_model: str) -> str:
    """Return the consumer group of a projection."""
    return f"worker.{read_model}"


CONSUMER = "active"
"""The one consumer of a projection's group: whoever leads takes the pending entries over."""


# --- facts ---------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _fact_entry(record: Record) -> list[Fields]:
    fact = record.fact()
    entry = {
        "event": fact.name,
        "aggregate_id": fact.aggregate_id,
        "version": str(fact.version),
        "data": _json(fact.data),
        "metadata": _json(fact.metadata),
    }
    if fact.zone_id is not None:
        entry["zone_id"] = fact.zone_id
    return [entry]


def read_fact(position: int, fields: Mapping[str, str]) -> Fact:
    """Return the fact of a verified entry."""
    return Fact(
        position=position,
        name=fields["event"],
        zone_id=fields.get("zone_id"),
        aggregate_id=fields["aggregate_id"],
        version=int(fields["version"]),
        data=orjson.loads(fields["data"]),
        metadata=orjson.loads(fields["metadata"]),
    )


def facts(aggregate: type[Aggregate]) -> Topic:
    """Return the fact topic of an aggregate."""
    name = f"caracal.{aggregate.PLURAL}.events"
    return Topic(name, "facts", tuple(EVENTS_OF[aggregate]), _fact_entry)


# --- signals -------------------------------------------------------------------------------

_FORCED_REASONS = {
    "grant.revoked": "grant_revoked",
    "trusted_issuer.archived": "issuer_archived",
    "zone.archived": "zone_archived",
    "delegation.revoked": "delegation_revoked",
}
_ARCHIVED_APPLICATION = {"dcr_shutdown": "dcr_shutdown"}
_ENDS = ("zone.archived", "application.archived", "agent.terminated", "delegation.revoked")
_ANCHOR_EVENT = {
    "session": "session_revoke",
    "agent_session": "agent_terminate",
    "delegation_edge": "delegation_revoke",
}


def _signal(record: Record, **fields: str | None) -> Fields:
    known = {name: value for name, value in fields.items() if value is not None}
    zone_id = record.state["meta"].get("zone_id")
    return known | ({"zone_id": zone_id} if zone_id is not None else {}) | {"fact": record.name}


def reason_of(event: str, members: Mapping[str, Any]) -> str:
    """Return why what an event ends, or suspends, comes to that: its own word, or the event's."""
    if event == "application.archived":
        return _ARCHIVED_APPLICATION.get(members["reason"], "application_archived")
    return _FORCED_REASONS.get(event) or str(members.get("reason", "requested"))


def _reason(record: Record) -> str:
    return reason_of(record.name, record.state)


def _revoke_signals(record: Record) -> list[Fields]:
    if record.name == "session.revoked":
        return [_revoke(record, {"anchor": "session", "id": record.state["aggregate_id"]})]
    return [_revoke(record, root) for root in record.state.get("roots", [])]


def _revoke(record: Record, root: Mapping[str, Any]) -> Fields:
    anchor, revoked = root["anchor"], root["id"]
    suspended = record.name == "agent.suspended"
    return _signal(
        record,
        event="agent_suspend" if suspended else _ANCHOR_EVENT[anchor],
        session_id=revoked,
        anchor=anchor,
        agent_session_id=revoked if anchor == "agent_session" else None,
        delegation_edge_id=revoked if anchor == "delegation_edge" else None,
        subject_session_id=root.get("subject_session_id"),
        reason=_reason(record),
        grant_id=record.state["aggregate_id"] if record.name == "grant.revoked" else None,
    )


def _policy_signals(record: Record) -> list[Fields]:
    state = record.state
    if record.name == "policy_set.archived" and not state["was_active"]:
        return []
    return [
        _signal(
            record,
            policy_set_id=state["aggregate_id"],
            policy_set_version_id=state.get("version_id") or "",
            shadow_version_id=state.get("shadow_version_id") or "",
        )
    ]


def _key_signals(record: Record) -> list[Fields]:
    first = record.name == "signing_key.created" and record.state["version"] <= 1
    return [] if first else [_signal(record)]


_STATES = {
    "agent.spawned": ("spawn", "active"),
    "agent.suspended": ("suspend", "suspended"),
    "agent.resumed": ("resume", "active"),
}
_ENDED = ("terminate", "terminated")


def _lifecycle_signals(record: Record) -> list[Fields]:
    state = record.state
    spawned = record.name == "agent.spawned"
    agents = [{**state, "id": state["aggregate_id"]}] if spawned else state["agents"]
    event, status = _STATES.get(record.name, _ENDED)
    reason = None if event in ("spawn", "resume") else _reason(record)
    return [
        _signal(
            record,
            event=event,
            agent_session_id=agent["id"],
            session_id=agent["id"],
            application_id=agent["application_id"],
            parent_id=agent.get("parent_id"),
            status=status,
            occurred_at=state["timestamp"],
            reason=reason,
        )
        for agent in agents
    ]


def _delegation_signals(record: Record) -> list[Fields]:
    state, epoch = record.state, str(record.position)
    if record.name == "delegation.created":
        return [
            _signal(
                record,
                event="edge_create",
                edge_id=state["aggregate_id"],
                source_session_id=state["source_session_id"],
                target_session_id=state["target_session_id"],
                epoch=epoch,
            )
        ]
    expired = record.name == "delegation.expired"
    edges = [state["aggregate_id"]] if expired else state["edges"]
    if not edges:
        return []
    return [
        _signal(
            record,
            event="edge_expire" if expired else "edge_revoke",
            edge_id=state["aggregate_id"] if record.name == "delegation.revoked" else None,
            affected_edges=str(len(edges)),
            edge_ids=_json(edges),
            epoch=epoch,
        )
    ]


_INVOCATIONS = tuple(
    f"invocation.{event}"
    for event in (
        "created",
        "started",
        "cancel_requested",
        "canceled",
        "succeeded",
        "failed",
        "timed_out",
    )
)


def _invocation_signals(record: Record) -> list[Fields]:
    state = record.state
    return [
        _signal(
            record,
            event=record.name,
            invocation_id=state["aggregate_id"],
            service_id=state["service_id"],
        )
    ]


_SIGNALS = (
    Topic(
        "caracal.sessions.revoke",
        "signals",
        ("session.revoked", "grant.revoked", "trusted_issuer.archived", "agent.suspended", *_ENDS),
        _revoke_signals,
    ),
    Topic(
        "caracal.policy.invalidate",
        "signals",
        ("policy_set.activated", "policy_set.archived"),
        _policy_signals,
    ),
    Topic(
        "caracal.keys.invalidate",
        "signals",
        ("signing_key.created", "signing_key.retired"),
        _key_signals,
    ),
    Topic("caracal.agents.lifecycle", "signals", (*_STATES, *_ENDS), _lifecycle_signals),
    Topic("caracal.invocations.lifecycle", "signals", _INVOCATIONS, _invocation_signals),
    Topic(
        "caracal.delegations.invalidate",
        "signals",
        ("delegation.created", "delegation.expired", *_ENDS),
        _delegation_signals,
    ),
)

TOPICS: Mapping[str, Topic] = {
    topic.name: topic for topic in (*(facts(aggregate) for aggregate in EVENTS_OF), *_SIGNALS)
}
"""All relayed topics by name."""

FACT_TOPIC_OF: Mapping[str, Topic] = {
    source: topic for topic in TOPICS.values() if topic.key == "facts" for source in topic.sources
}
"""Stored event name -> its fact topic."""


def all_names() -> Iterator[tuple[str, str]]:
    """Yield every topic with its kind: for the command line, health and the ACLs of Redis."""
    for topic in TOPICS.values():
        yield topic.name, topic.key
    yield HEARTBEAT, "heartbeat"
    yield AUDIT, "decisions"
