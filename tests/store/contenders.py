"""Writers that contend, as a process: ``python -m tests.store.contenders URL NAME WRITERS``.

Every writer has a connection of its own and goes for the same keys, the same counter and the
same ring of edges as all others. Prints what each call came to, one JSON list.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator

from caracal.errors import CaracalError, Conflict, NotFound, TooMany
from caracal.events.guards import Count, Edge, Guard, Need, Take, live
from caracal.events.store.log import Log
from tests.backbone import new_zone, opened_log

KEYS, LIMIT, RINGS, RING = 20, 50, 5, 6


def guards(name: str) -> Iterator[tuple[str, Guard]]:
    """Yield what a writer tries: every key once, the counter, one edge of every ring."""
    for number in range(KEYS):
        yield f"take:{number}", Take(f"k:{number}", name, Conflict("taken"))
        yield "count", Count("c", 1, LIMIT, TooMany("full"))
    for ring in range(RINGS):
        for place in range(RING):
            source, target = f"r{ring}:{place}", f"r{ring}:{(place + 1) % RING}"
            yield f"edge:{ring}", Edge(source, target, f"{source}-{target}", Conflict("ring"))
    yield "need", Need(live("zone", "nowhere"), NotFound("missing"))


async def contend(log: Log, name: str) -> list[tuple[str, str]]:
    """Try everything in an order of one's own; return what came of each."""
    outcomes, tries = [], list(guards(name))
    random.Random(name).shuffle(tries)
    for label, guard in tries:
        try:
            await log.save(new_zone(), guards=[guard])
            outcomes.append((label, "won"))
        except CaracalError as error:
            outcomes.append((label, error.code))
    return outcomes


async def writer(database_url: str, name: str) -> list[tuple[str, str]]:
    async with opened_log(database_url) as log:
        return await contend(log, name)


async def main(database_url: str, name: str, writers: int) -> None:
    calls = (writer(database_url, f"{name}:{number}") for number in range(writers))
    outcomes = await asyncio.gather(*calls)
    print(json.dumps([outcome for of_writer in outcomes for outcome in of_writer]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
