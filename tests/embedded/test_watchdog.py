"""``caracal up`` and ``caracal serve`` when evaluations hold or kill the STS."""

from __future__ import annotations

import http.client
import json
import os
import signal
from pathlib import Path

import pytest

from caracal.cli.watchdog import ALL_LOSSES
from tests.embedded.conftest import (
    Program,
    StackOf,
    Start,
    Up,
    children_of,
    is_running,
    wait_until,
)
from tests.embedded.test_up import answers, free_port, get, serve_variables

pytestmark = pytest.mark.flow

LOST = (http.client.RemoteDisconnected, ConnectionResetError)


def lose(url: str, way: str, zone: str = "z") -> None:
    """Ask for what the process does not survive."""
    with pytest.raises(LOST):
        get(url, f"/evaluate/{way}/{zone}")


def apart(url: str) -> set[str]:
    return set(json.loads(get(url, "/apart")))


@pytest.mark.parametrize(("way", "code"), [("spin", -9), ("grow", -9), ("crash", -11)])
def test_up_replaces_an_sts_that_an_evaluation_holds_or_kills(
    up: Up, stack_of: StackOf, data_dir: Path, way: str, code: int
) -> None:
    running = up()
    stack = stack_of()
    sts, others = stack["sts_url"], [stack["api_url"], stack["gateway_url"]]
    before, pids = get(sts), [get(url) for url in others]
    assert apart(sts) == set()
    lose(sts, way)
    after = get(sts)  # it waits until the new one is there
    assert after != before
    assert not is_running(int(before))
    assert apart(sts) == {"sha of z"}
    assert [get(url) for url in others] == pids
    assert get(sts) == after
    running.signal(signal.SIGTERM)
    ended, _, errors = running.end()
    assert ended == 0
    assert errors == (
        f"caracal: sts was lost (exit code {code}) in an evaluation of policies sha of z"
        " of zone z: they are kept apart now\n"
    )
    log = (data_dir / "logs" / "sts.log").read_text()
    assert log.count("Application startup complete") == 2


def test_one_that_only_waits_is_left_alone(up: Up, stack_of: StackOf) -> None:
    """On a busy machine, or stopped: an evaluation that has used no processor is not stuck."""
    running = up(POLICY_EVAL_TIMEOUT_MS="100")
    sts = stack_of()["sts_url"]
    before = get(sts)
    assert get(sts, "/evaluate/wait/z") == before
    assert apart(sts) == set()
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 0


def serve_sts(start: Start, database_url: str, redis_url: str, *args: str) -> tuple[Program, str]:
    port = free_port()
    given = serve_variables(database_url, redis_url) | {"ISSUER_URL": "http://127.0.0.1:8080"}
    running = start("tiny_caracal.py", "serve", "sts", "--port", str(port), *args, **given)
    wait_until(lambda: answers(port), "the service")
    return running, f"http://127.0.0.1:{port}"


def test_losses_are_bounded(start: Start, database_url: str, redis_url: str) -> None:
    """By zone, then by all; what is evaluated then nevertheless ends the service."""
    running, url = serve_sts(start, database_url, redis_url)
    for _ in range(3):
        lose(url, "crash", "a")
    assert apart(url) == {"sha of a", "a"}
    for number in range(3, ALL_LOSSES):
        assert "*" not in apart(url)
        lose(url, "crash", f"z{number}")
    assert "*" in apart(url)
    lose(url, "crash", "b")
    code, _, errors = running.end()
    assert code == 1
    assert errors.splitlines()[-1] == "caracal: sts 1 died (exit code -11)"
    assert errors.count("was lost") == ALL_LOSSES


def test_every_process_learns_what_one_was_lost_by(
    start: Start, database_url: str, redis_url: str
) -> None:
    running, url = serve_sts(start, database_url, redis_url, "--workers", "2")
    wait_until(lambda: len({get(url) for _ in range(4)}) == 2, "both processes")
    before = children_of(running.pid)
    lose(url, "spin")
    wait_until(lambda: len({get(url) for _ in range(4)}) == 2, "both processes")
    assert len(children_of(running.pid) & before) == 1
    assert all(apart(url) == {"sha of z"} for _ in range(8))
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 0


def test_one_that_is_killed_outside_of_an_evaluation_ends_all(
    start: Start, database_url: str, redis_url: str
) -> None:
    running, url = serve_sts(start, database_url, redis_url)
    os.kill(int(get(url)), signal.SIGKILL)
    code, _, errors = running.end()
    assert (code, errors.splitlines()[-1]) == (1, "caracal: sts 1 died (exit code -9)")
