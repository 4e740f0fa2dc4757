"""The stack that ``caracal up`` runs, by what it wrote into its data directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from caracal.errors import StartError

DEFAULT_DATA_DIR = Path(platformdirs.user_data_dir("caracal", appauthor=False))

BESIDE = ("worker_url", "siem_url")
"""Files beside ``stack.json``, whose keys are those that other tools rely on and no more."""

DataDir = Annotated[
    Path, typer.Option(envvar="CARACAL_DATA_DIR", help="Data directory of the running stack.")
]


def running_stack(data_dir: Path) -> dict[str, Any] | None:
    """Return the content of ``stack.json``, and what is beside it; None when nothing runs there.

    Raises:
        StartError: the file cannot be read.
    """
    file = data_dir / "stack.json"
    try:
        stack: dict[str, Any] = json.loads(file.read_text())
        if not _runs(stack["pid"]):
            return None  # a killed stack leaves its file behind
        others = [data_dir / name for name in BESIDE]
        return stack | {other.name: other.read_text() for other in others if other.exists()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StartError(f"{file} cannot be read: {error}") from error


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
