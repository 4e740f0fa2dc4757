"""Everything on one machine: servers, the services, and their way down.

The parent imports once and forks each service: five interpreters would import five times. It
never has a thread or an event loop itself; the demo, too, is a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from caracal.cli.processes import Children, StopRequested, ignore_stop_signals, stop_signals
from caracal.cli.ready import await_ready
from caracal.cli.running import BESIDE
from caracal.cli.stack_settings import (
    HOST,
    is_given,
    settings_of_stack,
    stack_json,
    url,
    write_private,
    write_stack_json,
)
from caracal.cli.watchdog import POLL, Watchdog
from caracal.embedded import DataDir, EmbeddedServers
from caracal.embedded.process import last_line
from caracal.errors import StartError
from caracal.projections import PROJECTIONS
from caracal.projections.rebuild import rebuild
from caracal.services.run import (
    BACKLOG,
    CreateApp,
    app_factory,
    bind,
    prepare_servers,
    serve,
)
from caracal.settings import Service, Settings

_WAY_DOWN = (
    ("demo", "rebuild"),
    ("gateway",),
    ("sts", "coordinator", "api"),
    ("worker", "siem"),
)
_STEP_DOWN = 2.0  # s for each of these; the sum and the servers stay below ten
_ALL_DOWN = 9.0  # s
_FAULT = r"^[\w.]+(Error|Exception)\b"  # the last line of a traceback
REFUSED = 2
"""Exit code of a process that raised StartError."""

Demo = Callable[[dict[str, str | int]], int]
Create = Callable[[Service], CreateApp]


@dataclass(frozen=True)
class Options:
    """What the command line says; port 0 is a free one."""

    data_dir: Path
    ports: Mapping[Service, int]
    demo: bool = False
    once: bool = False


class Stack:
    """One ``caracal up``: from the lock on its directory to its exit code."""

    def __init__(self, options: Options, create: Create = app_factory) -> None:
        self._options = options
        self._create = create
        self._children = Children()
        self._listeners: dict[Service, socket.socket] = {}
        self._settings: dict[Service, Settings] = {}
        self._watchdog: Watchdog | None = None
        self._demo: Demo | None = None
        self._directory: DataDir | None = None
        self._servers: EmbeddedServers | None = None

    def run(self) -> int:
        """Start all, serve until told to stop, stop all; return the exit code.

        Raises:
            StartError: it cannot start like this.
        """
        with stop_signals():
            try:
                self._directory = DataDir(self._options.data_dir)
                self._start(self._directory)
                return self._watch(self._directory)
            except StopRequested:
                return 0
            finally:
                ignore_stop_signals()
                self._stop()

    def _start(self, directory: DataDir) -> None:
        _forget(directory)
        for service, port in self._options.ports.items():
            self._listeners[service] = _listen(port)
        factories = {service: self._create(service) for service in self._options.ports}
        self._demo = _import_demo() if self._options.demo else None
        ports = {name: listener.getsockname()[1] for name, listener in self._listeners.items()}
        given = self._start_servers(directory)
        self._settings = settings_of_stack(directory.path / "keys", ports, given)
        self._make_anew(directory, prepare_servers(self._settings["api"]))
        gc.freeze()  # collecting in the children would write to, and so copy, every shared page
        limit = self._settings["sts"].policy_eval_timeout_ms / 1000
        self._watchdog = Watchdog(self._children, limit)
        for service, create_app in factories.items():
            directory.open_log(service).close()
            log, work = directory.log_path(service), self._work(service, create_app)
            self._watchdog.fork(service, work, log)
        self._close_listeners(but="sts")  # it may be started again, and calls wait for it
        for service, settings in self._settings.items():
            await_ready(service, url(settings), lambda: self._check(directory))
        self._announce(directory)

    def _make_anew(self, directory: DataDir, names: Sequence[str]) -> None:
        """Make read models of an earlier version anew, before anything relies on them."""
        if not names:
            return
        typer.echo(f"caracal: read models of an earlier version, made anew: {', '.join(names)}")
        database_url = self._settings["api"].database_url

        def work() -> int:
            for projection in PROJECTIONS:
                if projection.name in names:
                    asyncio.run(rebuild(database_url, projection))
            return 0

        with directory.open_log("rebuild") as log:
            self._children.fork("rebuild", work, log)
        while "rebuild" in self._children.running():
            time.sleep(POLL)
        if code := self._children.codes.pop("rebuild"):
            log_path = directory.log_path("rebuild")
            raise Died(f"rebuild died (exit code {code}): {last_line(log_path, _FAULT)}")

    def _start_servers(self, directory: DataDir) -> dict[str, str]:
        """Start those that no variable names; return the variables that name them."""
        needed = [name for name in ("DATABASE_URL", "REDIS_URL") if not is_given(name)]
        if not needed:
            return {}
        self._servers = servers = EmbeddedServers(
            directory, postgres="DATABASE_URL" in needed, valkey="REDIS_URL" in needed
        )
        servers.start()
        return {name: getattr(servers, name.lower()) for name in needed}

    def _work(self, service: Service, create_app: CreateApp) -> Callable[[], int]:
        settings, listener = self._settings[service], self._listeners[service]

        def work() -> int:
            for other, its_listener in self._listeners.items():
                if other != service:
                    its_listener.close()
            return serve(create_app(settings), settings, listener)

        return work

    def _announce(self, directory: DataDir) -> None:
        described = stack_json(self._settings, directory.path)
        for service, settings in self._settings.items():
            if (name := f"{service}_url") in BESIDE:
                write_private(directory.path / name, url(settings))
        write_stack_json(directory.path / "stack.json", described)
        console = Console(highlight=False, soft_wrap=True)
        for service, settings in self._settings.items():
            console.print(f"[bold]{service:<12}[/bold] {url(settings)}")
        if self._demo is not None:
            demo = self._demo
            self._children.fork("demo", lambda: demo(described))

    def _watch(self, directory: DataDir) -> int:
        """Return when there is nothing left to wait for: the exit code."""
        while not self._options.once or self._demo is not None:
            self._check(directory)
            code = self._children.codes.pop("demo", None)
            if code is not None and self._options.once:
                return code
            if code:
                typer.echo(f"caracal: the demo failed (exit code {code})", err=True)
            time.sleep(POLL)
        return 0

    def _check(self, directory: DataDir) -> None:
        """Raise if a part of the stack has died.

        Raises:
            StartError: a service said why it must not run.
            Died: any other end.
        """
        if self._watchdog is not None:
            self._watchdog.look()
        for name, code in self._children.codes.items():
            log = directory.log_path(name)
            if name != "demo" and code == REFUSED:
                raise StartError(f"{name}: {last_line(log).removeprefix('caracal: ')}")
            if name != "demo":
                raise Died(f"{name} died (exit code {code}): {last_line(log, _FAULT)}; see {log}")
        for server in self._servers.dead() if self._servers else ():
            raise Died(f"{server} died; see {directory.path / 'logs'}")

    def _stop(self) -> None:
        limit = time.monotonic() + _ALL_DOWN
        self._close_listeners()
        if self._directory is None:
            return
        _forget(self._directory)
        for names in _WAY_DOWN:
            for name in self._children.stop(names, _STEP_DOWN):
                typer.echo(f"caracal: {name} was killed: it did not stop in time", err=True)
        if self._servers is not None:
            self._servers.stop(patience=max(1.0, (limit - time.monotonic()) / 3))
        self._directory.close()

    def _close_listeners(self, but: str = "") -> None:
        for service, listener in self._listeners.items():
            if service != but:
                listener.close()


class Died(Exception):
    """A process of the running stack ended by itself."""


def _forget(directory: DataDir) -> None:
    """Remove what says where the stack is; one that was killed has left it."""
    for name in ("stack.json", *BESIDE):
        (directory.path / name).unlink(missing_ok=True)


def _listen(port: int) -> socket.socket:
    """Take ``port`` for good: two stacks can both bind a port on which nobody listens yet."""
    listener = bind(HOST, port)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    return listener


def _import_demo() -> Demo:
    try:
        demo: Demo = importlib.import_module("caracal.demo").run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("caracal"):
            raise
        raise StartError('the demo is not installed: pip install "caracal[demo]"') from error
    return demo
