"""``caracal serve``: one service, on given servers."""

from __future__ import annotations

import signal
import socket
import time
from typing import Annotated

import typer

from caracal.cli.processes import Children, StopRequested, ignore_stop_signals, stop_signals
from caracal.cli.stack import REFUSED, Died
from caracal.cli.up import exit_code
from caracal.cli.watchdog import POLL, Watchdog
from caracal.errors import StartError
from caracal.services import run
from caracal.settings import Service, Settings, load_settings

_KILL_AFTER = 1.0  # s beyond the grace period, in which a process ends itself


def serve(
    service: Annotated[Service, typer.Argument(help="Which one.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes.")] = 1,
    host: Annotated[str | None, typer.Option(help="Goes before HOST.", show_default=False)] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Goes before PORT.", show_default=False),
    ] = None,
) -> None:
    """Run one service; every other setting is an environment variable."""
    given = {"HOST": host, "PORT": None if port is None else str(port)}
    overrides = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(exit_code(lambda: _serve(service, workers, overrides)))


def _serve(service: Service, workers: int, overrides: dict[str, str]) -> int:
    if service in ("worker", "siem") and workers > 1:
        raise StartError(f"the {service} is one process; start another one beside it")
    settings = load_settings(service, overrides)
    listener = run.bind(settings.host, settings.port)
    create_app = run.app_factory(service)
    if service in ("api", "worker"):  # the two that may hold the rights of the schema's owner
        for name in run.prepare_servers(settings):
            typer.echo(f"caracal: read model {name} is outdated: caracal rebuild", err=True)
    if workers == 1 and service != "sts":
        return run.serve(create_app(settings), settings, listener)
    return _serve_many(create_app, settings, listener, workers)


def _serve_many(
    create_app: run.CreateApp, settings: Settings, listener: socket.socket, workers: int
) -> int:
    """Serve from processes on one socket, under a watchdog; if one ends by itself, all stop."""
    children = Children()
    watchdog = Watchdog(children, settings.policy_eval_timeout_ms / 1000)
    names = [f"{settings.service} {number}" for number in range(1, workers + 1)]
    with stop_signals():
        try:
            for name in names:
                watchdog.fork(name, lambda: run.serve(create_app(settings), settings, listener))
            while not children.codes:
                time.sleep(POLL)
                watchdog.look()
            return _ended(*children.codes.popitem())
        except StopRequested:
            pass
        finally:
            ignore_stop_signals()
            listener.close()
            children.stop(names, settings.shutdown_grace_ms / 1000 + _KILL_AFTER)
    return int(any(code not in (0, -signal.SIGTERM) for code in children.codes.values()))


def _ended(name: str, code: int) -> int:
    if code == REFUSED:  # and has said why
        return code
    raise Died(f"{name} died (exit code {code})")
