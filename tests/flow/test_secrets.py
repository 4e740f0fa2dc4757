"""Every secret goes in, by every door; none is found anywhere but sealed in the vault.

Looked through: every answer, every log line, every column of every table, every key of Redis,
the audit trail as the API tells it, and the files of both servers as they lie on the disk.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from psycopg import AsyncConnection, sql
from redis.asyncio import Redis

from caracal import clock
from caracal.events.grant import Credential, Grant
from caracal.events.store.vault import Vault
from tests.backbone import eventually, opened_log
from tests.flow.conftest import Making
from tests.flow.product import OPERATOR, Product
from tests.flow.tenant import Tenant, new_tenant
from tests.making import in_zone

MARK = "HushZq7WvKp3xT9b"
"""Stands in every secret that a caller made, so one search finds them all."""

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]


def hush(name: str) -> str:
    return f"{MARK}-{name}"


def forms(secret: bytes) -> list[bytes]:
    """A text, its hex, and what it looks like inside of base64, wherever it begins there."""
    shifted = (b64encode(b"\0" * shift + secret)[-(-shift * 4 // 3) :] for shift in range(3))
    # The last characters depend on what follows.
    based = [text.rstrip(b"=")[:-2] for text in shifted]
    urlsafe = [text.replace(b"+", b"-").replace(b"/", b"_") for text in based]
    hexed = secret.hex().encode()
    return list({secret, hexed, hexed.upper(), *based, *urlsafe})


def pattern(secrets: Iterable[str]) -> re.Pattern[bytes]:
    found = {form for secret in secrets for form in forms(secret.encode())}
    # A database may tell bytes as hex.
    found |= {form.hex().encode() for form in found}
    return re.compile(b"|".join(re.escape(form) for form in sorted(found)))


@dataclass
class World:
    """The product, a tenant in it, and all that was answered so far."""

    product: Product
    tenant: Tenant
    answers: list[bytes] = field(default_factory=list)

    async def operate(self, method: str, path: str, body: Any = None) -> Any:
        return await self.tenant.caller.operate(method, f"{self.tenant.path}{path}", body)


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """All services, as talkative as can be."""
    made = making(LOG_LEVEL="debug")
    made.start("worker", "api", "sts", "gateway")
    await made.ready()
    return made


@pytest.fixture(scope="module")
async def world(product: Product) -> AsyncIterator[World]:
    answers: list[bytes] = []

    async def see(response: httpx.Response) -> None:
        head = b"".join(name + b": " + value + b"\n" for name, value in response.headers.raw)
        answers.append(head + await response.aread())

    async with new_tenant(product, see) as (tenant, _):
        yield World(product, tenant, answers)


def provider(number: int, **members: Any) -> dict[str, Any]:
    return {"identifier": f"provider://p-{number}", "kind": "oauth2"} | members


GOOD = (
    provider(
        1,
        config_json={"issuer": "https://a", "client_secret": hush("config"), "Token": [hush("t")]},
        secret_config={"api_key": hush("secret"), "anything": {"deep": [hush("deep")]}},
    ),
    provider(2, kind="api_key", secret_config={"api_key": hush("typed")}),
    provider(3, kind="bearer_token", config_json={"bearer_token": hush("bearer")}),
    provider(
        5,
        kind="oauth2_authorization_code",
        client_id="us",
        config_json={
            "token_endpoint": "https://login.example/token",
            "allowed_token_hosts": ["login.example"],
        },
        secret_config={"client_secret": hush("client of ours")},
    ),
)
REFUSED = (
    provider(4, config_json={"a": {"password": hush("hidden")}}),
    provider(4, kind="api_key", secret_config={"api_key": hush("line\nbreak")}),
    provider(4, kind="api_key", secret_config={"password": hush("no key of it")}),
    provider(4, kind="none", config_json={"token": hush("none")}),
    provider(4, kind=hush("kind"), secret_config={"token": hush("kind")}),
    provider(4, secret_config=hush("no object")),
    provider(4, secret_config={"token": hush("large") + "a" * 20_000}),
    provider(4, kind="oauth2_client_credentials", config_json={"token_endpoint": hush("url")}),
)
CHANGES = (
    {"config_json": {"client_secret": hush("changed")}},
    {"secret_config": {"api_key": None, "issuer": hush("was public")}},
    {"config_json": {"issuer": hush("is secret now")}},
    {"kind": "oidc"},
)


async def use_providers(world: World) -> None:
    """Create, change, refuse, read and archive; the secrets stand wherever one may be put."""
    made = [await world.operate("POST", "/providers", body) for body in GOOD]
    assert [answer.status for answer in made] == [201] * 4
    path, used, _, of_users = (f"/providers/{answer.body['id']}" for answer in made)
    for body in REFUSED:
        for method, where in (("POST", "/providers"), ("PATCH", path)):
            assert (await world.operate(method, where, body)).status == 400, body
    for change in CHANGES:
        assert (await world.operate("PATCH", path, change)).status == 200
    taken = provider(2, secret_config={"token": hush("taken")})
    assert (await world.operate("POST", "/providers", taken)).status == 409
    for where in ("/providers", path):
        assert (await world.operate("GET", where)).status == 200
    await call_with(world, used.rpartition("/")[2], of_users.rpartition("/")[2])
    for where in (path, used):
        assert (await world.operate("DELETE", where)).status == 204


async def call_with(world: World, with_key: str, of_users: str) -> None:
    """Call a resource whose credential is a provider's: a key, then tokens of the user."""
    resource, token = f"/resources/{world.tenant.resource['id']}", await world.tenant.ambient()
    assert (await world.operate("PATCH", resource, {"provider_id": with_key})).status == 200
    assert (await world.tenant.call(token)).status == 403
    await keep_tokens(world, await world.tenant.grant(world.tenant.application["id"]))
    for value in (with_key, of_users, None):
        answer = await world.operate("PATCH", resource, {"provider_id": value})
        assert answer.status == 200
        called = await world.tenant.call(token, position=answer.position)
        assert called.status == 200, called


async def keep_tokens(world: World, grant_id: str) -> None:
    """Store a provider's tokens for a user, as consent does."""
    vault = Vault((bytes.fromhex(world.product.settings["ZONE_KEK"]),))
    access, refresh = (vault.seal(hush(name).encode()) for name in ("access", "refresh"))
    async with opened_log(world.product.servers.database_url) as log:
        grant = await log.find(Grant, grant_id)
        assert grant is not None
        with in_zone(world.tenant.zone):
            ends = clock.now() + timedelta(hours=1)
            grant.store_credential(Credential(access, refresh, ends))
        await log.save(grant)


async def use_applications(world: World) -> list[str]:
    """Chosen, changed, wrong and server-made client secrets; return those that are not ours."""
    body = {"name": "app", "credential_type": "password", "client_secret": hush("client")}
    made = await world.operate("POST", "/applications", body)
    path = f"/applications/{made.body['id']}"
    for change, status in (
        ({"client_secret": hush("client two")}, 200),
        ({"client_secret": hush("client"), "name": 1}, 400),
        ({"jwks": {"keys": [{"kty": "oct", "k": hush("key")}]}}, 400),
    ):
        assert (await world.operate("PATCH", path, change)).status == status
    for secret, status in ((hush("client two"), 200), (hush("wrong"), 401)):
        answer = await world.tenant.exchange(application_id=made.body["id"], client_secret=secret)
        assert answer.status == status, answer
    assert (await world.operate("DELETE", path)).status == 204
    return [str(world.tenant.application["client_secret"])]


async def use_tokens(world: World) -> list[str]:
    """Tokens good and bad at all doors; return the good ones."""
    tenant, caller = world.tenant, world.tenant.caller
    token = await tenant.ambient()
    mandate = await tenant.mint(token)
    assert mandate.status == 200, mandate
    assert (await tenant.call(token)).status == 200
    assert (await tenant.call(hush("agent"))).status == 401
    assert (await tenant.mint(hush("subject"))).status in (400, 401)
    bad = {"Authorization": f"Bearer {hush('admin')}"}
    url = f"{world.product.url('api')}/v1{tenant.path}"
    for method in ("GET", "PATCH"):
        assert (await caller.ask(method, url, headers=bad, json={})).status == 401
    return [token, mandate.body["access_token"], OPERATOR]


async def read_the_trail(world: World) -> None:
    """Ask for every audit event, and for all that the API knows of its request."""
    trail = await world.operate("GET", "/audit?limit=1000")
    assert trail.status == 200
    assert trail.body
    for request_id in {event["request_id"] for event in trail.body}:
        assert (await world.operate("GET", f"/audit/by-request/{request_id}")).status == 200


async def in_database(db: AsyncConnection[Any]) -> AsyncIterator[tuple[str, bytes]]:
    """Every value of every column but the sealed ones, with where it stands."""
    tables = await db.execute(
        "SELECT schemaname, tablename FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    for schema, table in await tables.fetchall():
        name = sql.Identifier(schema, table)
        cursor = await db.execute(sql.SQL("SELECT * FROM {}").format(name))
        columns = [column.name for column in cursor.description or ()]
        for row in await cursor.fetchall():
            for column, value in zip(columns, row, strict=True):
                if (table, column) != ("vault", "ciphertext"):
                    yield f"{table}.{column}", as_bytes(value)


def as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    return value.encode() if isinstance(value, str) else orjson.dumps(value, default=str)


async def in_redis(redis: Redis) -> AsyncIterator[tuple[str, bytes]]:
    """Every key with what it holds."""
    read = {
        "string": redis.get,
        "stream": redis.xrange,
        "hash": redis.hgetall,
        "set": redis.smembers,
        "list": lambda key: redis.lrange(key, 0, -1),
        "zset": lambda key: redis.zrange(key, 0, -1),
    }
    async for key in redis.scan_iter(count=1000):
        kind = (await redis.type(key)).decode()
        yield key.decode(), key + b" " + b"\n".join(flat(await read[kind](key)))


def flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from flat(part)
    elif value is not None:
        yield value if isinstance(value, bytes) else str(value).encode()


def on_disk(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every file: logs of the services; tables, write-ahead log and append-only file."""
    for file in directory.rglob("*"):
        if file.is_file():
            yield str(file.relative_to(directory)), file.read_bytes()


async def everywhere(product: Product) -> list[tuple[str, bytes]]:
    places: list[tuple[str, bytes]] = []
    async with await AsyncConnection.connect(product.servers.database_url) as db:
        places += [place async for place in in_database(db)]
    async with Redis.from_url(product.servers.redis_url) as redis:
        places += [place async for place in in_redis(redis)]
    return places


async def keys_in_the_vault(product: Product) -> list[str]:
    """The private signing keys and data keys, as texts that would be found."""
    vault = Vault((bytes.fromhex(product.settings["ZONE_KEK"]),))
    async with await AsyncConnection.connect(product.servers.database_url) as db:
        rows = await (await db.execute("SELECT * FROM vault")).fetchall()
        opened = [await vault.read(db, row[0]) for row in rows]
    return [text.split(b"\n")[1].decode() for text in opened if text.startswith(b"-----BEGIN")]


def test_the_search_would_find_them() -> None:
    found = pattern([MARK])
    told = orjson.dumps({"client_secret": hush("x")})
    for text in (told, told.hex().encode(), told.hex().upper().encode()):
        assert found.search(text)
    for shift in range(6):
        based = b64encode(b"a" * shift + told)
        assert found.search(based)
        assert found.search(based.hex().encode())
    assert not found.search(b64encode(b"a" * 100))


async def test_no_secret_is_found(world: World, product: Product) -> None:
    await use_providers(world)
    good = [*await use_applications(world), *await use_tokens(world)]

    async def settled() -> bool:
        trail = await world.operate("GET", "/audit?limit=1000")
        return len(trail.body) >= 8

    await eventually(settled, what="the audit trail")
    await read_the_trail(world)
    good += await keys_in_the_vault(product)
    product.assert_alive()

    places = await everywhere(product)
    assert {"vault.ref", "log.state", "audit_events.metadata_json"} <= {name for name, _ in places}
    assert "caracal.providers.events" in {name for name, _ in places}
    ours, of_server = pattern([MARK]), pattern([*good, *settings_of(product)])
    everyone = re.compile(ours.pattern + b"|" + of_server.pattern)
    assert [name for name, text in places if everyone.search(text)] == []
    assert [text for text in world.answers if ours.search(text)] == []
    for secret in good:  # told once, to whom it was made for
        assert sum(secret.encode() in text for text in world.answers) <= 1, secret
    assert [name for name, text in on_disk(product.directory) if ours.search(text)] == []
    logs = [place for place in on_disk(product.directory) if place[0].endswith(".log")]
    assert {"api.log", "sts.log", "gateway.log", "worker.log"} <= {name for name, _ in logs}
    assert [name for name, text in logs if everyone.search(text)] == []


def settings_of(product: Product) -> list[str]:
    return [text for name, text in product.settings.items() if name.endswith(("_KEY", "_KEK"))]
