"""What commands print: a table, a record, a sentence, or one JSON document."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from caracal.cli.text import cell, json_bytes, printable, title

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Row = Mapping[str, Any]

_COLOURS = {
    "active": "green",
    "allow": "green",
    "ready": "green",
    "loaded": "green",
    "partial": "yellow",
    "suspended": "yellow",
    "expired": "yellow",
    "degraded": "yellow",
    "deny": "red",
    "revoked": "red",
    "terminated": "red",
    "failed": "red",
    "not ready": "red",
    "out of reach": "red",
}
_COLOURED = frozenset({"status", "decision", "propagation_status", "state"})
_SHOWN_ONCE = frozenset({"client_secret", "app_client_secret", "token", "challenge_secret"})
_GAP = 2  # between columns
_NARROW = 10  # a cell that is no id can be as narrow as this
_UNBOUNDED = 10_000  # columns of what is no terminal: it breaks no lines


class Output:
    """Standard output of one command.

    Args:
        as_json: print one JSON document, and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def rows(self, rows: Sequence[Row], columns: Sequence[str], nothing: str) -> None:
        """Print things as a table, or say ``nothing`` when there are none."""
        if self.as_json:
            self.document(rows)
        elif rows:
            self._table(rows, columns)
        else:
            typer.echo(nothing)

    def record(self, record: Row, *, hidden: Iterable[str] = ()) -> None:
        """Print all members of a thing; ``hidden`` ones in JSON only."""
        if self.as_json:
            self.document(record)
            return
        left_out = set(hidden)
        _print_record([name for name in record if name not in left_out], record, _console())

    def done(self, sentence: str, **members: Any) -> None:
        """Say that it is done; as JSON the ``members`` of it."""
        if self.as_json:
            self.document(members)
        else:
            typer.echo(printable(sentence))

    def document(self, value: Any) -> None:
        """Print the JSON document."""
        typer.echo(json_bytes(value))

    @property
    def is_ascii(self) -> bool:
        """Whether the output cannot say more than ASCII."""
        return _console().options.ascii_only

    def text(self, text: str) -> None:
        """Print a text of more lines, as it is."""
        typer.echo(text, nl=False)

    def picture(self, *parts: RenderableType) -> None:
        """Print what is drawn."""
        console = _console()
        for part in parts:
            _print_drawn(part, console)

    def note(self, sentence: str) -> None:
        """Say something that is no result, beside the output."""
        typer.echo(printable(sentence), err=True)

    def _table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        console = _console()
        cells = [[_cell(name, row.get(name), console) for name in columns] for row in rows]
        if _least_width(columns, cells) > console.width:
            for number, row in enumerate(rows):
                if number:
                    typer.echo()
                _print_record(columns, row, console)
        else:
            _print_table(columns, cells, console)


def _least_width(columns: Sequence[str], cells: Sequence[Sequence[Text]]) -> int:
    """Return the width below which a table cannot be read: ids stay whole, other cells break."""
    longest = [max(line[number].cell_len for line in cells) for number in range(len(columns))]
    least = (
        size if _is_id(name) else min(size, _NARROW)
        for name, size in zip(columns, longest, strict=True)
    )
    return sum(least) + _GAP * (len(columns) - 1)


def _print_table(columns: Sequence[str], cells: Sequence[Sequence[Text]], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        whole = max(line[number].cell_len for line in cells) if _is_id(name) else None
        table.add_column(title(name), overflow="fold", min_width=whole, no_wrap=bool(whole))
    for line in cells:
        table.add_row(*line)
    _print_drawn(table, console)


def _print_drawn(drawn: RenderableType, console: Console) -> None:
    with console.capture() as printed:
        console.print(drawn)
    for text in printed.get().splitlines():
        typer.echo(text.rstrip(), color=console.is_terminal)


def _print_record(names: Sequence[str], record: Row, console: Console) -> None:
    width = max((len(title(name)) for name in names), default=0)
    for name in names:
        value = record.get(name)
        line = _text("", "")
        line.append(f"{title(name):<{width}}  ", style="bold")
        line.append(_member(name, value, console), style=_colour(name, value))
        if name in _SHOWN_ONCE and value:
            line.append("  (shown this once: keep it now)", style="yellow")
        console.print(line, soft_wrap=True)


def _member(name: str, value: Any, console: Console) -> str:
    text = cell(name, value, relative=False)
    if console.is_terminal and name.endswith("_at") and value:
        return f"{text}  ({cell(name, value, relative=True)})"
    return text


def coloured(decision: str, *, width: int = 0) -> str:
    """Return a decision's word, in its colour; where no colours are wanted, they are left out."""
    text = f"{printable(decision):<{width}}"
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=_COLOURS.get(decision))


def _is_id(name: str) -> bool:
    return name == "id" or name.endswith("_id")


def _cell(name: str, value: Any, console: Console) -> Text:
    text = cell(name, value, relative=console.is_terminal)
    return _text(text, _colour(name, value))


def _colour(name: str, value: Any) -> str:
    return _COLOURS.get(str(value), "") if name in _COLOURED else ""


def _text(text: str, style: str) -> Text:
    """Return text in which nothing is markup."""
    from rich.text import Text

    return Text(text, style=style)


def _console() -> Console:
    """Return a console with colours on a terminal only; nothing else breaks lines."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=_UNBOUNDED)
    return console
