"""Ctrl-C while a blocking client works: run by ``test_agents_faults`` in a process of its own.

An interrupt that came to the wrong place would end the run of all tests.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from types import FrameType
from typing import Any

import httpx
import pytest

from caracal.client import SyncCaracal
from tests.client.test_agents_faults import LIMIT, TOKEN, options

AGENT = {"id": "agent", "application_id": "app", "subject_session_id": "s", "depth": 0}


class Interrupting:
    """STS and Coordinator of a blocking client; presses Ctrl-C twice before it answers one."""

    def __init__(self, method: str) -> None:
        self.method, self.came, self.presses = method, threading.Event(), 0
        self.asked: list[str] = []
        self._interrupted: FrameType | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json=TOKEN)
        self.asked.append(request.method)
        if request.method == self.method:
            self.press()
            self.press()  # impatience changes nothing
        return httpx.Response(200, json=AGENT)

    def press(self) -> None:
        """Interrupt the main thread while it waits; return when it has noticed."""
        main = threading.main_thread().ident
        assert main is not None
        end = time.monotonic() + LIMIT
        while not (found := self._asleep(main)):
            assert time.monotonic() < end
        self._interrupted = found
        self.came.clear()
        signal.pthread_kill(main, signal.SIGINT)
        assert self.came.wait(LIMIT)
        self.presses += 1

    def _asleep(self, thread: int) -> FrameType | None:
        """Return where a thread sleeps that waits anew: what it does it still does a little later.

        Interrupted on its way to sleep, a thread may keep the locks of the standard library.
        """
        before = _waiting(thread)
        time.sleep(0.005)
        found, *_ = after = _waiting(thread)
        return found if before == after and found is not self._interrupted else None

    def notice(self, *_: Any) -> None:
        self.came.set()
        raise KeyboardInterrupt


def _waiting(thread: int) -> tuple[FrameType | None, FrameType, int]:
    """Return where a thread waits for a future: beyond beginning the work, before its outcome.

    Beside it what it does there, to the instruction.
    """
    frame: FrameType | None = (innermost := sys._current_frames()[thread])
    while frame is not None and frame.f_code not in (Future.result.__code__, wait.__code__):
        frame = frame.f_back
    return frame, innermost, innermost.f_lasti


@pytest.fixture
def pressing(request: pytest.FixtureRequest) -> Iterator[Interrupting]:
    made = Interrupting(request.param)
    before = signal.signal(signal.SIGINT, made.notice)
    yield made
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("pressing", ["POST", "DELETE"], indirect=True)
def test_ctrl_c_while_an_agent_begins_or_ends(pressing: Interrupting) -> None:
    http = httpx.Client(transport=httpx.MockTransport(pressing))
    body = []
    with (
        SyncCaracal(**options("http://any", http_client=http)) as caracal,
        pytest.raises(KeyboardInterrupt),
        caracal.spawn(),
    ):
        body.append("ran")
    assert pressing.asked == ["POST", "DELETE"], "made and undone, or ended"
    assert pressing.presses == 2
    assert body == ([] if pressing.method == "POST" else ["ran"])


@pytest.mark.parametrize("pressing", ["PATCH"], indirect=True)
def test_ctrl_c_while_a_token_is_fetched_does_not_reach_the_others(pressing: Interrupting) -> None:
    gate = threading.Event()

    def fetching(request: httpx.Request) -> httpx.Response:
        pressing.press()
        assert gate.wait(LIMIT)
        return pressing(request)

    http = httpx.Client(transport=httpx.MockTransport(fetching))
    with SyncCaracal(**options("http://any", http_client=http)) as caracal:
        with pytest.raises(KeyboardInterrupt):
            caracal.tokens.token()
        gate.set()
        assert caracal.tokens.token() == "t.o.k"
