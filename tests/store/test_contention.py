"""32 writers in two processes: guards hold exactly, and refuse with their own errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

from psycopg import AsyncConnection

from tests.store.contenders import KEYS, LIMIT, RING, RINGS

PROCESSES, WRITERS = 2, 16


async def contenders(database_url: str, name: str) -> list[list[str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.contenders", database_url, name, str(WRITERS)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    outcomes: list[list[str]] = json.loads(output)
    return outcomes


async def test_two_processes(database_url: str, db: AsyncConnection[Any]) -> None:
    calls = [contenders(database_url, f"p{number}") for number in range(PROCESSES)]
    outcomes = [tuple(pair) for of_one in await asyncio.gather(*calls) for pair in of_one]
    counted, writers = Counter(outcomes), PROCESSES * WRITERS
    for number in range(KEYS):
        assert counted[f"take:{number}", "won"] == 1
        assert counted[f"take:{number}", "taken"] == writers - 1
    assert counted["count", "won"] == LIMIT
    assert counted["count", "full"] == writers * KEYS - LIMIT
    for ring in range(RINGS):
        assert counted[f"edge:{ring}", "won"] == RING - 1
        assert counted[f"edge:{ring}", "ring"] == writers * RING - (RING - 1)
    assert counted["need", "missing"] == writers

    won = sum(count for (_, outcome), count in counted.items() if outcome == "won")
    statement = "SELECT (SELECT count(*) FROM log), n FROM guard_count WHERE key = 'c'"
    assert await (await db.execute(statement)).fetchone() == (won, LIMIT)
