"""A private PostgreSQL on a unix socket."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from signal import SIGINT, SIGQUIT
from urllib.parse import quote

import psycopg
from psycopg import sql

from caracal.embedded import engines
from caracal.embedded.datadir import DataDir
from caracal.embedded.process import (
    READY_LIMIT,
    Account,
    await_ready,
    end,
    last_line,
    named_account,
    spawn,
)
from caracal.errors import StartError

_USER = "caracal"
_DATABASE = "caracal"
_INITDB = (
    f"--username={_USER}",
    "--locale=C",  # whatever LANG names may not be installed
    "--encoding=UTF8",
    "--auth=scram-sha-256",
    "--data-checksums",
)
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # containers give /dev/shm 64 MB
    "log_checkpoints": "off",
    "jit": "off",  # short queries only
}
_ORPHANS = "still in use"  # backends of a killed server hold its shared memory for a moment


class Postgres:
    """``DIR/postgres``: made on first start, then served until ``stop``."""

    def __init__(self, directory: DataDir, runtime: Path, account: Account) -> None:
        self._directory = directory
        self._runtime = runtime
        self._home = directory.path / "postgres"
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Open the cluster, or make it.

        Raises:
            StartError: no binaries, data of another engine, or the server does not come up.
        """
        self._engine = engines.postgres(self._runtime, self._account)
        self._discard_half_made()
        if not self._home.exists():
            self._make_cluster()
        self._engine.check_marker(self._home / "engine")
        self._account.claim(self._home / "data")
        # We hold the lock that every server process inherits: no server runs here, whatever a
        # left pid file says (process ids come back, in containers soon).
        (self._home / "data" / "postmaster.pid").unlink(missing_ok=True)
        self.restart()
        self._engine.write_marker(self._home / "engine")

    def restart(self) -> None:
        """Start the server again on the same socket, after it ended in whatever way."""
        self.stop()
        limit = time.monotonic() + READY_LIMIT
        while True:
            try:
                return self._run()
            except StartError:
                log = self._directory.log_path("postgres")
                if time.monotonic() > limit or _ORPHANS not in log.read_text(errors="replace"):
                    raise

    def _run(self) -> None:
        options = {**_OPTIONS, "unix_socket_directories": str(self._runtime)}
        settings = [f"--{name}={value}" for name, value in options.items()]
        with self._directory.open_log("postgres") as log:
            self._process = spawn(
                [self._engine.binary, "-D", _here(self._home / "data"), *settings],
                cwd=self._home / "data",
                account=self._account,
                die_by=SIGINT,
                log=log,
                keep=[self._directory.lock],
            )
        await_ready(
            "PostgreSQL", self._process, self._answers, self._directory.log_path("postgres")
        )

    def _answers(self) -> bool:
        try:
            self.make_database(_DATABASE)
        except psycopg.OperationalError:
            return False
        return True

    def make_database(self, name: str, template: str = "template1") -> str:
        """Make database ``name`` unless it exists; return its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if exists.fetchone() is None:
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def url(self, database: str = _DATABASE) -> str:
        """Return the URL of ``database``, password included."""
        password = (self._home / "password").read_text()
        return f"postgresql://{_USER}:{password}@/{database}?host={quote(str(self._runtime), '')}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running server."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def ended(self) -> bool:
        """The server ended by itself, or somebody ended it."""
        return self._process is not None and self._process.poll() is not None

    def stop(self, patience: float = 3.0) -> None:
        """End the server with a checkpoint (fast shutdown); nothing happens if it is not there."""
        if self._process is not None:
            end(self._process, SIGINT, SIGQUIT, patience=patience)
            self._process = None

    def _discard_half_made(self) -> None:
        for left in self._directory.path.glob("postgres.making-*"):
            shutil.rmtree(left)

    def _make_cluster(self) -> None:
        """Make the cluster beside its place and move it there complete, or leave nothing."""
        making = Path(tempfile.mkdtemp(prefix="postgres.making-", dir=self._directory.path))
        try:
            (making / "data").mkdir(mode=0o700)
            _write_private(making / "password", secrets.token_hex(24))
            self._engine.write_marker(making / "engine")
            self._initdb(making)
            making.rename(self._home)
        except BaseException:
            shutil.rmtree(making)
            raise

    def _initdb(self, making: Path) -> None:
        maker, log = named_account(), self._directory.log_path("initdb")
        data, password = making / "data", self._runtime / "password"
        initdb = self._engine.binary.with_name("initdb")
        _write_private(password, (making / "password").read_text())
        maker.take(data)
        maker.take(self._runtime)
        with self._directory.open_log("initdb") as output:
            process = spawn(
                [initdb, *_INITDB, f"--pwfile={password}", "-D", _here(data)],
                cwd=data,
                account=maker,
                die_by=SIGQUIT,
                log=output,
                keep=[self._directory.lock],
            )
        try:
            failed = process.wait() != 0
        finally:
            end(process, SIGINT, patience=3.0)
        self._account.take(data)
        self._account.take(self._runtime)
        password.unlink()
        if failed:
            raise StartError(f"initdb failed: {last_line(log, 'error')}")


def _here(data: Path) -> str:
    """Name the working directory so that a user shut out of its parents can still open it."""
    return "/proc/self/cwd" if sys.platform == "linux" else str(data)


def _write_private(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
