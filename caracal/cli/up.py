"""``caracal up``: the whole product on one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from caracal.cli.running import DEFAULT_DATA_DIR
from caracal.cli.stack import Died, Options, Stack
from caracal.cli.stack_settings import is_given
from caracal.errors import StartError
from caracal.settings import PORTS, SERVICES, Service

Port = Annotated[int | None, typer.Option(min=0, max=65535, show_default=False)]


def up(
    data_dir: Annotated[
        Path, typer.Option(envvar="CARACAL_DATA_DIR", help="Where all data is kept.")
    ] = DEFAULT_DATA_DIR,
    port_base: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65530,
            help="First port of api, sts, coordinator, gateway, worker, siem. 0: free ports.",
            show_default=False,
        ),
    ] = None,
    api_port: Port = None,
    sts_port: Port = None,
    coordinator_port: Port = None,
    gateway_port: Port = None,
    worker_port: Port = None,
    siem_port: Port = None,
    demo: Annotated[bool, typer.Option("--demo", help="Run the demo once all is ready.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when ready, or after the demo with its exit code.")
    ] = False,
) -> None:
    """Run everything on this machine: own servers unless DATABASE_URL, REDIS_URL name others."""
    own = (api_port, sts_port, coordinator_port, gateway_port, worker_port, siem_port)
    ports = {
        name: default_port(name, port_base) if port is None else port
        for name, port in zip(PORTS, own, strict=True)
        if name in SERVICES or is_given("SIEM_SINK_URL")
    }
    raise typer.Exit(exit_code(Stack(Options(data_dir, ports, demo, once)).run))


def default_port(service: Service, base: int | None) -> int:
    """Return the usual port, or the one that ``--port-base`` asks for."""
    if base is None:
        return PORTS[service]
    return base and base + list(PORTS).index(service)


def exit_code(run: Callable[[], int]) -> int:
    """Return what ``run`` returns; what stops it is one line: 2 not started, 1 ended too early."""
    try:
        return run()
    except (StartError, Died) as error:
        line = error.description if isinstance(error, StartError) else str(error)
        typer.echo(f"caracal: {' '.join(line.split())}", err=True)
        return 2 if isinstance(error, StartError) else 1
