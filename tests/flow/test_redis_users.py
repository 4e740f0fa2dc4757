"""``deploy/redis/users.conf``: each service works as its own user of Redis, and can no more."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from caracal.embedded import EmbeddedServers, engines
from caracal.embedded.process import await_ready, own_account
from caracal.events.topics import AUDIT, HEARTBEAT, all_names
from tests.backbone import eventually
from tests.flow.conftest import Making
from tests.flow.product import Product
from tests.flow.tenant import Tenant, new_tenant

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.conf"
SERVICES = ("worker", "api", "sts", "gateway", "coordinator", "siem")
FACTS = [name for name, kind in all_names() if kind == "facts"]
SIGNALS = [name for name, kind in all_names() if kind == "signals"]

pytestmark = pytest.mark.flow


def filled_in() -> str:
    """Return the file; each user's password is its name."""
    return re.sub("<(caracal-[a-z]+)>", _digest, USERS.read_text())


def _digest(user: re.Match[str]) -> str:
    return hashlib.sha256(user[1].encode()).hexdigest()


def url_of(servers: EmbeddedServers, user: str) -> str:
    """Return the URL by which a user comes."""
    parts = urlsplit(servers.redis_url)
    return f"unix://{user}:{user}@{parts.path}?{parts.query}"


@pytest.fixture(scope="module")
async def product(making: Making) -> Product:
    """All services, each with its own user of Redis."""
    made = making()
    with redis.Redis.from_url(made.servers.redis_url) as server:
        for line in filled_in().splitlines():
            if line.startswith("user caracal-"):
                server.execute_command("ACL SETUSER", *line.split()[1:])
    for service in SERVICES:
        made.own[service] = {"REDIS_URL": url_of(made.servers, f"caracal-{service}")}
    made.own["siem"] |= {
        "SIEM_SINK_URL": f"file://{made.directory / 'siem.jsonl'}",
        "SIEM_TOPICS": "all",
    }
    made.own["coordinator"]["COORDINATOR_RATE_LIMIT_PER_MIN"] = "1000"
    made.start(*SERVICES)
    await made.ready()
    return made


@pytest.fixture
async def tenant(product: Product) -> AsyncIterator[Tenant]:
    async with new_tenant(product) as (made, _):
        yield made


def refused(product: Product) -> list[str]:
    """Return what the server has refused: to whom, what."""
    with redis.Redis.from_url(product.servers.redis_url, decode_responses=True) as server:
        return [f"{entry['username']}: {entry['object']}" for entry in server.acl_log()]


async def test_each_service_does_its_work_as_its_own_user(product: Product, tenant: Tenant) -> None:
    grant = await tenant.grant()
    token = await tenant.ambient()
    (policy_set,) = (await tenant.caller.operate("GET", f"{tenant.path}/policy-sets")).body
    status = f"{tenant.path}/policy-sets/{policy_set['id']}/activation-status"
    agents = f"{product.url('coordinator')}{tenant.path}/agents"
    answers = [
        await tenant.call(token),
        await tenant.caller.operate("GET", status),
        await tenant.caller.ask("GET", agents, headers={"Authorization": f"Bearer {token}"}),
        *[await tenant.caller.ask("GET", f"{product.url(name)}/ready") for name in product.running],
        await tenant.revoke(grant),
        await tenant.call(token),
    ]
    assert [answer.status for answer in answers] == [200, 200, 403, *[200] * 6, 204, 401]
    assert (len(answers[1].body["sts"]), answers[1].body["unknown"]) == (1, [])
    with redis.Redis.from_url(product.servers.redis_url) as server:
        server.xadd(AUDIT, {"id": "forged", "data": "{}"})

    async def copied() -> bool:
        status, body = await product.readiness("siem")
        return status == 200 and (body["lag"], body["dead_letters"]) == (0, 1)

    await eventually(copied, seconds=30)
    product.hang_up("siem")  # logrotate's word; by default a process would end of it
    assert await product.readiness("siem")
    product.assert_alive()
    lines = (product.directory / "siem.jsonl").read_text().splitlines()
    assert {json.loads(line)["class_uid"] for line in lines} == {3004, 6003}
    assert refused(product) == []


ALLOWED = [
    ("sts", "SET sts:client-assertion:zone:app:digest 1 NX EX 300"),
    ("sts", "SET sts:dpop:use 1 NX EX 300"),
    ("sts", "SET provider-refresh-lease:grant mark NX PX 15000"),
    ("sts", "DEL provider-refresh-failures:id provider-refresh-circuit:id"),
    ("sts", "EVAL script 2 provider-refresh-failures:id provider-refresh-circuit:id"),
    ("sts", "CONFIG GET append*"),
    ("gateway", "SET seen:dpop:use 1 NX EX 300"),
    ("api", "EVALSHA digest 1 rl:dcr:zone"),
    ("coordinator", "EVALSHA digest 1 coordinator:verify:address"),
    ("coordinator", "SET coordinator:dpop:use 1 NX EX 300"),
    ("coordinator", "SET coordinator:verified:dpop:use 1 NX EX 180"),
    ("worker", "RENAME caracal.grants.events caracal.grants.events.quarantine.1"),
    ("worker", f"XADD {AUDIT}.dlq * event forged"),
    ("worker", f"XDEL {AUDIT}.dlq 1-0"),
    ("worker", "XTRIM caracal.audit.events MINID 1"),
    ("gateway", f"XADD {AUDIT} MAXLEN 0 * event made"),  # no ACL can tell: the file says so
    *(("worker", f"XADD {name} * event made") for name in FACTS),
    ("siem", "XADD caracal.siem.dead * reason forged"),
    *(("siem", f"XREADGROUP GROUP siem-export one STREAMS {name} >") for name in (*FACTS, AUDIT)),
    ("signals", "EVAL script 2 caracal:revoked:sessions:1 caracal:revoked:sessions:/1"),
    ("signals", "EXISTS caracal:revoked:sessions:1"),
    ("signals", "SET caracal:dpop:use 1 NX EX 180"),
    *(("signals", f"XREADGROUP GROUP mine one STREAMS {name} >") for name in SIGNALS),
]
REFUSED = [
    *(
        (user, f"XADD {name} * event forged")
        for user in ("api", "sts", "gateway", "coordinator", "signals", "siem")
        for name in (*FACTS, *SIGNALS, HEARTBEAT)
    ),
    ("worker", f"XDEL {AUDIT} 1-0"),
    ("siem", f"XADD {AUDIT} * event forged"),
    ("siem", f"XADD {AUDIT}.dlq * event forged"),
    *(("siem", f"XREADGROUP GROUP mine one STREAMS {name} >") for name in SIGNALS),
    ("signals", f"SET {SIGNALS[0]} 1"),
    ("signals", f"DEL {SIGNALS[0]}"),
    *(("signals", f"XREAD STREAMS {name} 0") for name in (*FACTS, AUDIT)),
    *(
        (user, command)
        for user in ("api", "sts", "gateway", "coordinator", "signals", "siem")
        for command in (
            f"XTRIM {AUDIT} MAXLEN 0",
            f"XDEL {AUDIT} 1-0",
            f"DEL {AUDIT}",
            f"SET {AUDIT} 1",
            f"EXPIRE {AUDIT} 1",
        )
    ),
    *(
        (user, command)
        for user in ("worker", "api", "sts", "gateway", "coordinator", "signals", "siem")
        for command in (
            "FLUSHALL",
            "KEYS *",
            "CONFIG SET appendonly no",
            "ACL WHOAMI",
            "SCRIPT FLUSH",
            "REPLICAOF host 1",
            "PUBLISH channel text",
            "SET anything else",
        )
    ),
    ("gateway", "GET sts:dpop:use"),
    ("coordinator", "SET rl:zone:resource:app 0"),
]


@pytest.mark.parametrize(("allowed", "table"), [(True, ALLOWED), (False, REFUSED)])
def test_who_may_do_what(product: Product, allowed: bool, table: list[tuple[str, str]]) -> None:
    with redis.Redis.from_url(product.servers.redis_url, decode_responses=True) as server:
        wrong = [
            (user, command)
            for user, command in table
            if (server.acl_dryrun(f"caracal-{user}", *command.split()) == "OK") is not allowed
        ]
    assert wrong == []


async def test_a_forged_entry_degrades_the_worker(product: Product) -> None:
    """Somebody has a key of the wrong ring, or the user of a writer: it is set aside, and told."""
    assert (await product.readiness("worker"))[1]["degraded"] is False
    with redis.Redis.from_url(product.servers.redis_url) as server:
        server.xadd(FACTS[0], {"event": "zone.archived", "_sig": "forged"})

    async def told() -> bool:
        status, body = await product.readiness("worker")
        return status == 200 and body["degraded"] is True and body["dead_letters"] != 0

    await eventually(told)


def test_a_server_starts_with_the_file(tmp_path: Path) -> None:
    """As it is included in redis.conf, comments and all; nobody comes without a name."""
    socket = tmp_path / "redis.sock"
    config = f'port 0\nsave ""\nunixsocket {socket}\n{filled_in()}'
    binary = engines.valkey(tmp_path, own_account()).binary
    given = tmp_path / "redis.conf"
    given.write_text(config)
    log = tmp_path / "log"
    with log.open("wb") as out, subprocess.Popen([binary, given], stdout=out, stderr=out) as server:
        try:
            await_ready("Valkey", server, lambda: _answers(socket), log)
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(unix_socket_path=str(socket)).ping()
        finally:
            server.terminate()


def _answers(socket: Path) -> bool:
    try:
        with redis.Redis.from_url(f"unix://caracal-sts:caracal-sts@{socket}") as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
