"""The demo as users run it: ``caracal up --demo``, and the lines that it says to try."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.embedded.conftest import is_running, wait_until

pytestmark = pytest.mark.flow

LIMIT = 10  # s
STEPS = (
    "create zone",
    "create application",
    "create resource",
    "create policy",
    "create policy set",
    "activate",
    "grant",
    "token",
    "list tools",
    "tool call, allowed",
    "tool call, denied",
    "why denied",
    "open two streams",
    "revoke grant",
    "streams cut",
    "next call, refused",
    "open a desk",
    "lend to a lead",
    "lend to two helpers",
    "the reader reads",
    "the scribe writes",
    "why denied",
    "mandates, before",
    "revoke one edge",
    "mandates, after",
    "next call, refused",
    "audit trail",
    "verify the chain",
    "a second application",
)


class Demo:
    """``caracal up --demo`` as users run it."""

    def __init__(self, data_dir: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from caracal.cli import main; main()"),
                *("up", "--demo", "--port-base", "0", "--data-dir", str(data_dir), *args),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "80"},
            process_group=0,
        )

    def lines(self) -> Iterator[str]:
        """Yield its output as it comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, the rest of its output, errors."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that both runs use, as a second ``make run`` does."""
    return tmp_path_factory.mktemp("kept") / "data"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "CARACAL_MODE", "CARACAL_ENV"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def demo(kept: Path) -> Iterator[type[Demo]]:
    """Start it: ``demo("--once")``."""
    started: list[Demo] = []

    def start(*args: str) -> Demo:
        started.append(Demo(kept, *args))
        return started[-1]

    yield start  # type: ignore[misc]
    for each in started:
        each.close()


def port_of_tools(output: str) -> int:
    found = re.search(r"an MCP server at http://127\.0\.0\.1:(\d+)", output)
    assert found, output
    return int(found[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check_pictures(out: str) -> None:
    """Who acts and who lent what to whom: first all of it lives, then what hung on the lead not."""
    pictures = re.findall(r"^\$ caracal (.+?) --zone .+\n((?:.+\n)+\n.+)$", out, re.MULTILINE)
    commands = ("agent tree", "delegation graph", "agent tree --all", "delegation graph --all")
    assert tuple(command for command, _ in pictures) == commands
    before, lent, after, ended = (picture for _, picture in pictures)
    for picture, last in (
        (before, "4 agents: ● 4 live"),
        (lent, "3 delegations: ● 3 live"),
        (after, "4 agents: ● 1 live, ✗ 3 dead"),
        (ended, "3 delegations: ✗ 3 dead"),
    ):
        lines = picture.splitlines()
        assert lines[-1] == last
        assert max(map(len, lines)) <= 80
        names = [line.partition("Newsroom/")[2].split()[0].strip(":") for line in lines
                 if "Newsroom/" in line]  # fmt: skip
        assert names[:2] == ["desk", "lead"]
        assert sorted(names[2:]) == ["reader", "scribe"]  # made at once: either may be the first
    assert after.count("dead: delegation_revoked") == 3
    assert ended.count("revoked ") == 3


def test_once_tells_every_step_and_ends_with_0(demo: type[Demo]) -> None:
    code, out, err = demo("--once").end()
    assert (code, err) == (0, "")
    steps = re.findall(r"^ +(\d+)  (.+?) +\d+\.\d ms  \S", out, re.MULTILINE)
    assert steps == [(str(number), name) for number, name in enumerate(STEPS, 1)]
    for what in (
        "200  search: 5 incidents",
        "403  annotate: access_denied: policy denied",
        "policy incidents/writing-takes-a-person",
        "reason: an agent may not write to the register",
        "trailer X-Caracal-Revoked: true",
        "401  invalid_token: ",
        "403  annotate: access_denied: requested scopes exceed delegation scopes",
        "delegation_invalid: requested scopes exceed delegation scopes",
        "3 delegations, 3 agents end with it",
        "403  access_denied: delegation edge inactive or expired",
        "unbroken",
    ):
        assert what in out
    mandates = re.findall(r"(lead|reader|scribe) +(minted, active|refused, (\d+\.\d) ms)", out)
    assert [name for name, *_ in mandates] == ["lead", "reader", "scribe"] * 2
    assert [bool(took) for *_, took in mandates] == [False] * 3 + [True] * 3
    check_pictures(out)
    trail = out.partition("audit trail")[2].partition("verify the chain")[0]
    told = [line.split() for line in trail.splitlines()]
    assert ["search", "token_exchange", "allow", "incidents/read"] in [each[-4:] for each in told]
    writing = "incidents/writing-takes-a-person"
    assert ["annotate", "token_exchange", "deny", writing] in told
    assert ["revoke", "grant.revoked", "fact"] in told
    wait_until(lambda: not is_open(port_of_tools(out)), "the end of the tool server")


def test_a_second_run_serves_on_and_its_lines_work_as_pasted(demo: type[Demo], kept: Path) -> None:
    running = demo()
    lines: list[str] = []
    for line in running.lines():
        lines.append(line)
        if "-X DELETE" in line:
            break
    search, annotate, audit, stream, revoke = (line for line in lines if line.startswith("curl "))
    port = port_of_tools("\n".join(lines))
    stack = json.loads((kept / "stack.json").read_text())

    assert "GitLab" in pasted(search)
    assert "policy denied" in pasted(annotate)
    decisions = json.loads(pasted_until(audit, lambda out: "deny" in out))
    assert {entry["decision"] for entry in decisions} == {"deny", "allow"}
    with subprocess.Popen(["bash", "-c", stream], stdout=subprocess.PIPE, text=True) as streaming:
        assert streaming.stdout is not None
        came: list[str] = []
        for line in streaming.stdout:
            came.append(line)
            if line.startswith("data: ") and "notifications/progress" in line and revoke:
                assert pasted(revoke) == ""
                revoke = ""
    assert came[-2] == "x-caracal-revoked: true\n"
    assert "invalid_token" in pasted(search)

    for line in (line for line in lines if line.startswith("caracal ")):
        shell = (
            f"caracal() {{ {sys.executable} -c 'from caracal.cli import main; main()' \"$@\"; }}; "
        )
        assert "Newsroom/lead" in pasted(shell + line)
    assert not any(stack["admin_token"] in line for line in lines)
    assert {file.stat().st_mode & 0o777 for file in (kept / "demo").iterdir()} == {0o600}
    running.process.send_signal(signal.SIGTERM)
    code, _, err = running.end()
    assert (code, err) == (0, "")
    wait_until(lambda: not is_open(port), "the end of the tool server")
    assert not is_running(running.process.pid)


def test_a_step_that_fails_is_named_in_one_line(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    stack = {"api_url": nobody, "admin_token": "x", "data_dir": str(tmp_path)}
    (tmp_path / "logs").mkdir()
    program = (
        "import os, sys; from caracal.demo import run;"
        f"sys.exit(run({stack!r} | {{'pid': os.getpid()}}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"caracal: the demo failed at step 1, create zone: [^\n]+\n", ended.stderr)


def pasted(line: str) -> str:
    """Run a printed line in a shell; return what it prints."""
    run = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert run.stderr == ""
    return run.stdout


def pasted_until(line: str, true: Callable[[str], object]) -> str:
    """Run it again until its output is as wanted: the ledger follows the decisions."""
    outputs: list[str] = []

    def try_again() -> bool:
        outputs.append(pasted(line))
        return bool(true(outputs[-1]))

    wait_until(try_again, line)
    return outputs[-1]
