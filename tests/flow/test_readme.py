"""README as users follow it, beside a running stack: the call by hand, and "Operate"."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caracal.projections import PROJECTIONS
from tests.embedded.conftest import wait_until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
LIMIT = 60  # s
CARACAL = (sys.executable, "-c", "from caracal.cli import main; main()")
UPSTREAM = "127.0.0.1:9000"
SHELL = f"caracal() {{ '{sys.executable}' -c 'from caracal.cli import main; main()' \"$@\"; }}\n"
WAIT = "i=0; until curl -sf -o /dev/null http://{}; do [ $((i+=1)) -lt 500 ]; sleep 0.02; done\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home directory of a user whose stack is running."""
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [*CARACAL, "up", "--port-base", "0"],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        stack = home / ".local/share/caracal/stack.json"
        wait_until(stack.exists, "the stack")
        yield home
    finally:
        process.terminate()
        assert process.wait(LIMIT) == 0


def environment(home: Path) -> dict[str, str]:
    """Return the variables of that user, who has set none of ours."""
    hidden = ("XDG_DATA_HOME", "DATABASE_URL", "REDIS_URL", "CARACAL_MODE", "CARACAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(home)}


def _blocks(port: int) -> str:
    """The blocks with another port; before the first call the upstream must listen."""
    section = (ROOT / "README.md").read_text().partition("## A governed call, by hand")[2]
    found = re.findall(
        r"^```sh\n(.*?)^```", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE
    )
    assert len(found) == 5
    found.insert(3, WAIT.format(UPSTREAM))
    return "".join(found).replace("9000", str(port))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("shell", [name for name in ("sh", "bash", "zsh") if shutil.which(name)])
def test_the_blocks_work_as_pasted(home: Path, shell: str) -> None:
    done = subprocess.run(
        [shell, "-e", "-c", SHELL + _blocks(_free_port())],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("waiting for ") for line in done.stderr.splitlines()), done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch("activated +yes", lines[0])
    called = next(number for number, line in enumerate(lines) if line.startswith("sts ")) + 1
    assert "state=loaded" in lines[called - 1]
    last_line = (ROOT / "docs/adding.md").read_text().splitlines()[-1]
    assert lines[called : called + 3] == [last_line, "", "200"]
    assert '"error":"access_denied"' in lines[called + 3]
    assert lines[called + 4] == "403"
    assert lines[called + 5] == "final decision: deny"
    assert lines[called + 6].endswith("the request as a whole was denied (policy denied)")
    assert "by docs/no" in lines[called + 6]
    assert lines[-3] == "204"
    assert '"session revoked"' in lines[-2]
    assert lines[-1] == "401"


MODELS = ", ".join(sorted(projection.name for projection in PROJECTIONS))


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--version", 0, "caracal "),
        ("dead list", 0, "Nothing is parked, and there are no dead letters.\n"),
        ("dead show nobody", 1, "nobody is not parked.\n"),
        ("dead replay", 0, "Nothing is parked.\n"),
        ("dead replay nobody", 1, "nobody is not parked.\n"),
        ("rebuild admin_tokens", 0, "admin_tokens stands at position "),
        ("rebuild", 0, "All read models are of this version.\n"),
        ("rebuild admin_tokens zonez", 2, "caracal: there is no read model 'zonez'; there are"),
        ("rebuild zonez", 2, f"caracal: there is no read model 'zonez'; there are {MODELS}\n"),
        ("as-of admin_tokens 1", 0, '{"table":"admin_tokens",'),
        ("as-of admin_tokens 0", 0, ""),
        ("as-of zonez 1", 2, f"caracal: there is no read model 'zonez'; there are {MODELS}\n"),
        ("as-of zones 99999", 2, "caracal: the log ends at position "),
        ("topics --data-dir none", 2, "caracal: no stack runs in none: start one with "),
    ],
)
def test_the_commands_answer(home: Path, command: str, code: int, said: str) -> None:
    done = _caracal(home, *command.split())
    assert done.returncode == code
    answer = (done.stdout if code != 2 else done.stderr).lstrip("\n")  # a progress bar's
    assert (answer == said) if said.endswith("\n") or not said else answer.startswith(said)


def test_topics_shows_whole_names_in_a_narrow_terminal(home: Path) -> None:
    lines = _caracal(home, "topics", COLUMNS="60").stdout.splitlines()
    assert re.search(
        r"caracal\.applications\.events +facts .*\bsessions, .*\brevocations", "\n".join(lines)
    )


def test_a_killed_stack_is_not_taken_for_a_running_one(home: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(LIMIT)
    (tmp_path / "stack.json").write_text(json.dumps({"pid": gone.pid}))
    for command in (("topics",), ("dead", "list"), ("rebuild", "zones"), ("as-of", "zones", "1")):
        done = _caracal(home, *command, "--data-dir", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"caracal: no stack runs in {tmp_path}: start one with ")


def _caracal(home: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CARACAL, *args],
        env=environment(home) | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
