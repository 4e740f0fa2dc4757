"""Runs one service in this process, from its settings to its exit code."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import psycopg
import redis
import uvicorn

from caracal import garbage
from caracal.errors import StartError
from caracal.projections.schema import prepare
from caracal.services.drain import draining
from caracal.services.protocol import protocol_class
from caracal.services.proxy_headers import behind_proxy
from caracal.services.websocket import QuietWebSocket
from caracal.settings import Service, Settings
from caracal.telemetry import TraceOfRecord

ASGIApp = Callable[[Any, Any, Any], Any]
CreateApp = Callable[[Settings], ASGIApp]

BACKLOG = 2048
_log = logging.getLogger(__name__)


def app_factory(service: Service) -> CreateApp:
    """Import ``service`` and return its ``create_app(settings)``."""
    module = importlib.import_module(f"caracal.services.{service}.app")
    create_app: CreateApp = module.create_app
    return create_app


def prepare_servers(settings: Settings) -> list[str]:
    """Bring the database to this version; see that both servers answer.

    Returns:
        The read models of an earlier version: to be rebuilt before anything relies on them.

    Raises:
        StartError: one of them does not.
    """
    try:
        outdated = prepare(settings.database_url)
    except psycopg.OperationalError as error:
        raise _as_start_error(error) from error
    try:
        with redis.Redis.from_url(settings.redis_url) as client:
            client.ping()
    except redis.RedisError as error:
        raise StartError(f"the server of REDIS_URL does not answer: {error}") from error
    return outdated


def _as_start_error(error: StartError | psycopg.OperationalError) -> StartError:
    if isinstance(error, StartError):
        return error
    reason = str(error).strip().splitlines()[0]
    return StartError(f"the server of DATABASE_URL does not answer: {reason}")


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to ``host:port`` (0: a free port), not yet listening.

    Raises:
        StartError: the port is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def serve(app: ASGIApp, settings: Settings, listener: socket.socket) -> int:
    """Serve ``app`` on ``listener`` until SIGTERM or SIGINT; must be called in the main thread.

    Stops in order: ``draining`` is set, no new connections, requests in flight, the lifespan's
    end. Exits the process with 1 when that takes longer than ``SHUTDOWN_GRACE_MS``.

    Returns:
        The exit code.

    Raises:
        StartError: the lifespan refused to start.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(TraceOfRecord())
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s%(trace)s",
        handlers=[handler],
    )
    guarded = _Startup(app)
    server = _Server(_config(guarded, settings), settings.shutdown_grace_ms / 1000)
    try:
        server.run(sockets=[listener])
    except SystemExit:  # uvicorn's way to say that the start failed
        if guarded.refusal is not None:
            raise guarded.refusal from None
        return 1
    return 0


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        behind_proxy(app) if settings.trust_proxy else app,
        loop="uvloop",
        http=protocol_class(
            settings.read_header_timeout, settings.read_timeout, settings.write_timeout
        ),
        ws=QuietWebSocket if settings.service == "gateway" else "none",
        ws_max_size=settings.max_request_bytes,
        ws_per_message_deflate=False,
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=settings.service != "gateway",  # the upstream's own passes through
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(settings.idle_timeout),
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
    )


class _Server(uvicorn.Server):
    """uvicorn's, with a limit on the whole way down and an exit code instead of a signal."""

    def __init__(self, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self._watchdog = threading.Timer(grace, _overrun, [grace])
        self._watchdog.daemon = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._watchdog.start()  # a thread: it ends a process whose loop is stuck, too
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        garbage.settle()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining.set()
        await super().shutdown(sockets)
        self._watchdog.cancel()


def _overrun(grace: float) -> None:
    _log.error("stopping took longer than %g s", grace)
    logging.shutdown()
    os._exit(1)


class _Startup:
    """Keeps a ``StartError`` of the lifespan out of uvicorn's log: one line, no traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.refusal: StartError | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        failures: list[Any] = []

        async def hold_failure(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                failures.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold_failure)
        except (StartError, psycopg.OperationalError) as error:
            if isinstance(error, psycopg.OperationalError) and not failures:
                raise  # it had started
            self.refusal = _as_start_error(error)
            await send({"type": "lifespan.startup.failed", "message": self.refusal.description})
        finally:
            if self.refusal is None and failures:
                await send(failures[0])
