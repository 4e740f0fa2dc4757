"""A private Valkey, which speaks the Redis protocol, on a unix socket."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path
from signal import SIGTERM

import redis

from caracal.embedded import engines
from caracal.embedded.datadir import DataDir
from caracal.embedded.process import Account, await_ready, end, spawn

_CONFIG = {
    "port": "0",
    "unixsocketperm": "700",
    "dir": ".",
    "databases": "64",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory-policy": "noeviction",
}


class Valkey:
    """``DIR/valkey``: served until ``stop``."""

    def __init__(self, directory: DataDir, runtime: Path, account: Account) -> None:
        self._directory = directory
        self._socket = runtime / "valkey.sock"
        self._home = directory.path / "valkey"
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Open the data, or begin with none.

        Raises:
            StartError: no binary, data of another engine, or the server does not come up.
        """
        self._engine = engines.valkey(self._socket.parent, self._account)
        data = self._home / "data"
        if data.exists():
            self._engine.check_marker(self._home / "engine")
        self._home.mkdir(mode=0o700, exist_ok=True)
        self._engine.write_marker(self._home / "engine")
        data.mkdir(mode=0o700, exist_ok=True)
        self._account.claim(data)
        self._password = secrets.token_hex(24)
        self.restart()

    def restart(self) -> None:
        """Start the server again on the same socket, after it ended in whatever way."""
        self.stop()
        with self._directory.open_log("valkey") as log:
            self._process = spawn(
                [self._engine.binary, "-"],  # configured by stdin: arguments are public
                cwd=self._home / "data",
                account=self._account,
                die_by=SIGTERM,
                log=log,
                stdin=subprocess.PIPE,
                keep=[self._directory.lock],
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(self._config().encode())
        await_ready("Valkey", self._process, self._answers, self._directory.log_path("valkey"))

    def _config(self) -> str:
        config = {**_CONFIG, "unixsocket": str(self._socket), "requirepass": self._password}
        return "".join(f"{name} {value}\n" for name, value in config.items())

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url()) as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also: still loading
            return False

    def url(self, database: int = 0) -> str:
        """Return the URL of ``database`` (0 to 63), password included."""
        return f"unix://:{self._password}@{self._socket}?db={database}"

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
        """End the server with all written; nothing happens if it is not there."""
        if self._process is not None:
            end(self._process, SIGTERM, patience=patience)
            self._process = None
