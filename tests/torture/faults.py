"""What is done to relays, runners, servers and topics."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import psycopg
from redis.exceptions import ResponseError

from caracal.events.topics import HEARTBEAT
from tests.backbone import ALL_TOPICS
from tests.torture.stack import Stack

Fault = Callable[[Stack], None]
FAULTS: dict[str, Fault] = {}

_USED = ("caracal.zones.events", "caracal.items.events", "caracal.sessions.revoke")
JUNK = {"position": "1", "prev": "0-0", "event": "zone.created", "_sig": "0" * 64}


def fault(function: Fault) -> Fault:
    """Register a kind of fault."""
    FAULTS[function.__name__] = function
    return function


def _topic(stack: Stack) -> str:
    return stack.random.choice(_USED)


def _last(stack: Stack, topic: str) -> tuple[int, int]:
    position, _, n = stack.head(topic).partition("-")
    return int(position), int(n)


def _forge(stack: Stack, topic: str, entry_id: str, fields: dict[str, str]) -> None:
    try:
        stack.redis.xadd(topic, dict(fields), id=entry_id)
    except ResponseError:
        return  # the relay was faster: the id is taken


# --- processes -----------------------------------------------------------------------------


def _kill(stack: Stack, kind: str) -> None:
    stack.end(stack.random.choice(stack.of(kind)))


@fault
def kill_relay(stack: Stack) -> None:
    _kill(stack, "relay")


@fault
def kill_runner(stack: Stack) -> None:
    _kill(stack, "runners")


@fault
def kill_redis(stack: Stack) -> None:
    stack.servers.valkey.process.kill()
    stack.servers.valkey.process.wait()
    time.sleep(stack.random.uniform(0, 0.3))
    stack.servers.restart_valkey()


@fault
def kill_postgres(stack: Stack) -> None:
    stack.servers.postgres.process.kill()
    stack.servers.postgres.process.wait()
    time.sleep(stack.random.uniform(0, 0.3))
    stack.servers.restart_postgres()
    stack.db.close()


@fault
def stop(stack: Stack) -> None:
    """Any process stands still and goes on as if nothing had happened."""
    child = stack.random.choice(stack.of("relay") + stack.of("runners"))
    child.signal(signal.SIGSTOP)
    time.sleep(stack.random.uniform(0.2, 1.2))
    child.signal(signal.SIGCONT)


@fault
def stop_long(stack: Stack) -> None:
    """Longer than the silence after which a standby goes ahead without the lock."""
    kind = stack.random.choice(("relay", "runners"))
    stopped = stack.of(kind)[:-1]
    for child in stopped:
        child.signal(signal.SIGSTOP)
    time.sleep(2.5)
    for child in stopped:
        child.signal(signal.SIGCONT)


@fault
def two_relays(stack: Stack) -> None:
    stack.start_unlocked("relay")


@fault
def two_runners(stack: Stack) -> None:
    stack.start_unlocked("runners")


# --- topics --------------------------------------------------------------------------------


@fault
def flushall(stack: Stack) -> None:
    stack.redis.flushall()


@fault
def delete_topic(stack: Stack) -> None:
    stack.redis.delete(stack.random.choice((*_USED, HEARTBEAT)))


@fault
def stray(stack: Stack) -> None:
    stack.redis.xadd(stack.random.choice(list(ALL_TOPICS)), {"stray": b"\xff"})


@fault
def forged_in_range(stack: Stack) -> None:
    """Within what was published: another entry of the last event."""
    topic = _topic(stack)
    position, n = _last(stack, topic)
    _forge(stack, topic, f"{position}-{n + stack.random.randint(1, 3)}", JUNK)


@fault
def forged_next(stack: Stack) -> None:
    """The very id that the relay is about to write."""
    topic = _topic(stack)
    position, _ = _last(stack, topic)
    _forge(stack, topic, f"{position + stack.random.randint(1, 2)}-0", JUNK)


@fault
def replayed(stack: Stack) -> None:
    """A genuine entry, signed by us, sent again under the next id."""
    topic = _topic(stack)
    position, _ = _last(stack, topic)
    for _, fields in stack.redis.xrevrange(topic, count=1):
        again = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        _forge(stack, topic, f"{position + 1}-0", again)


@fault
def trim(stack: Stack) -> None:
    stack.redis.xtrim(_topic(stack), stack.random.choice((0, 1, 5)), approximate=False)


@fault
def delete_last(stack: Stack) -> None:
    topic = _topic(stack)
    for entry_id, _ in stack.redis.xrevrange(topic, count=stack.random.choice((1, 3))):
        stack.redis.xdel(topic, entry_id)


@fault
def restored(stack: Stack) -> None:
    """A topic as it was a moment ago, groups and all."""
    topic = _topic(stack)
    if (before := stack.redis.dump(topic)) is not None:
        time.sleep(stack.random.uniform(0, 0.1))
        stack.redis.restore(topic, 0, before, replace=True)


# --- the database --------------------------------------------------------------------------


@fault
def vacuum(stack: Stack) -> None:
    """In a loop, while writers write."""
    ended = threading.Event()
    url = stack.servers.database_url

    def loop() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.is_set():
                connection.execute("VACUUM ANALYZE log, checkpoints, guard_key, zones")

    thread = threading.Thread(target=loop)
    thread.start()
    time.sleep(stack.random.uniform(0.2, 0.8))
    ended.set()
    thread.join()


@fault
def kill_backends(stack: Stack) -> None:
    """Every connection to the database is cut."""
    stack.db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
