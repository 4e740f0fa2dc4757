"""``caracal up`` and ``caracal serve`` as whole programs, with services of a few lines."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from caracal.cli.running import running_stack
from caracal.settings import SERVICES
from tests.embedded.conftest import (
    StackOf,
    Start,
    Up,
    as_ordinary_user,
    children_of,
    handles_sigterm,
    is_running,
    wait_until,
)

pytestmark = pytest.mark.flow

STACK_KEYS = {
    "api_url",
    "sts_url",
    "coordinator_url",
    "gateway_url",
    "issuer_url",
    "admin_token",
    "coordinator_token",
    "database_url",
    "redis_url",
    "streams_hmac_key",
    "audit_hmac_key",
    "zone_kek_file",
    "data_dir",
    "pid",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "CARACAL_MODE", "CARACAL_ENV"):
        monkeypatch.delenv(name, raising=False)


def get(url: str, path: str = "/") -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_siem_runs_where_it_has_somewhere_to_send_to(
    up: Up, data_dir: Path, stack_of: StackOf
) -> None:
    running = up(SIEM_SINK_URL="file:///dev/null")
    urls = dict(running.line().split() for _ in range(len(SERVICES) + 1))
    assert list(urls) == [*SERVICES, "siem"]
    assert int(get(urls["siem"])) in children_of(running.pid)
    assert set(stack_of()) == STACK_KEYS
    assert (running_stack(data_dir) or {})["siem_url"] == urls["siem"]  # for `caracal status`


def test_up_and_down(up: Up, data_dir: Path, stack_of: StackOf) -> None:
    running = up()
    lines = [running.line() for _ in SERVICES]
    stack = stack_of()

    urls = dict(line.split() for line in lines)
    assert list(urls) == list(SERVICES)
    told = stack | {"worker_url": (data_dir / "worker_url").read_text()}
    assert {name: told[f"{name}_url"] for name in SERVICES} == urls
    pids = {int(get(url)) for url in urls.values()}
    assert len(pids) == 5
    assert pids < children_of(running.pid)

    assert set(stack) == STACK_KEYS
    assert stack["pid"] == running.pid
    assert stack["issuer_url"] == stack["sts_url"]
    assert stack["data_dir"] == str(data_dir)
    with psycopg.connect(stack["database_url"]) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)
    with redis.Redis.from_url(stack["redis_url"]) as client:
        assert client.ping()
    private = [data_dir / "stack.json", *(data_dir / "keys").iterdir()]
    assert len(private) == 8
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}
    assert Path(stack["zone_kek_file"]).read_text() != stack["streams_hmac_key"]

    below = children_of(running.pid)
    running.signal(signal.SIGTERM)
    assert running.end() == (0, "", "")
    assert not (data_dir / "stack.json").exists()
    assert not any(map(is_running, below))


def test_keys_are_made_once_and_only_if_missing(up: Up, data_dir: Path) -> None:
    assert up("--once", STREAMS_HMAC_KEY="ab" * 32, CARACAL_ADMIN_TOKEN="mine").end()[0] == 0
    made = {file.name: file.read_text() for file in (data_dir / "keys").iterdir()}
    assert not made.keys() & {"streams_hmac_key", "caracal_admin_token"}
    assert len(set(made.values())) == 5
    assert up("--once").end()[0] == 0
    now = {file.name: file.read_text() for file in (data_dir / "keys").iterdir()}
    assert len(now) == 7
    assert made.items() <= now.items()


def test_ctrl_c_reaches_the_parent_alone(up: Up, stack_of: StackOf, data_dir: Path) -> None:
    running = up()
    stack_of()
    os.killpg(running.pid, signal.SIGINT)
    os.killpg(running.pid, signal.SIGINT)
    code, _, errors = running.end()
    assert (code, errors) == (0, "")
    logs = [(data_dir / "logs" / f"{name}.log").read_text() for name in SERVICES]
    assert all("Application shutdown complete" in log for log in logs)
    assert "database system is shut down" in (data_dir / "logs" / "postgres.log").read_text()


@pytest.mark.chaos
def test_kill_9_leaves_no_orphan(up: Up, stack_of: StackOf, data_dir: Path) -> None:
    running = up()
    stack_of()
    below = children_of(running.pid)
    assert len(below) == 7
    running.signal(signal.SIGKILL)
    running.end()
    wait_until(lambda: not any(map(is_running, below)), "all children to end")
    assert up("--once").end()[0] == 0


@pytest.mark.parametrize("option", ["--api-port", "--worker-port"])
def test_taken_port(up: Up, taken_port: int, option: str) -> None:
    line = f"caracal: cannot listen on 127.0.0.1:{taken_port}: Address already in use\n"
    assert up(option, str(taken_port), "--once").end() == (2, "", line)


def test_second_up_on_the_same_directory(up: Up, stack_of: StackOf, data_dir: Path) -> None:
    first = up()
    stack_of()
    line = f"caracal: data directory {data_dir} is in use by process {first.pid}\n"
    assert up().end() == (2, "", line)
    assert (data_dir / "stack.json").exists()
    first.signal(signal.SIGTERM)
    assert first.end()[0] == 0


def test_unwritable_directory(start: Start, home: Path) -> None:
    home.chmod(0o500)
    user = as_ordinary_user()
    args = ("up", "--data-dir", str(home / "data"), "--port-base", "0")
    line = f"caracal: data directory {home / 'data'} cannot be used: Permission denied\n"
    assert start("tiny_caracal.py", *args, prefix=user).end() == (2, "", line)


def test_ordinary_user(start: Start, home: Path) -> None:
    args = ("up", "--data-dir", str(home / "data"), "--port-base", "0", "--once")
    code, out, errors = start("tiny_caracal.py", *args, prefix=as_ordinary_user()).end()
    assert (code, errors) == (0, "")
    assert len(out.splitlines()) == 5


def test_dead_service_ends_all(up: Up, stack_of: StackOf, data_dir: Path) -> None:
    running = up()
    url = stack_of()["gateway_url"]
    below = children_of(running.pid)
    with pytest.raises(http.client.RemoteDisconnected):
        get(url, "/exit")
    code, _, errors = running.end()
    assert code == 1
    assert errors.startswith("caracal: gateway died (exit code 7)")
    assert errors.count("\n") == 1
    assert not any(map(is_running, below))
    assert not (data_dir / "stack.json").exists()


@pytest.mark.chaos
def test_dead_server_ends_all(up: Up, stack_of: StackOf, data_dir: Path) -> None:
    running = up()
    stack_of()
    os.kill(int((data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0]), 9)
    code, _, errors = running.end()
    assert code == 1
    assert errors.startswith("caracal: PostgreSQL died")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("sickness", "code", "line"),
    [
        ("refuses", 2, "caracal: sts: AUDIT_DURABILITY=fsync needs appendfsync always\n"),
        ("crashes", 1, "caracal: sts died (exit code 1): RuntimeError: out of luck; see "),
    ],
)
def test_service_that_does_not_start(up: Up, sickness: str, code: int, line: str) -> None:
    found, _, errors = up("--once", TINY_SICK=json.dumps({"sts": sickness})).end()
    assert found == code
    assert errors.startswith(line)
    assert errors.count("\n") == 1


def test_service_that_lingers_is_ended(up: Up, data_dir: Path) -> None:
    assert up("--once", TINY_SICK='{"sts": "lingers"}').end()[0] == 0
    assert "stopping took longer than 1.8 s" in (data_dir / "logs" / "sts.log").read_text()


def test_bad_variable(up: Up) -> None:
    code, out, errors = up("--once", MAX_STALENESS="soon").end()
    assert (code, out) == (2, "")
    assert errors == "caracal: MAX_STALENESS: must be a duration like 500ms, 5s or 1m\n"


def test_given_servers_are_used(
    start: Start, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    args = ("up", "--data-dir", str(tmp_path / "new"), "--port-base", "0", "--once")
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    assert start("tiny_caracal.py", *args, **given).end()[0] == 0
    assert not {"postgres", "valkey"} & {path.name for path in (tmp_path / "new").iterdir()}


def test_read_models_of_an_earlier_version_are_made_anew(
    start: Start, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE zones DROP COLUMN login_flow")
        connection.execute("UPDATE read_models SET shape = 'older' WHERE projection = 'zones'")
        args = ("up", "--data-dir", str(tmp_path / "new"), "--port-base", "0", "--once")
        given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        code, said, _ = start("tiny_caracal.py", *args, **given).end()
        assert code == 0
        assert "made anew: zones" in said
        connection.execute("SELECT login_flow FROM zones")
        code, said, _ = start("tiny_caracal.py", *args, **given).end()
        assert (code, "made anew" in said) == (0, False)


def test_rebuild_without_a_name_makes_those_of_an_earlier_version(
    start: Start, database_url: str, redis_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE read_models SET shape = 'older' WHERE projection = 'grants'")
    given = serve_variables(database_url, redis_url)
    code, said, _ = start("tiny_caracal.py", "rebuild", **given).end()
    assert (code, "grants stands at position 0." in said) == (0, True)
    code, said, _ = start("tiny_caracal.py", "rebuild", **given).end()
    assert (code, said) == (0, "All read models are of this version.\n")


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_given_server_does_not_answer(
    start: Start, tmp_path: Path, database_url: str, redis_url: str, name: str
) -> None:
    nowhere = {
        "DATABASE_URL": "postgresql://caracal:secret@127.0.0.1:1/caracal",
        "REDIS_URL": "redis://:secret@127.0.0.1:1/0",
    }
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, name: nowhere[name]}
    args = ("up", "--data-dir", str(tmp_path), "--port-base", "0", "--once")
    code, out, errors = start("tiny_caracal.py", *args, **given).end()
    assert (code, out) == (2, "")
    assert errors.startswith(f"caracal: the server of {name} does not answer: ")
    assert errors.count("\n") == 1
    assert "secret" not in errors


def test_demo_once_ends_with_its_code(up: Up) -> None:
    code, out, _ = up("--demo", "--once", TINY_DEMO="3").end()
    assert code == 3
    assert "demo of http://127.0.0.1:" in out


def test_demo_then_serve(up: Up, stack_of: StackOf) -> None:
    running = up("--demo", TINY_DEMO="0")
    url = stack_of()["api_url"]
    lines = [running.line() for _ in range(6)]
    assert lines[-1].startswith("demo of ")
    assert int(get(url)) > 0
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 0


def serve_variables(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ZONE_KEK": "ab" * 32,
        "PORT": "0",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        return int(get(f"http://127.0.0.1:{port}")) > 0
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 3])
def test_serve(start: Start, database_url: str, redis_url: str, workers: int) -> None:
    port = free_port()
    args = ("serve", "api", "--workers", str(workers), "--port", str(port))
    running = start("tiny_caracal.py", *args, **serve_variables(database_url, redis_url))
    wait_until(lambda: answers(port), "the service")
    below = children_of(running.pid)
    assert len(below) == (workers if workers > 1 else 0)
    wait_until(lambda: all(map(handles_sigterm, below)), "all workers")
    running.signal(signal.SIGTERM)
    code, out, errors = running.end()
    assert (code, out) == (0, "")
    assert errors.count("Application shutdown complete") == workers
    assert not any(map(is_running, below))


def test_serve_ends_when_a_worker_dies(start: Start, database_url: str, redis_url: str) -> None:
    port = free_port()
    args = ("serve", "api", "--workers", "2", "--port", str(port))
    running = start("tiny_caracal.py", *args, **serve_variables(database_url, redis_url))
    wait_until(lambda: answers(port), "the service")
    with pytest.raises(http.client.RemoteDisconnected):
        get(f"http://127.0.0.1:{port}", "/exit")
    code, _, errors = running.end()
    assert code == 1
    assert "died (exit code 7)" in errors.splitlines()[-1] + errors


@pytest.mark.parametrize(
    ("args", "variables", "line"),
    [
        (("api",), {"ZONE_KEK": ""}, "ZONE_KEK is required"),
        (("api",), {"CARACAL_MODE": ""}, "FACTS_HMAC_KEY is required"),
        (("api",), {"TINY_SICK": '{"api": "refuses"}'}, "AUDIT_DURABILITY=fsync needs"),
        (("worker", "--workers", "2"), {}, "the worker is one process"),
    ],
)
def test_serve_refuses(
    start: Start,
    database_url: str,
    redis_url: str,
    args: tuple[str, ...],
    variables: dict[str, str],
    line: str,
) -> None:
    given = serve_variables(database_url, redis_url) | variables
    code, out, errors = start("tiny_caracal.py", "serve", *args, **given).end()
    assert (code, out) == (2, "")
    assert errors.splitlines()[-1].startswith(f"caracal: {line}")
    assert "Traceback" not in errors
