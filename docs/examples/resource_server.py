"""A resource server that accepts mandates, and refuses them once what they hang on has ended.

Set CARACAL_ISSUER, CARACAL_STS_URL, CARACAL_AUDIENCE (the resource's identifier), CARACAL_ZONE_ID,
CARACAL_STREAM_HMAC_KEY, REDIS_URL and PORT, then: python docs/examples/resource_server.py
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from redis.asyncio import Redis

from caracal.client.asgi import EnvelopeMiddleware
from caracal.client.envelope import current
from caracal.client.fastapi import mandate_with
from caracal.client.revocation import (
    LIFECYCLE_STREAM,
    REVOCATION_STREAM,
    RedisRevocationConsumer,
    RedisRevocationStore,
)
from caracal.client.verify import Mandate, Verifier

redis = Redis.from_url(os.environ["REDIS_URL"])
revocations = RedisRevocationStore(redis)
verifier = Verifier(
    issuer=os.environ["CARACAL_ISSUER"],
    sts_url=os.environ["CARACAL_STS_URL"],
    audience=os.environ["CARACAL_AUDIENCE"],
    zone_id=os.environ["CARACAL_ZONE_ID"],
    revocations=revocations,
)
Reader = Annotated[Mandate, Depends(mandate_with(verifier, "read"))]


def consumer(stream: str) -> RedisRevocationConsumer:
    return RedisRevocationConsumer(
        redis,
        revocations,
        consumer=f"{socket.gethostname()}-{os.getpid()}",
        stream=stream,
        stream_hmac_key=os.environ["CARACAL_STREAM_HMAC_KEY"],
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    streams = (REVOCATION_STREAM, LIFECYCLE_STREAM)
    readers = [asyncio.create_task(consumer(stream).run()) for stream in streams]
    yield
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await verifier.aclose()
    await redis.aclose()


app = FastAPI(lifespan=lifespan)
app.add_middleware(EnvelopeMiddleware)


@app.get("/report")
async def report(mandate: Reader) -> dict[str, str | None]:
    return {"for": mandate.client_id, "agent": current().hint.agent_session}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
