"""The embedded servers: how they run, what they survive, what they refuse."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from caracal.embedded import DataDir, EmbeddedServers, engines, postgres
from caracal.errors import StartError
from tests.embedded.conftest import Start, as_ordinary_user, is_running, uid_of, wait_until


def query(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def runtime_of(directory: Path) -> Path:
    return Path((directory / "runtime").read_text())


@pytest.fixture(scope="module")
def untouched(
    _stopped_servers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServers]:
    """Servers as the product starts them; those that the tests share are told more."""
    directory = tmp_path_factory.mktemp("untouched") / "data"
    shutil.copytree(_stopped_servers, directory)
    own = EmbeddedServers(directory)
    own.start()
    yield own
    own.stop()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", ""),
        ("max_connections", "200"),
    ],
)
def test_postgres_is_set_up(untouched: EmbeddedServers, setting: str, value: str) -> None:
    if setting == "lc_collate":
        found = query(untouched.database_url, "SELECT datcollate FROM pg_database LIMIT 1")
    else:
        found = query(untouched.database_url, f"SELECT current_setting('{setting}')")
    assert found == value


@pytest.mark.parametrize(
    ("setting", "value"),
    [("appendonly", "yes"), ("maxmemory-policy", "noeviction"), ("port", "0"), ("databases", "64")],
)
def test_valkey_is_set_up(servers: EmbeddedServers, setting: str, value: str) -> None:
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.config_get(setting) == {setting: value}


def test_nobody_comes_in_without_the_password(servers: EmbeddedServers) -> None:
    secret = servers.database_url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(servers.database_url.replace(secret, "guess"), "SELECT 1")
    secret = servers.redis_url.split(":")[2].split("@")[0]
    with (
        redis.Redis.from_url(servers.redis_url.replace(secret, "guess")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
    command_line = Path(f"/proc/{servers.valkey_pid}/cmdline").read_text()
    assert secret not in command_line


def test_servers_never_run_as_root(servers: EmbeddedServers) -> None:
    for pid in (servers.postgres_pid, servers.valkey_pid):
        assert uid_of(pid) != 0
        assert os.geteuid() in (0, uid_of(pid))


def test_fresh_database_for_each_test(database_url: str, redis_url: str) -> None:
    execute(database_url, "CREATE TABLE only_here ()")
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("only", "here")


def test_another_fresh_database(database_url: str, redis_url: str) -> None:
    assert query(database_url, "SELECT to_regclass('only_here')") is None
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


@pytest.mark.chaos
def test_what_was_acknowledged_survives_kill_9(own_servers: EmbeddedServers) -> None:
    execute(own_servers.database_url, "CREATE TABLE kept (n int)")
    with redis.Redis.from_url(own_servers.redis_url) as client:
        for n in range(3):
            execute(own_servers.database_url, f"INSERT INTO kept VALUES ({n})")
            client.set(f"kept {n}", n)
            os.kill(own_servers.postgres_pid, signal.SIGKILL)
            os.kill(own_servers.valkey_pid, signal.SIGKILL)
            wait_until(lambda: own_servers.dead() == ["PostgreSQL", "Valkey"], "both dead")
            own_servers.restart_postgres()
            own_servers.restart_valkey()
            assert own_servers.dead() == []
            assert query(own_servers.database_url, "SELECT count(*) FROM kept") == n + 1
            assert client.dbsize() == n + 1


def test_data_outlives_a_stop_and_nothing_else_does(own_servers: EmbeddedServers) -> None:
    execute(own_servers.database_url, "CREATE TABLE kept AS SELECT 1 AS n")
    runtime = Path(own_servers.redis_url.split("@")[1]).parent
    pids = own_servers.postgres_pid, own_servers.valkey_pid
    own_servers.stop()
    own_servers.stop()
    assert not runtime.exists()
    assert not any(map(is_running, pids))
    own_servers.start()
    assert query(own_servers.database_url, "SELECT n FROM kept") == 1


def test_one_owner_at_a_time(own_servers: EmbeddedServers, tmp_path: Path) -> None:
    second = EmbeddedServers(tmp_path / "own-servers")
    with pytest.raises(StartError, match=f"in use by process {os.getpid()}"):
        second.start()
    assert query(own_servers.database_url, "SELECT 1") == 1


@pytest.mark.chaos
def test_kill_9_of_the_owner_leaves_no_orphan(data_dir: Path, start: Start) -> None:
    owner = start("owner.py", str(data_dir))
    *pids, database_url, _ = owner.line().split()
    execute(database_url, "CREATE TABLE kept AS SELECT 1 AS n")
    runtime = runtime_of(data_dir)
    owner.signal(signal.SIGKILL)
    owner.end()
    again = EmbeddedServers(data_dir)  # at once: it waits for the servers of the dead to end
    again.start()
    try:
        assert not any(is_running(int(pid)) for pid in pids)
        assert not runtime.exists()
        assert query(again.database_url, "SELECT n FROM kept") == 1
    finally:
        again.stop()


@pytest.mark.chaos
def test_half_made_cluster_is_thrown_away(tmp_path: Path, start: Start) -> None:
    owner = start("owner.py", str(tmp_path))
    wait_until(lambda: list(tmp_path.glob("postgres.making-*/data/base")), "initdb at work")
    owner.signal(signal.SIGKILL)
    owner.end()
    assert not (tmp_path / "postgres").exists()
    again = EmbeddedServers(tmp_path)
    again.start()
    try:
        assert query(again.database_url, "SELECT 1") == 1
        assert not list(tmp_path.glob("postgres.making-*"))
    finally:
        again.stop()


def test_failed_initdb_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_INITDB", ("--encoding=KLINGON",))
    with pytest.raises(StartError, match=r"initdb failed: .*KLINGON"):
        EmbeddedServers(tmp_path).start()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "logs"]
    DataDir(tmp_path).close()


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_data_of_another_engine_is_refused(data_dir: Path, server: str) -> None:
    (data_dir / server / "engine").write_text("redis 7.0.15\n")
    with pytest.raises(StartError, match=rf"{server} was written by redis 7.0.15"):
        EmbeddedServers(data_dir).start()
    assert (data_dir / server / "engine").read_text() == "redis 7.0.15\n"


@pytest.mark.parametrize(
    ("found", "good"),
    [
        ("valkey 9.1.2", True),
        ("valkey 9.0.7", True),
        ("valkey 9.1.3", False),
        ("valkey 8.9.9", False),
        ("valkey 10.0.0", False),
        ("redis 9.1.2", False),
        ("", False),
    ],
)
def test_marker(tmp_path: Path, found: str, good: bool) -> None:
    engine, marker = engines.Engine("valkey", (9, 1, 2), tmp_path), tmp_path / "engine"
    marker.write_text(found)
    if good:
        engine.check_marker(marker)
    else:
        with pytest.raises(StartError, match=r"valkey 9\.1\.2 must not open it"):
            engine.check_marker(marker)


def test_data_without_marker_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres" / "engine").unlink()
    with pytest.raises(StartError, match="an unknown engine"):
        EmbeddedServers(data_dir).start()


def test_pid_file_of_a_dead_server_is_no_hindrance(own_servers: EmbeddedServers) -> None:
    """Process ids come back: here, as that of a living process of the same user."""
    own_servers.postgres.stop()
    data = Path(own_servers.valkey.process.args[8]).parents[1] / "postgres" / "data"  # type: ignore
    (data / "postmaster.pid").write_text(f"{own_servers.valkey_pid}\n{data}\n")
    own_servers.postgres.start()
    assert query(own_servers.database_url, "SELECT 1") == 1


def test_unreachable_binaries_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_reachable", lambda binary, account: False)
    servers = EmbeddedServers(tmp_path)
    servers.start()
    try:
        assert query(servers.database_url, "SELECT 1") == 1
        runtime = runtime_of(tmp_path)
        for pid in (servers.postgres_pid, servers.valkey_pid):
            assert Path(f"/proc/{pid}/exe").resolve().is_relative_to(runtime)
    finally:
        servers.stop()


def test_sockets_have_a_short_path(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    servers = EmbeddedServers(data_dir)
    servers.start()
    assert query(servers.database_url, "SELECT 1") == 1
    servers.stop()


def test_unusable_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be used: Not a directory"):
        EmbeddedServers(tmp_path / "file" / "data").start()


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r'pip install "caracal\[embedded\]"'):
        EmbeddedServers(tmp_path).start()


def test_ordinary_user(home: Path, start: Start) -> None:
    owner = start("owner.py", str(home / "data"), prefix=as_ordinary_user())
    words = owner.line().split()
    assert words, owner.end()
    *pids, database_url, redis_url = words
    assert [uid_of(int(pid)) for pid in pids] == [home.stat().st_uid] * 2
    assert query(database_url, "SELECT 1") == 1
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    owner.signal(signal.SIGTERM)
    assert owner.end() == (0, "", "")

    # root changes no ownership, so that the owner can go on with it (as a user: the same again)
    servers = EmbeddedServers(home / "data")
    servers.start()
    try:
        assert uid_of(servers.postgres_pid) == home.stat().st_uid
    finally:
        servers.stop()
