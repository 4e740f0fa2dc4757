"""Where an admin token may lie. The clients themselves read no environment and no files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

NAME = "CARACAL_ADMIN_TOKEN"
MAX_ENV_FILE = 1 << 20
_LINE = re.compile(r"\s*([A-Z_][A-Z0-9_]*)\s*=\s*(.*)", re.ASCII)


def discover_admin_token(explicit: str | None = None) -> str | None:
    """Return the first admin token found, or None; empty ones do not count.

    In this order: ``explicit``, the environment's ``CARACAL_ADMIN_TOKEN``, the same name in the
    file that ``CARACAL_ENV_FILE`` names, in ``./infra/docker/.env``, in ``./.env``.

    >>> discover_admin_token("cat_given")
    'cat_given'
    """
    return next((token for token in _candidates(explicit) if token), None)


def _candidates(explicit: str | None) -> Iterator[str | None]:
    yield explicit
    yield os.environ.get(NAME)
    for path in (os.environ.get("CARACAL_ENV_FILE"), "infra/docker/.env", ".env"):
        if path:
            yield parse_env(_read(Path(path))).get(NAME)


def parse_env(text: str) -> dict[str, str]:
    """Read ``KEY = value`` lines; the last of a name wins, every other line is ignored."""
    found = (_LINE.fullmatch(line.strip()) for line in text.split("\n"))
    return {match[1]: _unquoted(match[2]) for match in found if match}


def _unquoted(value: str) -> str:
    paired = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if paired else value


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ENV_FILE).decode("utf-8-sig", errors="replace")
    except OSError:  # a file that is not there, or not ours, is empty
        return ""
