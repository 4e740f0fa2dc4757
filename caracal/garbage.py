"""How often the garbage collector looks. Nearly all that is let go is freed by counting references;
its passes over what lives cost a tenth to a fifth of a busy process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = (10_000, 20, 20)


def settle() -> None:
    """Say that a process has started: what it has by now stays, and is not looked at any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_SELDOM)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look less often while the context lasts: much is made in it, and little of it in cycles."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
