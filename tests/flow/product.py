"""The whole product on servers of its own: every service a process that can be killed by its id."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from caracal.embedded import EmbeddedServers
from tests.backbone import FACTS_KEY
from tests.flow.nursery import HOST, Nursery

OPERATOR = "operator-token"
AUDIT_KEY = b"\x77" * 32
_LIMIT = 30.0  # s, until a service answers or a process is gone
_KEYS = {
    "FACTS_HMAC_KEY": FACTS_KEY.hex(),
    "STREAMS_HMAC_KEY": (b"\x42" * 32).hex(),
    "AUDIT_HMAC_KEY": AUDIT_KEY.hex(),
    "GATEWAY_STS_HMAC_KEY": "99" * 32,
    "ZONE_KEK": "12" * 32,
    "CARACAL_ADMIN_TOKEN": OPERATOR,
}
_LIMITS = (
    "API_V1_RATE_LIMIT_PER_MIN",
    "ADMIN_AUTH_FAIL_LIMIT_PER_MIN",
    "CLIENT_AUTH_FAIL_LIMIT_PER_MIN",
    "READY_RATE_LIMIT_PER_MIN",
    "COORDINATOR_RATE_LIMIT_PER_MIN",
    "V1_RATE_LIMIT_PER_MIN",
    "VERIFY_RATE_LIMIT_PER_MIN",
    "INVOCATION_RATE_LIMIT_PER_MIN",
)
PROCESSES = {
    "worker": "worker",
    "worker2": "worker",
    "api": "api",
    "api2": "api",
    "sts": "sts",
    "sts2": "sts",
    "gateway": "gateway",
    "coordinator": "coordinator",
    "coordinator2": "coordinator",
    "siem": "siem",
    "siem2": "siem",
}
"""Names of the processes, and which service each is."""


class Product:
    """Servers, and the processes of :data:`PROCESSES`; started one by one."""

    def __init__(
        self, servers: EmbeddedServers, nursery: Nursery, logs: Path, **settings: str
    ) -> None:
        self.servers, self.directory = servers, logs
        self._nursery = nursery
        self._ports = {name: nursery.reserve() for name in PROCESSES}
        self._pids: dict[str, int] = {}
        self.settings = self._common() | settings
        self.own: dict[str, dict[str, str]] = {}
        """Settings of one process alone, by its name."""

    def _common(self) -> dict[str, str]:
        return {
            **_KEYS,
            **dict.fromkeys(_LIMITS, "0"),
            "CARACAL_MODE": "dev",
            "HOST": HOST,
            "DATABASE_URL": self.servers.database_url,
            "REDIS_URL": self.servers.redis_url,
            "ISSUER_URL": self.url("sts"),
            "STS_URL": self.url("sts"),
            "ALLOW_PRIVATE_UPSTREAMS": "loopback",
            "AUDIT_CLAIM_IDLE_SECS": "1",
        }

    def url(self, name: str) -> str:
        """Return where a process listens, or will."""
        return f"http://{HOST}:{self._ports[name]}"

    @property
    def running(self) -> list[str]:
        """Names of the processes that were started and not killed since."""
        return list(self._pids)

    def start(self, *names: str) -> None:
        """Start processes; they are not ready yet."""
        for name in names:
            settings = self.settings | self.own.get(name, {}) | {"PORT": str(self._ports[name])}
            self._pids[name] = self._nursery.fork(PROCESSES[name], settings, self._log(name))

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def kill(self, *names: str) -> None:
        """End processes by SIGKILL; they are gone when this returns."""
        alive = self._nursery.running()
        for name in names:
            pid = self._pids.pop(name)
            if str(self._log(name)) in alive:  # else its id may be another's by now
                os.kill(pid, signal.SIGKILL)
        limit = time.monotonic() + _LIMIT
        logs = {str(self._log(name)) for name in names}
        while logs & self._nursery.running():
            assert time.monotonic() < limit, f"{names} cannot be killed"
            time.sleep(0.002)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop a process where it stands, for as long as the context lasts."""
        os.kill(self._pids[name], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pids[name], signal.SIGCONT)

    def hang_up(self, name: str) -> None:
        """Send SIGHUP to a process."""
        os.kill(self._pids[name], signal.SIGHUP)

    def kill_redis(self) -> None:
        """End Redis by SIGKILL; it is not reaped before ``servers.restart_valkey``."""
        os.kill(self.servers.valkey_pid, signal.SIGKILL)

    def kill_postgres(self) -> None:
        """End the postmaster by SIGKILL: its children end as soon as they notice."""
        os.kill(self.servers.postgres_pid, signal.SIGKILL)

    def assert_alive(self) -> None:
        """Check that nothing has ended by itself."""
        died = {str(self._log(name)) for name in self._pids} - self._nursery.running()
        assert not died, {log: Path(log).read_text()[-2000:] for log in died}

    async def ready(self, *names: str) -> None:
        """Wait until ``/ready`` of the named, or of all that run, says 200."""
        async with httpx.AsyncClient(verify=False, timeout=5) as client:
            await asyncio.gather(*(self._ready(client, name) for name in names or self.running))

    async def _ready(self, client: httpx.AsyncClient, name: str) -> None:
        limit, answer = time.monotonic() + _LIMIT, "no answer"
        while answer != "200":
            self.assert_alive()
            assert time.monotonic() < limit, f"{name} does not get ready: {answer}"
            await asyncio.sleep(0.02)
            answer = await _asked(client, self.url(name))

    async def readiness(self, name: str) -> tuple[int, Mapping[str, object]]:
        """Return status and body of ``/ready``."""
        async with httpx.AsyncClient(verify=False, timeout=5) as client:
            answer = await client.get(f"{self.url(name)}/ready")
        return answer.status_code, answer.json()


async def _asked(client: httpx.AsyncClient, url: str) -> str:
    try:
        answer = await client.get(f"{url}/ready")
    except httpx.TransportError as error:
        return type(error).__name__
    return "200" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
