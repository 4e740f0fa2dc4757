"""One part of the product is gone: what each service answers, what lives on, and the way back.

A row of the table in the design, section 1.5, is a test here.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from caracal.demo.wire import Stream
from tests.backbone import eventually
from tests.flow.conftest import Making
from tests.flow.product import Product
from tests.flow.tenant import Answer, Tenant, Upstream, new_tenant

pytestmark = [pytest.mark.flow, pytest.mark.chaos]

SERVICES = ("worker", "api", "sts", "gateway")


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """All services, soon stale and soon out of patience."""
    made = making(MAX_STALENESS="4s", STS_TIMEOUT="1s", DB_CONNECTION_TIMEOUT_MS="1000")
    made.start(*SERVICES)
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def at_work(product: Product) -> AsyncIterator[tuple[Tenant, Upstream]]:
    """A tenant whose agent may call."""
    async with new_tenant(product) as made:
        yield made


@pytest.fixture
def tenant(at_work: tuple[Tenant, Upstream]) -> Tenant:
    return at_work[0]


@pytest.fixture
def upstream(at_work: tuple[Tenant, Upstream]) -> Upstream:
    return at_work[1]


@asynccontextmanager
async def gone(product: Product, name: str) -> AsyncIterator[None]:
    """Without one service; afterwards with all again."""
    product.kill(name)
    try:
        yield
    finally:
        product.start(name)
        await product.ready(*SERVICES)


@asynccontextmanager
async def redis_gone(product: Product) -> AsyncIterator[None]:
    """Without Redis; afterwards with all again."""
    product.kill_redis()
    try:
        yield
    finally:
        product.servers.restart_valkey()
        await product.ready(*SERVICES)


@asynccontextmanager
async def postgres_gone(product: Product) -> AsyncIterator[None]:
    """Without Postgres; afterwards with all again."""
    product.kill_postgres()
    try:
        yield
    finally:
        product.servers.restart_postgres()
        await product.ready(*SERVICES)


def is_pending(answer: Answer) -> bool:
    return answer.headers.get("Caracal-Consistency") == "pending"


def assert_later(answer: Answer, status: int, code: str) -> None:
    """Check a refusal that says when to try again."""
    assert (answer.status, answer.code) == (status, code), answer
    assert int(answer.headers["Retry-After"]) >= 1


async def assert_ready(product: Product, **expected: str) -> None:
    """Wait until ``/ready`` says ``ready``, ``degraded``, or this reason why not."""
    for name, wanted in expected.items():
        await eventually(partial(_says, product, name, wanted), what=f"{name}: {wanted}")


async def _says(product: Product, name: str, wanted: str) -> bool:
    status, body = await product.readiness(name)
    if status == 200:
        return wanted == ("degraded" if body["degraded"] else "ready")
    assert body["error"] == body["reason"]
    return wanted == body["reason"]


async def until(ask: Callable[[], Awaitable[Answer]], status: int, code: str = "") -> Answer:
    """Ask until the answer is as wanted."""
    given: list[Answer] = []

    async def wanted() -> Answer | None:
        given[:] = [await ask()]
        return given[0] if (given[0].status, given[0].code) == (status, code) else None

    try:
        return await eventually(wanted, what=f"{status} {code}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {given}") from None


async def assert_flows(stream: Stream) -> None:
    """Check that a stream goes on."""
    before = len(stream.body)

    async def more() -> bool:
        return len(stream.body) > before

    await eventually(more, what="the stream going on")


async def over(ended: asyncio.Task[None]) -> None:
    """Wait for the end of a stream, not for ever."""
    async with asyncio.timeout(15):
        await ended


async def application(tenant: Tenant) -> Answer:
    """Make an application with a secret."""
    body = {"name": "late", "credential_type": "token"}
    return await tenant.caller.operate("POST", f"{tenant.path}/applications", body)


async def test_without_the_worker_all_serve_and_the_read_models_follow_later(
    product: Product, tenant: Tenant
) -> None:
    grant, token = await tenant.grant(), await tenant.ambient()
    async with tenant.streaming(token) as (stream, ended), gone(product, "worker"):
        made = await application(tenant)
        assert (made.status, is_pending(made)) == (201, True)
        path = f"{tenant.path}/applications/{made.body['id']}"
        at = {"Caracal-Min-Position": str(made.position)}
        assert_later(await tenant.caller.operate("GET", path, **at), 503, "projection_lagging")

        known = {name: made.body[name] for name in ("client_secret",)}
        ambient = await tenant.exchange(application_id=made.body["id"], **known)
        assert (ambient.status, is_pending(ambient)) == (200, True), ambient
        assert (await tenant.mint(token)).status == 200
        assert (await tenant.call(token)).status == 200
        await assert_ready(product, api="ready", sts="ready", gateway="ready")

        await assert_flows(stream)
        revoked = await tenant.revoke(grant)
        assert (revoked.status, is_pending(revoked)) == (204, True)
        await over(ended)
        assert stream.trailers == {"x-caracal-revoked": "true"}
        assert (await tenant.call(token, position=revoked.position)).status == 401
        assert (await tenant.mint(token, position=revoked.position)).status == 403
    at = {"Caracal-Min-Position": str(revoked.position)}
    assert (await tenant.caller.operate("GET", path, **at)).status == 200
    again = await application(tenant)
    assert (again.status, is_pending(again)) == (201, False)


async def test_without_redis_nothing_new_is_allowed_and_open_streams_hang_on_the_log(
    product: Product, tenant: Tenant, upstream: Upstream
) -> None:
    grant, token = await tenant.grant(), await tenant.ambient()
    async with tenant.streaming(token) as (stream, ended), redis_gone(product):
        calls = upstream.calls
        assert_later(await tenant.call(token), 503, "audit_unavailable")
        assert_later(await tenant.mint(token), 503, "audit_unavailable")
        assert_later(await tenant.exchange(), 503, "audit_unavailable")
        denied = await tenant.mint(token, scope="write")
        assert (denied.status, denied.code) == (403, "access_denied")
        reason = "redis_unreachable"
        await assert_ready(product, api="degraded", sts=reason, gateway=reason)

        made = await application(tenant)
        assert made.status == 201
        path = f"{tenant.path}/applications/{made.body['id']}"
        await until(lambda: tenant.caller.operate("GET", path), 200)  # the worker reads the log

        await assert_flows(stream)
        assert (await tenant.revoke(grant)).status == 204
        await over(ended)
        assert stream.trailers == {"x-caracal-revoked": "true"}
        assert upstream.calls == calls
    await assert_ready(product, api="ready")
    await tenant.grant()
    assert (await tenant.call(await tenant.ambient())).status == 200


async def test_without_worker_and_redis_a_revocation_still_cuts(
    product: Product, tenant: Tenant
) -> None:
    grant, token = await tenant.grant(), await tenant.ambient()
    async with tenant.streaming(token) as (stream, ended):
        async with gone(product, "worker"):
            product.kill_redis()
            try:
                await assert_flows(stream)
                revoked = await tenant.revoke(grant)
                assert (revoked.status, is_pending(revoked)) == (204, True)
                await over(ended)
            finally:
                product.servers.restart_valkey()
        assert stream.trailers == {"x-caracal-revoked": "true"}
        assert (await tenant.call(token, position=revoked.position)).status == 401


async def test_without_postgres_all_refuse_once_nobody_knows_what_was_revoked(
    product: Product, tenant: Tenant, upstream: Upstream
) -> None:
    await tenant.grant()
    token = await tenant.ambient()
    async with tenant.streaming(token) as (stream, ended):
        async with postgres_gone(product):
            assert (await tenant.mint(token)).status == 200  # for as long as the view is young
            assert (await tenant.call(token)).status == 200
            await assert_flows(stream)

            async def list_zones() -> Answer:
                return await tenant.caller.operate("GET", "/zones")

            assert_later(await until(list_zones, 503, "unavailable"), 503, "unavailable")
            assert_later(await application(tenant), 503, "unavailable")
            await assert_ready(product, api="postgres_unreachable")

            for ask in (tenant.mint, tenant.call):
                answer = await until(lambda ask=ask: ask(token), 503, "state_stale")
                assert_later(answer, 503, "state_stale")
            assert_later(await tenant.exchange(), 503, "state_stale")
            stale = "revocation_snapshot_stale"
            await assert_ready(product, sts="state_stale", gateway=stale)
            # Nobody knows which admin tokens were revoked, either.
            assert_later(await until(list_zones, 503, "state_stale"), 503, "state_stale")
            await over(ended)
            assert stream.trailers == {"x-caracal-stale": "true"}
            calls = upstream.calls
            assert_later(await tenant.call(token), 503, "state_stale")
            assert upstream.calls == calls
        assert (await tenant.mint(token)).status == 200
        assert (await tenant.call(token)).status == 200
    again = await application(tenant)
    assert (again.status, is_pending(again)) == (201, False)


async def test_without_postgres_no_session_begins(product: Product, tenant: Tenant) -> None:
    await tenant.grant()
    async with postgres_gone(product):
        assert_later(await tenant.exchange(), 503, "unavailable")
    assert (await tenant.exchange()).status == 200


async def test_without_the_sts_nothing_passes(
    product: Product, tenant: Tenant, upstream: Upstream
) -> None:
    grant, token = await tenant.grant(), await tenant.ambient()
    async with tenant.streaming(token) as (stream, ended):
        calls = upstream.calls
        async with gone(product, "sts"):
            answer = await tenant.call(token)
            assert (answer.status, answer.code) == (502, "sts_unavailable")
            broken = await until(lambda: tenant.call(token), 503, "sts_unavailable")
            assert_later(broken, 503, "sts_unavailable")
            await assert_ready(product, api="ready", gateway="sts_unreachable")
            await assert_flows(stream)
            assert (await tenant.revoke(grant)).status == 204
            await over(ended)
            assert stream.trailers == {"x-caracal-revoked": "true"}
        assert upstream.calls == calls
    await tenant.grant()
    token = await tenant.ambient()
    await until(lambda: tenant.call(token), 200)


async def test_an_sts_that_hangs_is_not_waited_for(
    product: Product, tenant: Tenant, upstream: Upstream
) -> None:
    await tenant.grant()
    token = await tenant.ambient()
    await until(lambda: tenant.call(token), 200)
    calls = upstream.calls
    with product.paused("sts"):
        answer = await tenant.call(token)
        assert (answer.status, answer.code) == (504, "sts_unavailable")
        assert upstream.calls == calls
    assert (await tenant.call(token)).status == 200


@pytest.mark.parametrize("service", ["sts", "gateway"])
def test_a_start_without_postgres_is_refused_in_one_line(product: Product, service: str) -> None:
    nobody = {"DATABASE_URL": "postgresql://127.0.0.1:9/caracal", "PORT": "0"}
    program = "from caracal.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "serve", service],
        env=os.environ | product.settings | nobody,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if line.startswith("caracal: ")]
    assert said == ended.stderr.splitlines()[-1:]
    assert said[0].startswith("caracal: the server of DATABASE_URL does not answer: ")
    assert "Traceback" not in ended.stderr
