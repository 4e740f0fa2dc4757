"""How a command gets its connection: options that all commands share, said once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from caracal.cli.connection import Cli, Flags
from caracal.cli.outcome import REFUSED, reported
from caracal.cli.running import DEFAULT_DATA_DIR

Run = Callable[..., None]

_where = partial(typer.Option, rich_help_panel="Where", show_default=False)

_path = partial(_where, parser=Path, metavar="PATH")  # typer's own reader imports pydantic

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _shared(
    *,
    json: AsJson = False,
    zone: Annotated[
        str | None,
        _where(envvar="CARACAL_ZONE", help="Zone, by id, slug or name. Else the only one."),
    ] = None,
    api_url: Annotated[
        str | None,
        _where(envvar="CARACAL_API_URL", help="Control plane. Else that of the running stack."),
    ] = None,
    token: Annotated[
        str | None,
        _where(
            envvar="CARACAL_ADMIN_TOKEN",
            help="Admin token. Others may see it here: use the variable, or the file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        _path(envvar="CARACAL_ADMIN_TOKEN_FILE", help="File with the admin token."),
    ] = None,
    coordinator_url: Annotated[
        str | None, _where(envvar="CARACAL_COORDINATOR_URL", help="Coordinator.")
    ] = None,
    coordinator_token: Annotated[
        str | None,
        _where(envvar="CARACAL_COORDINATOR_TOKEN", help="Token for the Coordinator."),
    ] = None,
    data_dir: Annotated[
        Path, _path(envvar="CARACAL_DATA_DIR", help="Data directory of the running stack.")
    ] = DEFAULT_DATA_DIR,
) -> Flags:
    return Flags(
        json=json,
        zone=zone,
        api_url=api_url or None,
        token=token or None,
        token_file=token_file,
        coordinator_url=coordinator_url or None,
        coordinator_token=coordinator_token or None,
        data_dir=data_dir,
    )


_SHARED = inspect.signature(_shared, eval_str=True).parameters
_OF_COORDINATOR = frozenset({"coordinator_url", "coordinator_token"})


def group() -> typer.Typer:
    """Return an empty group of commands."""
    app = typer.Typer(no_args_is_help=True, add_completion=False)
    app.callback()(_nothing)  # without one, typer makes a command of a group of one
    return app


def _nothing() -> None:
    pass


def single() -> typer.Typer:
    """Return what takes up one command alone."""
    return typer.Typer(add_completion=False)


def command(
    app: typer.Typer,
    name: str,
    *,
    zoned: bool = True,
    coordinator: bool = False,
    local: bool = False,
    parameters: Sequence[Parameter] | None = None,
    line: str | None = None,
) -> Callable[[Run], Run]:
    """Add ``run(cli, …)`` as a command: it gets an open ``Cli`` and its own parameters.

    Args:
        zoned: whether it works on a zone.
        coordinator: whether it talks to the Coordinator.
        local: it talks to nobody.
        parameters: its own parameters, where its signature does not say them.
        line: its line of help, where it has no docstring of its own.
    """

    def add(run: Run) -> Run:
        """Return the command, which another group may take up, too."""
        own = _own(run) if parameters is None else list(parameters)
        left_out = {name for name in _SHARED if local and name != "json"}
        left_out |= set() if zoned else {"zone"}
        left_out |= set() if coordinator else _OF_COORDINATOR
        shared = [each for each in _SHARED.values() if each.name not in left_out]
        names = {parameter.name for parameter in shared}

        def called(**given: Any) -> None:
            _write_out_what_cannot_be_said()
            flags = _shared(**{each: given.pop(each) for each in names})
            with reported(), Cli(flags).open() as cli:
                run(cli, **given)

        _describe(called, [*own, *shared], line or inspect.getdoc(run))
        app.command(name)(called)
        return called

    return add


def _write_out_what_cannot_be_said() -> None:
    """Let no character stop a command whose output has another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _own(run: Run) -> list[Parameter]:
    return list(inspect.signature(run, eval_str=True).parameters.values())[1:]


def _describe(called: Run, parameters: Sequence[Parameter], line: str | None) -> None:
    """Give ``called`` the parameters that typer reads off a function."""
    keyword_only = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
    described: Any = called
    described.__signature__ = inspect.Signature(keyword_only)
    described.__annotations__ = {each.name: each.annotation for each in parameters}
    described.__doc__ = line


def sure(sentence: str, yes: bool) -> None:
    """Ask on a terminal whether to go on; a script has decided already.

    Raises:
        typer.Exit: no.
    """
    if yes or not typer.get_text_stream("stdin").isatty():
        return
    if not typer.confirm(f"{sentence} Go on?", err=True):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(REFUSED)
