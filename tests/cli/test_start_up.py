"""Starting quickly, completion, and the table of commands."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pytest
from typer.main import get_command

from caracal.cli import main
from caracal.cli.lazy import LazyGroup
from caracal.client.provider import ProviderKind
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


def imported_by(*commands: str) -> dict[str, set[str]]:
    """Return which of the heavy packages stand imported after each command, in one process."""
    program = (
        "import sys\nfrom caracal.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    try: main(command.split())\n"
        "    except SystemExit: pass\n"
        f"    found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    print('imported', command, *found, sep=';')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *commands], capture_output=True, text=True, check=True
    )
    told = (line.split(";") for line in done.stdout.splitlines() if line.startswith("imported;"))
    return {command: set(found) for _, command, *found in told}


def test_help_imports_nothing_heavy() -> None:
    commands = ["--version", "--help", *(f"{name} --help" for name in GROUPS)]
    commands += [f"{name} list --help" for name in ("zone", "app", "audit", "policy-set")]
    assert imported_by(*commands) == {command: set() for command in commands}


def test_what_needs_a_client_imports_the_client_alone() -> None:
    command = "zone list --api-url http://127.0.0.1:1 --token t"
    assert imported_by(command) == {command: {"httpx"}}


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


def test_the_kinds_of_providers_are_all_named() -> None:
    shown = " ".join(Caracal({}).run("provider", "create", "--help").stdout.split())
    for kind in get_args(ProviderKind):
        assert kind in shown
