"""README's "A governed call, by hand", pasted into a shell beside a running stack."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded.conftest import wait_until

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
LIMIT = 60  # s
UPSTREAM = "127.0.0.1:9000"
WAIT = "i=0; until curl -sf -o /dev/null http://{}; do [ $((i+=1)) -lt 500 ]; sleep 0.02; done\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return the home directory of a user whose stack is running."""
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", "from caracal.cli import main; main()", "up", "--port-base", "0"],
        env=_environment(home),
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


def _environment(home: Path) -> dict[str, str]:
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
        [shell, "-e", "-c", _blocks(_free_port())],
        cwd=ROOT,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith('{"activated":true')
    last_line = (ROOT / "docs/adding.md").read_text().splitlines()[-1]
    assert lines[1:4] == [last_line, "", "200"]
    assert '"error":"access_denied"' in lines[4]
    assert lines[5] == "403"
    assert any('"docs/no"' in line for line in lines[6:-3])
    assert lines[-3] == "204"
    assert '"session revoked"' in lines[-2]
    assert lines[-1] == "401"
