"""What an option gives: text, the content of a file, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from caracal.cli.collection import Field

MAX_BYTES = 1024 * 1024


def read_text(text: str) -> str:
    """Return ``text``; the content of FILE for ``@FILE``, of standard input for ``-``.

    Raises:
        typer.BadParameter: it cannot be read. Never repeats what was given.
    """
    if text == "-":
        return _read(None)
    return _read(Path(text[1:])) if text.startswith("@") else text


def read_file(name: str) -> str:
    """Return the content of a file; ``-`` is standard input.

    Raises:
        typer.BadParameter: it cannot be read as text, or is larger than any policy may be.
    """
    return _read(None if name == "-" else Path(name))


def read_json(text: str) -> Any:
    """Return the JSON value that ``read_text`` gives.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return json.loads(read_text(text), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise typer.BadParameter("this is no JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _read(file: Path | None) -> str:
    try:
        if file is None:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise typer.BadParameter(f"more than {MAX_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file or 'standard input'} is not UTF-8") from None


class File:
    """A member that is the content of a file."""


class Json:
    """A member that is an object: as text, ``@FILE`` or ``-``."""


class Secret:
    """A member that others must not see: rather ``@FILE`` or ``-`` than the text itself."""


def sent(
    fields: Iterable[Field], given: Mapping[str, Any], *, clear: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the members to send: those given, and null for those to clear."""
    names = [field.name for field in fields]
    members = {name: given[name] for name in names if given.get(name) not in (None, [])}
    if clear:
        from caracal.client import NULL

        members |= {name.replace("-", "_"): NULL for name in clear}
    return members


def clear_option(names: Sequence[str]) -> list[Parameter]:
    """Return ``--clear`` for these members; nothing when there are none."""
    if not names:
        return []

    def known(chosen: list[str] | None) -> list[str] | None:
        for name in chosen or ():
            if name.replace("-", "_") not in names:
                raise typer.BadParameter(f"{name!r} is none of {', '.join(names)}")
        return chosen

    option = typer.Option("--clear", help=f"Unset {', '.join(names)}.", callback=known)
    kind = Annotated[list[str] | None, option]
    return [Parameter("clear", Parameter.KEYWORD_ONLY, default=None, annotation=kind)]
