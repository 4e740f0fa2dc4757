"""What each STS replica tells of its policies, in Redis: which version is loaded for a zone.

For people who wait for an activation, never for a decision: nothing trusts it, and without it
nothing stops. A report lives :data:`SECONDS`; its replica renews it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

SECONDS = 60
"""How long a replica counts after its last word."""

REPLICAS = "caracal:sts:replicas"
"""Sorted set of replicas by when they last spoke: where to look, not who is there."""

_VIEW = "@"  # no zone has this id
_MAX_REPLICAS = 256
_MAX_FIELD = 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a replica has loaded for a zone: versions of policy sets, by id.

    Attributes:
        version_id: decides; None when the zone has no policy.
        failed_version_id: active, and could not be loaded.
        apart: what decides has stalled there, and is evaluated in a process of its own.
    """

    version_id: str | None = None
    failed_version_id: str | None = None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of one zone; ``loaded`` is None when it has not met the zone yet.

    Attributes:
        position: everything up to it in the log was applied when it spoke last.
    """

    replica: str
    position: int
    loaded: Loaded | None


def key_of(replica: str) -> str:
    """Return where a replica reports: a hash, one member per zone."""
    return f"caracal:sts:policies:{replica}"


async def is_there(redis: Redis, replica: str) -> bool:
    """Renew a replica's report; False when there is none (any more)."""
    return bool(await redis.expire(key_of(replica), SECONDS))


async def tell(
    redis: Redis, replica: str, position: int, zones: Mapping[str, Loaded | None]
) -> None:
    """Report these zones, those of None as not met; what was said of others stays."""
    met = {zone_id: loaded for zone_id, loaded in zones.items() if loaded is not None}
    members: dict[Any, Any] = {_VIEW: str(position)}
    members |= {zone_id: orjson.dumps(asdict(loaded)) for zone_id, loaded in met.items()}
    now, key = time.time(), key_of(replica)
    async with redis.pipeline() as commands:
        if gone := zones.keys() - met.keys():
            commands.hdel(key, *gone)
        commands.hset(key, mapping=members)
        commands.expire(key, SECONDS)
        commands.zadd(REPLICAS, {replica: now})
        # Clocks of other hosts may differ; who is there, the hashes say.
        commands.zremrangebyscore(REPLICAS, "-inf", now - 10 * SECONDS)
        commands.expire(REPLICAS, 10 * SECONDS)
        await commands.execute()


async def withdraw(redis: Redis, replica: str) -> None:
    """Take a replica's report back: it stops."""
    await redis.delete(key_of(replica))
    await redis.zrem(REPLICAS, replica)


async def reports(redis: Redis, zone_id: str) -> list[Report]:
    """Return what the live replicas say of a zone, by name.

    Raises:
        RedisError, OSError, TimeoutError: Redis cannot be used now.
    """
    members: Any = await redis.zrevrange(REPLICAS, 0, _MAX_REPLICAS - 1)
    names = [name.decode(errors="replace") for name in members]
    async with redis.pipeline(transaction=False) as commands:
        for name in names:
            commands.hmget(key_of(name), [_VIEW, zone_id])
        answers = await commands.execute() if names else []
    read = (_report(name, *answer) for name, answer in zip(names, answers, strict=True))
    return sorted(_known(read), key=lambda report: report.replica)


def _known(read: Iterable[Report | None]) -> list[Report]:
    return [report for report in read if report is not None]


def _report(replica: str, view: bytes | None, told: bytes | None) -> Report | None:
    """Return a report; None when its time is over or it is none."""
    if view is None:
        return None
    try:
        return Report(replica, int(view), None if told is None else _loaded(told))
    except (ValueError, TypeError, AttributeError):
        return None


def _loaded(told: bytes) -> Loaded:
    members: Any = orjson.loads(told[:_MAX_FIELD])
    apart = members.pop("apart", False)
    if not all(value is None or isinstance(value, str) for value in members.values()):
        raise ValueError("versions are named by their ids")
    return Loaded(**members, apart=apart is True)
