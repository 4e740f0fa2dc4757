"""What pictures have in common: symbols, short ids, names, and a tree of rich.

Colours say nothing that a symbol or a word does not say, too: they are gone in a pipe.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from caracal.cli.forest import Forest, Row
from caracal.cli.reading import READ_MOST
from caracal.cli.text import printable

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

All = Annotated[bool, typer.Option("--all", help="Those that have ended, too.")]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help="Show no more than so many. Drawn: 100, else all.", show_default=False
    ),
]

State = Literal["live", "suspended", "dead"]
Symbols = Mapping[State, str]

DRAWN = 100
"""Most things that a picture shows, unless ``--limit`` says so."""

SYMBOLS: Symbols = {"live": "●", "suspended": "◐", "dead": "✗"}
_PLAIN: Symbols = {"live": "*", "suspended": "~", "dead": "x"}
COLOURS: Mapping[State, str] = {"live": "green", "suspended": "yellow", "dead": "red"}
_SHORT = (8, 12)  # characters at the end of an id that tell it from the others
_NAME = 28  # characters of a name
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Part:
    """What is shown of a forest."""

    forest: Forest
    shown: Collection[str]
    state: Callable[[Row], State]

    @classmethod
    def of(cls, forest: Forest, limit: int | None, state: Callable[[Row], State]) -> Part:
        """Choose at most ``limit`` rows; None shows all."""
        most = len(forest.rows) if limit is None else limit
        return cls(forest, forest.chosen(most, lambda row: state(row) == "dead"), state)

    def rows(self) -> Iterator[Row]:
        """Yield what is shown, each after what it hangs on."""
        return (self.forest.rows[each] for each in self.forest.walk() if each in self.shown)

    @property
    def not_shown(self) -> int:
        """Return how many rows are not."""
        return len(self.forest.rows) - len(self.shown)

    def counts(self, complete: bool) -> dict[str, Any]:
        """Return for programs how much of it there is; ``complete``: all of it was read."""
        return {
            "found": len(self.forest.rows),
            "not_shown": self.not_shown,
            "complete": complete,
        }

    def foot(self, noun: str, complete: bool, *, ascii_only: bool) -> list[Text]:
        """Return what stands below the picture: how many there are, and how many more."""
        states = Counter(map(self.state, self.forest.rows.values()))
        lines = [totals(noun, states, symbols_of(ascii_only))]
        if self.not_shown:
            more = f"{self.not_shown} of them not shown; --limit {len(self.forest.rows)} shows all."
            lines.append(styled(more, "bold"))
        if not complete:
            newest = f"Only the newest {READ_MOST} were read: there are more."
            lines.append(styled(newest, "bold"))
        return lines


def drawn(
    part: Part, label: Callable[[Row], Text], heading: Callable[[Row], Text] | None = None
) -> Tree:
    """Return the picture of what is shown, and how many are not below each.

    Args:
        label: of a row.
        heading: over a row that has no parent; those of one heading stand together.
    """
    from rich.tree import Tree

    picture = Tree("", hide_root=True, guide_style="dim")
    headed: dict[str, Tree] = {}

    def place_of(row: Row) -> Tree:
        if heading is None:
            return picture
        text = heading(row)
        if text.plain not in headed:
            headed[text.plain] = picture.add(text)
        return headed[text.plain]

    nodes: dict[str, Tree] = {}
    for row in part.rows():
        above = nodes.get(row[part.forest.parent])
        nodes[row["id"]] = (place_of(row) if above is None else above).add(label(row))
    for row_id, count in part.forest.hidden(part.shown).items():
        if row_id is not None:
            nodes[row_id].add(styled(f"… {count} more", "dim"))
    return picture


def shortened(ids: Iterable[str]) -> dict[str, str]:
    """Return for each id the shortest end of it that tells it from the others.

    The beginning would not do: ids that were made within a minute share it.
    """
    known = set(ids)
    for size in _SHORT:
        names = {each: printable(each[-size:] if _is_uuid(each) else each) for each in known}
        if len(set(names.values())) == len(known):
            return names
    return {each: printable(each) for each in known}


def _is_uuid(text: str) -> bool:
    return bool(_UUID.fullmatch(text))


def named(text: str) -> str:
    """Return a name in one line, not too long for a picture."""
    name = printable(text)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def styled(text: str, style: str = "") -> Text:
    """Return text in which nothing is markup."""
    from rich.text import Text

    return Text(text, style=style)


def symbol(state: State, symbols: Symbols) -> Text:
    """Return the beginning of a line: the symbol of a state, in its colour."""
    return styled("").append(f"{symbols[state]} ", style=COLOURS[state])


def totals(noun: str, states: Counter[State], symbols: Symbols) -> Text:
    """Return ``3 agents: ● 2 live, ✗ 1 dead``: what there is, and what the symbols say."""
    line = styled(f"{states.total()} {noun}{'' if states.total() == 1 else 's'}")
    for number, state in enumerate(each for each in SYMBOLS if states[each]):
        line.append(", " if number else ": ")
        line.append(f"{symbols[state]} {states[state]} {state}", style=COLOURS[state])
    return line


def symbols_of(ascii_only: bool) -> Symbols:
    """Return the symbols that an output can say."""
    return _PLAIN if ascii_only else SYMBOLS
