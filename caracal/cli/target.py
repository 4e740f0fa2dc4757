"""Which stack a command works on: the environment's servers, or the one of a data directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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


def _stack(data_dir: Path) -> dict[str, str]:
    file = data_dir / "stack.json"
    try:
        stack: dict[str, str] = json.loads(file.read_text())
    except FileNotFoundError:
        raise StartError(
            f"no stack runs in {data_dir}: start one with `caracal up`,"
            " or set DATABASE_URL and REDIS_URL"
        ) from None
    except (OSError, ValueError) as error:
        raise StartError(f"{file} cannot be read: {error}") from error
    return stack
