"""Starting quickly, completion, and the table of commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from caracal.cli import main
from caracal.cli.lazy import LazyGroup
from tests.cli.caracal import Caracal

HEAVY = (
    "fastapi",
    "pydantic_settings",
    "psycopg",
    "redis",
    "httpx",
    "regorus",
    "eventsourcing",
    "uvicorn",
)
GROUPS = (
    *("zone", "app", "resource", "provider", "policy", "policy-set", "grant", "session", "audit"),
    *("token", "agent", "delegation", "challenge", "template", "bootstrap", "status"),
)


def imported_by(*arguments: str) -> set[str]:
    """Return which of the heavy packages a command imports."""
    program = (
        "import sys\nfrom caracal.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print('imported', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), *((name, "--help") for name in GROUPS)]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) == set()


def test_what_needs_a_client_imports_the_client_alone() -> None:
    arguments = ("zone", "list", "--api-url", "http://127.0.0.1:1", "--token", "t")
    assert imported_by(*arguments) == {"httpx"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from caracal.cli import main; main(prog_name='caracal')",
         "--show-completion", shell],
        env=os.environ | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_CARACAL_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("caracal pol", {"policy", "policy-set"}),
        ("caracal zone dcr", {"dcr-status"}),
        ("caracal grant list --st", {"--status"}),
        ("caracal grant list --status a", {"active"}),
    ],
)
def test_completions(words: str, found: set[str]) -> None:
    environment = {
        "_CARACAL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from caracal.cli import main; main(prog_name='caracal')"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == found


def test_the_table_tells_the_truth() -> None:
    """Each line has a command of that name, and says in short what the command says."""
    root = get_command(main)
    assert isinstance(root, LazyGroup)
    for name, place in root.places.items():
        command = place.load(name)
        assert command.name == name
        assert command.help
        assert place.help.endswith(".")
        assert len(place.help) <= 60


def test_every_command_has_help_and_json() -> None:
    root = get_command(main)
    assert isinstance(root, LazyGroup)
    for name, place in root.places.items():
        command = place.load(name)
        for below in getattr(command, "commands", {name: command}).values():
            options = {option for parameter in below.params for option in parameter.opts}
            assert below.help, (name, below.name)
            assert "--json" in options or name in ("up", "serve", "rebuild", "as-of"), below.name


def test_a_group_alone_shows_its_help() -> None:
    assert "dcr-status" in Caracal({}).run("zone", "--help").stdout
