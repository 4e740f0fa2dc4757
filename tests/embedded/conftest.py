"""Starting whole programs, and looking at processes from outside."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 20.0  # s
USER = pwd.getpwnam("nobody").pw_uid  # an ordinary user
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2  # capabilities(7)


def wait_until(true: Callable[[], object], what: str) -> None:
    """Return when ``true()`` is; fail after half a minute."""
    limit = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < limit, f"waited too long for: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Say whether process ``pid`` exists and is more than a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def uid_of(pid: int) -> int:
    """Return the effective uid of process ``pid``."""
    return int(status_of(pid)["Uid"].split()[1])


def handles_sigterm(pid: int) -> bool:
    """Say whether process ``pid`` has a handler of its own for SIGTERM."""
    return bool(int(status_of(pid)["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)


def status_of(pid: int | str) -> dict[str, str]:
    """Return what proc(5) says of process ``pid``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def children_of(pid: int) -> set[int]:
    """Return the ids of all direct children."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = entry.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(status.rpartition(")")[2].split()[1]) == pid:
            found.add(int(entry.parent.name))
    return found


class Program:
    """A running test program, in a process group of its own."""

    def __init__(self, script: str, *args: str, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / script), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | env,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line(self) -> str:
        """Return the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, output, errors."""
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, err

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


Start = Callable[..., Program]
Up = Callable[..., Program]
StackOf = Callable[[], dict[str, str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs of this folder: ``start("tiny_caracal.py", "up", …, VARIABLE=…)``."""
    programs: list[Program] = []

    def start_program(*args: str, **more: object) -> Program:
        programs.append(Program(*args, **more))  # type: ignore[arg-type]
        return programs[-1]

    yield start_program
    for program in programs:
        program.close()


@pytest.fixture
def data_dir(_stopped_servers: Path, tmp_path: Path) -> Path:
    """A data directory with a ready cluster, which saves a second a test."""
    return Path(shutil.copytree(_stopped_servers, tmp_path / "data"))


@pytest.fixture
def up(start: Start, data_dir: Path) -> Up:
    """Start ``caracal up`` on free ports."""

    def start_up(*args: str, **variables: str) -> Program:
        given = ("up", "--data-dir", str(data_dir), "--port-base", "0", *args)
        return start("tiny_caracal.py", *given, **variables)

    return start_up


@pytest.fixture
def stack_of(data_dir: Path) -> StackOf:
    """Wait for ``stack.json`` and return what it says."""

    def read() -> dict[str, str]:
        file = data_dir / "stack.json"
        wait_until(file.exists, "stack.json")
        stack: dict[str, str] = json.loads(file.read_text())
        return stack

    return read


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of an ordinary user: of ``USER`` if we are root, else of us."""
    path = Path(tempfile.mkdtemp(prefix="home-"))
    if os.geteuid() == 0:
        os.chown(path, USER, USER)
    yield path
    shutil.rmtree(path)


def as_ordinary_user() -> tuple[str, ...]:
    """Return the command in front of another that makes root an ordinary user.

    Where the interpreter lies in root's own home, that user may read (or, where nothing less is
    to be had, see) what root may; it stays an ordinary user to PostgreSQL and to us.
    """
    if os.geteuid() != 0:
        return ()
    command = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    modes = [path.stat().st_mode for path in Path(sys.executable).resolve().parents]
    if all(mode & stat.S_IXOTH for mode in modes):
        return command
    mine = int(status_of("self")["CapEff"], 16)
    cap = "dac_read_search" if mine >> _DAC_READ_SEARCH & 1 else "dac_override"
    return (*command, f"--inh-caps=+{cap}", f"--ambient-caps=+{cap}")
