"""Policies that are kept apart from the process that serves: they may stall, they may die.

Each :class:`Apart` is one process, started when it is first wanted and killed when it takes too
long. :class:`ApartPool` are several for decisions: a bundle takes at most one of them, so that one
that stalls again and again leaves the others free.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

import orjson

from caracal.policy.engine import Bundle, Decision, PolicyCompileError, deny
from caracal.policy.limits import command, environment
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Decisions on one bundle that wait for their turn; more are denied at once."""

_GONE = (OSError, EOFError, ValueError, TimeoutError)
"""What the pipes say of a process that died, or did not answer in time."""

_START_SECONDS = 10.0
_COMPILE_SECONDS = 5.0
_LONGEST_ANSWER = 1 << 20


class Stalled(Exception):
    """It took too long, or too much: the process is gone."""


class Apart:
    """One process; one piece of work at a time. ``timeout`` in seconds is for an evaluation."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None

    async def evaluate(self, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decide on one input.

        Raises:
            Stalled: it was killed, by us or by a limit.
            PolicyCompileError: the bundle cannot be used.
        """
        try:
            work = _line({"key": bundle.manifest_sha256, "input": policy_input})
        except TypeError:  # it is no JSON
            return deny("policy_eval_failed", status="error")
        try:
            await self._started()
            answer = await self._ask(work, self._timeout)
            if "unknown" in answer:
                await self._load(bundle)
                answer = await self._ask(work, self._timeout)
        except _GONE as error:
            raise Stalled(type(error).__name__) from None
        return Decision(**answer["decision"])

    def warm(self) -> None:
        """Begin to start the process, unless it runs."""
        if self._process is None and (self._starting is None or self._starting.done()):
            self._starting = asyncio.create_task(self._start(), name="policy process")

    async def close(self) -> None:
        """End the process."""
        if self._starting is not None:
            await cancelled(self._starting)
        if self._process is not None:
            process, self._process = self._process, None
            _kill(process)
            await process.wait()

    async def _load(self, bundle: Bundle) -> None:
        work = {"key": bundle.manifest_sha256, "modules": bundle.modules}
        answer = await self._ask(_line(work), _COMPILE_SECONDS)
        if answer["failed"] is not None:
            raise PolicyCompileError(answer["failed"])

    async def _ask(self, work: bytes, timeout: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError
        try:
            async with asyncio.timeout(timeout):
                process.stdin.write(work)
                await process.stdin.drain()
                return dict(orjson.loads(await process.stdout.readline()))
        except BaseException:  # a later answer would be taken for that of the next work
            self._replace(process)
            raise

    def _replace(self, process: asyncio.subprocess.Process) -> None:
        """Kill it, and start the next one before it is wanted."""
        _kill(process)
        self._process = None
        self._starting = asyncio.create_task(self._start(process), name="policy process")

    async def _started(self) -> None:
        self.warm()
        if self._process is None and self._starting is not None:
            await asyncio.wait([self._starting], timeout=_START_SECONDS)

    async def _start(self, before: asyncio.subprocess.Process | None = None) -> None:
        if before is not None:
            await before.wait()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command("caracal.policy.apart_main"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_ANSWER,
                env=environment(),
            )
            await self._ask(_line({"key": "", "input": None}), _START_SECONDS)
        except _GONE as error:
            logger.error("the process for policies did not start: %s", type(error).__name__)


class ApartPool:
    """Processes for decisions; ``timeout`` in seconds is for the wait, and for the evaluation."""

    def __init__(self, timeout: float, size: int = 2) -> None:
        self._timeout = timeout
        self._all = [Apart(timeout) for _ in range(size)]
        self._idle: asyncio.LifoQueue[Apart] = asyncio.LifoQueue()
        for one in self._all:
            self._idle.put_nowait(one)
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self.stalls = 0

    def warm(self) -> None:
        """Start the processes: they will be wanted."""
        for one in self._all:
            one.warm()

    async def evaluate(self, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decide on one input; what stalls, or gets no turn in time, denies with status ``error``.

        Raises:
            PolicyCompileError: the bundle cannot be used.
        """
        try:
            async with self._turn(bundle.manifest_sha256) as apart:
                return await apart.evaluate(bundle, policy_input)
        except Stalled as stalled:
            self.stalls += 1
            logger.warning("policy %s, kept apart: %s", bundle.manifest_sha256, stalled)
            return deny("policy_eval_failed", status="error")

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(one.close() for one in self._all))

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[Apart]:
        turn = self._turns.setdefault(key, _Turn())
        if turn.waiting >= MAX_WAITING:
            raise Stalled("too many wait")
        async with AsyncExitStack() as stack:
            turn.waiting += 1
            try:
                async with asyncio.timeout(self._timeout):
                    await stack.enter_async_context(turn.lock)
                    apart = await self._idle.get()
                    stack.callback(self._idle.put_nowait, apart)
            except TimeoutError:
                raise Stalled("no turn in time") from None
            finally:
                turn.waiting -= 1
            yield apart


class _Turn:
    """Whose turn it is for one bundle."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def _line(work: Mapping[str, Any]) -> bytes:
    return orjson.dumps(work) + b"\n"


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
