"""What the demo prints: one line a step, with its measured time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from textwrap import wrap

from rich.console import Console

Say = Callable[[str], None]

_INDENT = " " * 38
_LEAST = 30  # columns, for what is said, on whatever terminal


class StepFailed(Exception):
    """A step of the demo did not do what it says."""


class Screen:
    """Prints for people: colours in a terminal, the same text without them anywhere else."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._steps = 0

    def headline(self, text: str) -> None:
        """Print ``text`` above what follows."""
        self._console.print(f"\n{text}", style="bold")

    def line(self, text: str = "") -> None:
        """Print ``text`` as it is, so that it can be pasted."""
        self._console.print(text)

    @contextmanager
    def step(self, name: str) -> Iterator[Say]:
        """Measure the block, then print it with what it said; each saying is a line.

        Raises:
            StepFailed: the block raised; the text names the step and the reason, in one line.
        """
        said: list[str] = []
        self._steps += 1
        began = time.perf_counter()
        try:
            yield said.append
        except Exception as error:  # whatever it was, the step did not do what it says
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StepFailed(f"step {self._steps}, {name}: {reason}") from error
        self._print(name, milliseconds(began), said)

    def _print(self, name: str, took: str, said: list[str]) -> None:
        self._console.print(f"{self._steps:>4}  ", style="dim", end="")
        self._console.print(f"{name:<20}", style="bold", end="")
        self._console.print(f"{took:>10}  ", style="cyan", end="")
        self._console.print(f"\n{_INDENT}".join(self._fitting(said)))

    def _fitting(self, said: list[str]) -> list[str]:
        """Return the lines, on a terminal none longer than there is room beside the times."""
        lines = "\n".join(said).split("\n")
        if not self._console.is_terminal:
            return lines
        room = max(self._console.width - len(_INDENT), _LEAST)
        cut = partial(wrap, width=room, break_long_words=False, break_on_hyphens=False)
        return [part for line in lines for part in cut(line) or [""]]


def milliseconds(since: float, until: float | None = None) -> str:
    """Return the time between two readings of ``time.perf_counter``, for people."""
    end = time.perf_counter() if until is None else until
    return f"{(end - since) * 1000:.1f} ms"
