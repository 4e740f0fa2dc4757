"""Things of one kind, declared; the commands that all kinds share come of the declaration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter
from itertools import islice
from typing import Annotated, Any, Literal

import typer

from caracal.cli.command import Yes, command, sure
from caracal.cli.connection import Cli
from caracal.cli.given import (
    File,
    Json,
    Secret,
    clear_option,
    read_file,
    read_json,
    read_text,
    sent,
)

Verb = Literal["list", "get", "create", "patch", "delete"]

_READ: dict[Any, Any] = {
    Json: {"parser": read_json, "metavar": "JSON|@FILE|-"},
    Secret: {"parser": read_text, "metavar": "TEXT|@FILE|-"},
    File: {"parser": read_file, "metavar": "FILE|-"},
}


@dataclass(frozen=True)
class Field:
    """A member of a request, as an option.

    Args:
        name: of the member.
        type: what the option takes; a ``bool`` gives ``--x / --no-x``, a list repeats.
        help: one line.
        needed: whether ``create`` must have it.
        patch: whether it can be changed afterwards.
        null: whether it can be cleared afterwards.
        option: without dashes, where it is not the name.
    """

    name: str
    type: Any
    help: str
    needed: bool = False
    patch: bool = True
    null: bool = False
    option: str = ""

    def option_of_create(self) -> Parameter:
        """Return the option as typer reads it, needed where ``create`` must have it."""
        return self.parameter(needed=self.needed)

    def parameter(self, *, needed: bool = False) -> Parameter:
        """Return the option as typer reads it."""
        text = f"--{self.option or self.name.replace('_', '-')}"
        if self.type is bool:
            text += f"/--no{text[1:]}"
        option = typer.Option(text, help=self.help, show_default=False, **_READ.get(self.type, {}))
        kind = Any if self.type in _READ else self.type if needed else self.type | None
        return Parameter(
            self.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if needed else None,
            annotation=Annotated[kind, option],
        )


BETWEEN = (
    Field("since", str, "Not before this time, ISO 8601 with offset."),
    Field("until", str, "Before this time."),
)


@dataclass(frozen=True)
class Things:
    """A collection of the control plane or the Coordinator.

    Args:
        noun: what one is called.
        namespace: its place in the client.
        columns: members that a table of them shows.
        fields: members of its input.
        filters: of its list.
        ending: what is lost with one; asked before ``delete``.
        hidden: members that ``get`` shows as JSON only.
        row: gives a thing the members that are shown.
        of_all_zones: without a zone, those of all zones are meant.
        found: gives the id of what a caller names.
        named_by: what a caller may name it by.
    """

    noun: str
    namespace: str
    columns: tuple[str, ...]
    fields: tuple[Field, ...] = ()
    filters: tuple[Field, ...] = ()
    ending: str = ""
    hidden: tuple[str, ...] = ()
    row: Callable[[Any], dict[str, Any]] = dict
    found: Callable[[Cli, str], str] = lambda cli, name: name
    named_by: str = "Id"
    zoned: bool = True
    of_all_zones: bool = False
    coordinator: bool = False

    def add(self, app: typer.Typer, *verbs: Verb) -> None:
        """Add the shared commands of these names."""
        for verb in verbs:
            _VERBS[verb](self, app)

    def command(self, app: typer.Typer, name: str, **more: Any) -> Callable[..., Any]:
        """Add a command of its own: ``run(cli, …)``."""
        return command(app, name, zoned=self.zoned, coordinator=self.coordinator, **more)

    def call_one(self, cli: Cli, method: str, name: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of one thing."""
        return self.call(cli, method, self.found(cli, name), *arguments, **more)

    def call(self, cli: Cli, method: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of the client, in the zone if there is one."""
        is_within = self.zoned and (cli.is_zone_named or not self.of_all_zones)
        within = (cli.zone_id,) if is_within else ()
        return getattr(cli.space(self.namespace), method)(*within, *arguments, **more)

    def show(self, app: typer.Typer, name: str, method: str, line: str) -> None:
        """Add a command that calls ``method`` of one thing and shows the answer."""

        @self.command(app, name, parameters=[self.which()], line=line)
        def run(cli: Cli, thing_id: str) -> None:
            cli.out.record(self.call_one(cli, method, thing_id))

    def list_of(
        self, app: typer.Typer, name: str, method: str, line: str, columns: Sequence[str]
    ) -> None:
        """Add a command that lists what ``method`` of one thing answers."""

        @self.command(app, name, parameters=[self.which()], line=line)
        def run(cli: Cli, thing_id: str) -> None:
            cli.out.rows(self.call_one(cli, method, thing_id), columns, "Nothing.")

    def end(self, app: typer.Typer, name: str, method: str, past: str, *more: Field) -> None:
        """Add a command that ends one thing, after asking; ``more`` goes to the method, too."""
        yes = Parameter("yes", Parameter.KEYWORD_ONLY, default=False, annotation=Yes)
        parameters = [self.which(), *(field.parameter() for field in more), yes]

        @self.command(app, name, parameters=parameters, line=f"End {_a(self.noun)}: {self.ending}")
        def run(cli: Cli, thing_id: str, yes: bool, **given: Any) -> None:
            sure(f"{self.noun.capitalize()} {thing_id} will be {past}: {self.ending}", yes)
            answer = self.call_one(cli, method, thing_id, **sent(more, given))
            if answer is None:
                cli.out.done(f"{self.noun} {thing_id} {past}", id=thing_id, **{past: True})
            else:
                cli.out.record(answer)

    def patch(self, app: typer.Typer, fields: Sequence[Field]) -> None:
        """Add a command that changes ``fields`` of one thing."""
        clear = clear_option([field.name for field in fields if field.null])
        parameters = [self.which(), *(field.parameter() for field in fields), *clear]

        @self.command(app, "patch", parameters=parameters, line=f"Change {_a(self.noun)}.")
        def run(cli: Cli, thing_id: str, clear: list[str] | None = None, **given: Any) -> None:
            body = sent(fields, given, clear=clear or ())
            cli.out.record(self.call_one(cli, "patch", thing_id, body))

    def which(self) -> Parameter:
        """Return the argument that names one."""
        argument = typer.Argument(
            metavar="ID", help=f"{self.named_by} of the {self.noun}.", show_default=False
        )
        return Parameter("thing_id", Parameter.KEYWORD_ONLY, annotation=Annotated[str, argument])


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


_LIMIT = Field("limit", int, "No more than so many, the newest.")


def _list(things: Things, app: typer.Typer) -> None:
    options = [field.parameter() for field in (*things.filters, _LIMIT)]
    many = _plural(things.noun)

    @things.command(app, "list", parameters=options, line=f"List {many}, newest first.")
    def run(cli: Cli, limit: int | None, **given: Any) -> None:
        filters = sent(things.filters, given)
        if limit is None:
            rows = things.call(cli, "list", **filters)
        else:
            rows = list(islice(things.call(cli, "iter", **filters), max(limit, 0)))
        shown = rows if cli.as_json else [things.row(each) for each in rows]
        cli.out.rows(shown, things.columns, f"No {many}.")


def _get(things: Things, app: typer.Typer) -> None:
    @things.command(app, "get", parameters=[things.which()], line=f"Show {_a(things.noun)}.")
    def run(cli: Cli, thing_id: str) -> None:
        found = things.call_one(cli, "get", thing_id)
        cli.out.record(found if cli.as_json else things.row(found), hidden=things.hidden)


def _create(things: Things, app: typer.Typer) -> None:
    options = [field.option_of_create() for field in things.fields]

    @things.command(app, "create", parameters=options, line=f"Make {_a(things.noun)}.")
    def run(cli: Cli, **given: Any) -> None:
        made = things.call(cli, "create", sent(things.fields, given))
        cli.out.record(made if cli.as_json else things.row(made))


def _patch(things: Things, app: typer.Typer) -> None:
    things.patch(app, [field for field in things.fields if field.patch])


def _delete(things: Things, app: typer.Typer) -> None:
    things.end(app, "delete", "delete", "deleted")


_VERBS: dict[Verb, Callable[[Things, typer.Typer], None]] = {
    "list": _list,
    "get": _get,
    "create": _create,
    "patch": _patch,
    "delete": _delete,
}
