from __future__ import annotations

import asyncio

from caracal import secret_hash
from caracal.errors import TooMany
from caracal.services.api.hashing import Hashing


async def test_what_is_over_the_queue_is_refused_and_the_rest_is_hashed() -> None:
    hashing = Hashing(threads=1, queue=2)
    calls = (hashing.stored(f"secret-{n}") for n in range(5))
    done = await asyncio.gather(*calls, return_exceptions=True)
    stored = [one for one in done if isinstance(one, str)]
    assert [secret_hash.verify(text, f"secret-{n}") for n, text in enumerate(stored)] == [True] * 3
    assert [type(one) for one in done[3:]] == [TooMany, TooMany]
    assert await hashing.stored("later")  # the places are free again
    hashing.stop()
