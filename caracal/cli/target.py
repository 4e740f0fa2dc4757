"""Which stack a command works on: the environment's servers, or the one of a data directory."""

from __future__ import annotations

from pathlib import Path

from caracal.cli.running import DEFAULT_DATA_DIR, running_stack
from caracal.cli.stack_settings import is_given
from caracal.errors import StartError
from caracal.settings import Settings, load_settings


def settings_of_running_stack(data_dir: Path = DEFAULT_DATA_DIR) -> Settings:
    """Return the worker's settings of a stack, for commands that read its servers.

    Raises:
        StartError: nothing runs there, and the environment names no servers.
    """
    if is_given("DATABASE_URL") and is_given("REDIS_URL"):
        return load_settings("worker")
    stack = running_stack(data_dir)
    if stack is None:
        raise _no_stack(data_dir)
    given = {
        "DATABASE_URL": stack["database_url"],
        "REDIS_URL": stack["redis_url"],
        "STREAMS_HMAC_KEY": stack["streams_hmac_key"],
        "AUDIT_HMAC_KEY": stack["audit_hmac_key"],
        "FACTS_HMAC_KEY_FILE": str(data_dir / "keys" / "facts_hmac_key"),
        "CARACAL_MODE": "dev",
    }
    return load_settings("worker", {name: value for name, value in given.items() if value})


def _no_stack(data_dir: Path) -> StartError:
    return StartError(
        f"no stack runs in {data_dir}: start one with `caracal up`,"
        " or set DATABASE_URL and REDIS_URL"
    )
