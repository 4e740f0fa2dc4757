"""A whole product under measurement: ``caracal up`` as a user starts it, limits lifted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from bench.cpu import children, name_of

LIFTED = {
    "API_V1_RATE_LIMIT_PER_MIN": "0",
    "ADMIN_AUTH_FAIL_LIMIT_PER_MIN": "0",
    "CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "0",
    "READY_RATE_LIMIT_PER_MIN": "0",
    "API_MAX_RESOURCES_PER_ZONE": "10000000",
    "COORDINATOR_RATE_LIMIT_PER_MIN": "0",
    "V1_RATE_LIMIT_PER_MIN": "0",
    "MAX_PER_ZONE": "10000000",
    "MAX_PER_APP": "10000000",
}
"""Limits only: what is counted, signed and acknowledged stays so."""

_COMMAND = Path(sys.executable).with_name("caracal")
_OWN = ("DATABASE_URL", "REDIS_URL")  # never measured against, and never filled with, a user's
_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0


class Stack:
    """One run of ``caracal up`` on a directory, free ports."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self.urls: dict[str, str] = {}
        self.pids: dict[str, int] = {}

    def start(self) -> float:
        """Start it and return after how many seconds all of it was ready.

        Raises:
            RuntimeError: it is not ready after a minute, or ended.
        """
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [_COMMAND, "up", "--port-base", "0", "--data-dir", self._data_dir],
            env=_environment(),
            stdout=subprocess.DEVNULL,
        )
        described = self._described(self._process, began)
        took = time.perf_counter() - began
        self.urls = {name: str(value) for name, value in described.items()}
        self.pids = {name_of(pid): pid for pid in children(self._process.pid)}
        return took

    def _described(self, process: subprocess.Popen[bytes], began: float) -> Mapping[str, Any]:
        file = self._data_dir / "stack.json"
        while time.perf_counter() - began < _READY_SECONDS:
            if file.exists():
                described: dict[str, Any] = json.loads(file.read_text())
                return described
            if process.poll() is not None:
                break
            time.sleep(0.005)
        raise RuntimeError(f"caracal up is not ready (exit code {process.poll()})")

    @contextmanager
    def replica(self, service: str, **more: str) -> Iterator[str]:
        """Run one more process of a service on the same servers; yield its URL."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        keys = (self._data_dir / "keys").iterdir()
        given = {f"{file.name.upper()}_FILE": str(file) for file in keys}
        given |= {name: self.urls[name.lower()] for name in (*_OWN, "ISSUER_URL", "STS_URL")}
        process = subprocess.Popen(
            [_COMMAND, "serve", service, "--port", str(port)],
            env=_environment() | given | {"CARACAL_MODE": "dev", "LOG_LEVEL": "warning"} | more,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield _ready(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """Stop it, by its own way down."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()  # all of it ends with it
            self._process.wait()
        self._process = None

    def pause(self, name: str) -> None:
        """Stop a process where it stands."""
        os.kill(self.pids[name], signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a paused process go on."""
        os.kill(self.pids[name], signal.SIGCONT)


def _ready(url: str, process: subprocess.Popen[bytes]) -> str:
    began = time.perf_counter()
    while time.perf_counter() - began < _READY_SECONDS and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready").is_success:
                return url
        time.sleep(0.05)
    raise RuntimeError(f"{url} is not ready (exit code {process.poll()})")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    return kept | LIFTED
