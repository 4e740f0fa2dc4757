"""Which stack a command works on: the environment's servers, or the one of a data directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from caracal.cli.stack_settings import is_given
from caracal.cli.up import DEFAULT_DATA_DIR
from caracal.errors import StartError
from caracal.settings import Settings, load_settings

DataDir = Annotated[Path, typer.Option(help="Data directory of the running stack.")]


def settings_of_running_stack(data_dir: Path = DEFAULT_DATA_DIR) -> Settings:
    """Return the worker's settings of a stack, for commands that read its servers.

    Raises:
        StartError: nothing runs there, and the environment names no servers.
    """
    if is_given("DATABASE_URL") and is_given("REDIS_URL"):
        return load_settings("worker")
    stack = _stack(data_dir)
    given = {
        "DATABASE_URL": stack["database_url"],
        "REDIS_URL": stack["redis_url"],
        "STREAMS_HMAC_KEY": stack["streams_hmac_key"],
        "AUDIT_HMAC_KEY": stack["audit_hmac_key"],
        "FACTS_HMAC_KEY_FILE": str(data_dir / "keys" / "facts_hmac_key"),
        "CARACAL_MODE": "dev",
    }
    return load_settings("worker", {name: value for name, value in given.items() if value})


def _stack(data_dir: Path) -> dict[str, Any]:
    file = data_dir / "stack.json"
    try:
        stack: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise _no_stack(data_dir) from None
    except (OSError, ValueError) as error:
        raise StartError(f"{file} cannot be read: {error}") from error
    if not _runs(stack["pid"]):  # a killed stack leaves its file behind
        raise _no_stack(data_dir)
    return stack


def _no_stack(data_dir: Path) -> StartError:
    return StartError(
        f"no stack runs in {data_dir}: start one with `caracal up`,"
        " or set DATABASE_URL and REDIS_URL"
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
