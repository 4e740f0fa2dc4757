"""The command line as its users meet it: arguments in; output, errors and exit code out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from typer.testing import CliRunner, Result

from caracal.cli import main


class Caracal:
    """Runs commands in this process, with these variables set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._runner = CliRunner(env={"COLUMNS": "200", **variables})

    def run(self, *arguments: str, code: int = 0, given: str | bytes | None = None) -> Result:
        """Run a command; ``given`` is its standard input."""
        result = self._runner.invoke(main, list(arguments), input=given)
        told = (arguments, result.output, result.stderr, result.exception)
        assert result.exit_code == code, told
        assert "Traceback" not in result.output + result.stderr
        return result

    def json(self, *arguments: str, code: int = 0, given: str | None = None) -> Any:
        """Run a command with ``--json``; return its document."""
        return json.loads(self.run(*arguments, "--json", code=code, given=given).stdout)

    def refused(self, *arguments: str, code: int = 1, given: str | None = None) -> str:
        """Run a command that fails; return its one line."""
        result = self.run(*arguments, code=code, given=given)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("caracal: ")
        return line.removeprefix("caracal: ")

    # The same, beside a server on this thread's loop.

    async def arun(self, *arguments: str, **more: Any) -> Result:
        return await asyncio.to_thread(self.run, *arguments, **more)

    async def ajson(self, *arguments: str, **more: Any) -> Any:
        return await asyncio.to_thread(self.json, *arguments, **more)

    async def arefused(self, *arguments: str, **more: Any) -> str:
        return await asyncio.to_thread(self.refused, *arguments, **more)
