"""A Gateway before many zones: how long it takes to start, what it holds, how long a zone takes."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from psycopg import AsyncConnection

from bench.memory import by_size, processes
from bench.report import Row, Value, at_most
from bench.rows.revocation import ALLOWED, expect
from bench.setting import Setting
from bench.wire import Connection
from bench.world import World

_ZONES, _EACH = 50, 2_000
_RESOURCES = """
INSERT INTO resources (id, position, zone_id, identifier, name, upstream_url, scopes,
    prefix_match, protocol, created_at, updated_at)
SELECT gen_random_uuid(), 0, zone, 'resource://' || zone || '/' || n, 'resource ' || n,
    'https://upstream.example/' || n, '["read", "write"]', false, 'http', now(), now()
FROM unnest(%s::text[]) AS zone, generate_series(1, %s) AS n
"""
_AGENTS = """
INSERT INTO agents (id, position, zone_id, application_id, subject_session_id, ancestors, depth,
    kind, capabilities, ttl_seconds, metadata, spawned_at, status)
SELECT gen_random_uuid(), 0, zone, zone, gen_random_uuid(), '[]', 0,
    'instance', '[]', 86400, '{}', now(), 'active'
FROM unnest(%s::text[]) AS zone, generate_series(1, %s) AS n
"""


async def started(setting: Setting) -> Row:
    """Fifty zones of two thousand resources and agents each; the product's own is one of them."""
    world = setting.world
    await _fill(world)
    raw = world.governed(world.ambient()).encode("latin-1")
    began = time.perf_counter()
    with setting.stack.replica("gateway", ALLOW_PRIVATE_UPSTREAMS="loopback") as url:
        seconds = time.perf_counter() - began
        port = urlsplit(url).port or 80
        pids = processes("serve", "gateway", "--port", str(port))
        empty = by_size(pids)
        connection = await Connection.to("127.0.0.1", port)
        first, second = [await _answered(connection, raw) for _ in range(2)]
        full = by_size(pids)
        connection.close()
    return Row(
        f"Gateway before {_ZONES} zones of {_EACH:,} resources and agents each",
        "bench process: a Gateway of its own, from the command to /ready; then calls in one zone;"
        " memory is each process' share (PSS)",
        [
            at_most("ready", seconds, "s", 4),
            at_most("memory", empty[0], "MiB", 128),
            Value("first call", first, "ms"),
            Value("second call", second, "ms"),
            Value("memory after it", full[0], "MiB"),
        ],
    )


async def _fill(world: World) -> None:
    """Rows only: nobody asks the log for what has been in the read models for long."""
    zones = [world.zone_id, *(f"zone-{number}" for number in range(1, _ZONES))]
    async with await AsyncConnection.connect(world.urls["database_url"]) as database:
        for statement in (_RESOURCES, _AGENTS):
            await database.execute(statement, (zones, _EACH))
        await database.commit()
        await database.set_autocommit(True)
        await database.execute("ANALYZE resources, agents")


async def _answered(connection: Connection, raw: bytes) -> float:
    began = time.perf_counter()
    await expect(connection, raw, ALLOWED)
    return (time.perf_counter() - began) * 1000
