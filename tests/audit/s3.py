"""A bucket on loopback that believes nobody: every request must be signed (AWS SigV4)."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/secret", "eu-test-1"
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>no</Message></Error>"


@dataclass
class S3:
    """What is in its buckets; ``refusing``: an error code for everything."""

    objects: dict[str, bytes] = field(default_factory=dict)
    refusing: tuple[int, str] | None = None
    refused: list[str] = field(default_factory=list)
    url: str = ""

    async def put(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.refusing is not None:
            return self._refuse(*self.refusing)
        if not _is_signed(request, body):
            return self._refuse(403, "SignatureDoesNotMatch")
        if request.headers.get("If-None-Match") != "*":
            return self._refuse(400, "InvalidRequest")
        if request.path in self.objects:
            return self._refuse(412, "PreconditionFailed")
        self.objects[request.path] = body
        return web.Response(headers={"ETag": '"1"'})

    def _refuse(self, status: int, code: str) -> web.Response:
        self.refused.append(code)
        return web.Response(status=status, text=_ERROR.format(code), content_type="application/xml")


def _is_signed(request: web.Request, body: bytes) -> bool:
    """Sign what came as its sender must have, by botocore's own signer, and compare."""
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    day = request.headers["X-Amz-Date"][:8]
    if scheme != "AWS4-HMAC-SHA256" or parts["Credential"] != (
        f"{ACCESS}/{day}/{REGION}/s3/aws4_request"
    ):
        return False
    if request.headers["X-Amz-Content-SHA256"] != sha256(body).hexdigest():
        return False
    names = parts["SignedHeaders"].split(";")
    if not {"host", "x-amz-date", "x-amz-content-sha256", "if-none-match"} <= set(names):
        return False
    again = AWSRequest(
        method=request.method,
        url=str(request.url),
        headers={name: request.headers[name] for name in names},
    )
    again.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", REGION)
    text = signer.string_to_sign(again, signer.canonical_request(again))
    return hmac.compare_digest(signer.signature(text, again), parts["Signature"])


@asynccontextmanager
async def s3() -> AsyncIterator[S3]:
    """Serve a bucket for as long as the context lasts."""
    made = S3()
    app = web.Application(client_max_size=2**28)
    app.router.add_put("/{bucket}/{key:.*}", made.put)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
