"""The private servers of one data directory."""

from __future__ import annotations

from pathlib import Path

from caracal.embedded.datadir import DataDir
from caracal.embedded.postgres import Postgres
from caracal.embedded.process import private_account
from caracal.embedded.valkey import Valkey


class EmbeddedServers:
    """A private PostgreSQL and Valkey with their data in one directory.

    Synchronous. Call ``start`` from a thread that lives as long as the servers shall: Linux ends
    them when it is gone, so that even kill -9 leaves no orphan.
    """

    def __init__(
        self, data_dir: Path | DataDir, *, postgres: bool = True, valkey: bool = True
    ) -> None:
        """Nothing starts yet. A ``DataDir`` is already locked, and stays so after ``stop``."""
        self._data_dir = data_dir
        self._with_postgres = postgres
        self._with_valkey = valkey
        self._directory: DataDir | None = None
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None

    def start(self) -> None:
        """Start what was asked for; answers once the servers answer.

        Raises:
            StartError: in use, unwritable, made by another engine, or a server does not come up.
        """
        given = self._data_dir
        self._directory = given if isinstance(given, DataDir) else DataDir(given)
        try:
            account = private_account(self._directory.path)
            runtime = self._directory.make_runtime()
            account.take(runtime)
            if self._with_postgres:
                self._postgres = Postgres(self._directory, runtime, account)
                self._postgres.start()
            if self._with_valkey:
                self._valkey = Valkey(self._directory, runtime, account)
                self._valkey.start()
        except BaseException:
            self.stop()
            raise

    def stop(self, patience: float = 3.0) -> None:
        """Stop both, remove the sockets, unlock the directory. May be called twice.

        Args:
            patience: seconds until a harder signal follows; there are three at most.
        """
        for server in (self._valkey, self._postgres):
            if server is not None:
                server.stop(patience)
        if self._directory is not None:
            self._directory.remove_runtime()
            if self._directory is not self._data_dir:
                self._directory.close()
            self._directory = None

    @property
    def postgres(self) -> Postgres:
        """The PostgreSQL server."""
        assert self._postgres is not None, "not started"
        return self._postgres

    @property
    def valkey(self) -> Valkey:
        """The Valkey server."""
        assert self._valkey is not None, "not started"
        return self._valkey

    @property
    def database_url(self) -> str:
        """``postgresql://`` URL of database ``caracal``, for psycopg."""
        return self.postgres.url()

    @property
    def redis_url(self) -> str:
        """``unix://`` URL of database 0, for redis-py."""
        return self.valkey.url()

    @property
    def postgres_pid(self) -> int:
        """Process id of the postmaster."""
        return self.postgres.process.pid

    @property
    def valkey_pid(self) -> int:
        """Process id of Valkey."""
        return self.valkey.process.pid

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database, if it does not exist, as a copy of ``template``; return its URL."""
        return self.postgres.make_database(name, template)

    def restart_postgres(self) -> None:
        """Start PostgreSQL again, under the same URL; stops it first if it runs."""
        self.postgres.restart()

    def restart_valkey(self) -> None:
        """Start Valkey again, under the same URL; stops it first if it runs."""
        self.valkey.restart()

    def dead(self) -> list[str]:
        """Return the names of the servers that ended without ``stop``."""
        servers = {"PostgreSQL": self._postgres, "Valkey": self._valkey}
        return [name for name, server in servers.items() if server and server.ended]
