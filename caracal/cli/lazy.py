"""Commands that are imported when they are called: the help of one costs only its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class Place:
    """Where a command stands.

    Args:
        where: ``module:name`` below ``caracal.cli``, a function or a ``typer.Typer``.
        help: its line in the list of commands; all that is known of it before it is called.
        panel: the heading under which that line stands.
    """

    where: str
    help: str
    panel: str

    def line(self, name: str) -> Any:
        """Return what lists of commands show: its name and line."""
        return TyperCommand(name, help=self.help, rich_help_panel=self.panel)

    def load(self, name: str) -> Any:
        """Import it."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(f"caracal.cli.{module}"), attribute)
        command = get_command(found if isinstance(found, typer.Typer) else _alone(name, found))
        command.name, command.help = name, command.help or self.help
        return command


def _alone(name: str, function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command(name)(function)
    return app


class LazyGroup(TyperGroup):
    """A group whose commands stand in a table.

    ``commands`` holds their lines alone, which is all that lists and help need. What is called,
    or completed beyond its name, goes through ``resolve_command``.
    """

    places: ClassVar[Mapping[str, Place]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: place.line(name) for name, place in self.places.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and what is left of ``args``; import the command."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else self.places[str(name)].load(str(name)), rest
