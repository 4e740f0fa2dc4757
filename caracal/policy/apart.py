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
from typing import Any, Self
from weakref import WeakValueDictionary

import orjson

from caracal.policy.engine import Bundle, Decision, PolicyCompileError, deny
from caracal.policy.limits import command, environment
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Decisions on one bundle that wait for their turn; more are denied at once."""

_START_SECONDS = 10.0
_COMPILE_SECONDS = 5.0
_LONGEST_ANSWER = 1 << 20


class Stalled(Exception):
    """It took too long, or too much: the process is gone."""


class Crowded(Stalled):
    """It got no turn: too many wait, or those before it stall."""


class Apart:
    """One process; one piece of work at a time. ``timeout`` in seconds is for an evaluation."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: _Process | None = None
        self._starting: asyncio.Task[None] | None = None

    async def evaluate(self, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decide on one input.

        Raises:
            Stalled: it was killed, by us or by a limit.
            PolicyCompileError: the bundle cannot be used.
        """
        key = bundle.manifest_sha256
        try:
            work = _line({"key": key, "input": policy_input})
        except TypeError:  # it is no JSON
            return deny("policy_eval_failed", status="error")
        answer = await self._ask(work, self._timeout)
        if "unknown" in answer:
            modules = _line({"key": key, "modules": bundle.modules})
            loaded = await self._ask(modules, _COMPILE_SECONDS)
            if loaded["failed"] is not None:
                raise PolicyCompileError(loaded["failed"])
            answer = await self._ask(work, self._timeout)
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
            await self._process.end()

    async def _ask(self, work: bytes, timeout: float) -> dict[str, Any]:
        self.warm()
        if self._process is None and self._starting is not None:
            await asyncio.wait([self._starting], timeout=_START_SECONDS)
        if (process := self._process) is None:
            raise Stalled("it does not start")
        try:
            return await process.ask(work, timeout)
        except BaseException:
            self._process = None  # the next one is started before it is wanted
            self._starting = asyncio.create_task(self._start(process), name="policy process")
            raise

    async def _start(self, before: _Process | None = None) -> None:
        if before is not None:
            await before.end()
        try:
            self._process = await _Process.start()
        except (OSError, Stalled) as error:
            logger.error("the process for policies does not start: %s", error)


class _Process:
    """A running process, at the other end of two pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout

    @classmethod
    async def start(cls) -> Self:
        """Return one that is ready for work.

        Raises:
            OSError, Stalled: it does not start.
        """
        started = cls(
            await asyncio.create_subprocess_exec(
                *command("caracal.policy.apart_main"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_ANSWER,
                env=environment(),
            )
        )
        await started.ask(_line({"key": "", "input": None}), _START_SECONDS)
        return started

    async def ask(self, work: bytes, timeout: float) -> dict[str, Any]:
        """Return the answer to a piece of work; whatever goes wrong ends the process.

        Raises:
            Stalled: it died, or took longer than ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                self._in.write(work)
                await self._in.drain()
                return dict(orjson.loads(await self._out.readline()))
        except (OSError, ValueError, TimeoutError) as error:
            self._kill()
            raise Stalled(type(error).__name__) from None
        except BaseException:  # its answer would be taken for that to the next piece
            self._kill()
            raise

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()


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
            if not isinstance(stalled, Crowded):  # of those there may be many
                self.stalls += 1
                logger.warning("policy %s stalls: %s", bundle.manifest_sha256, stalled)
            return deny("policy_eval_failed", status="error")

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(one.close() for one in self._all))

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[Apart]:
        turn = self._turns.setdefault(key, _Turn())
        if turn.waiting >= MAX_WAITING:
            raise Crowded
        async with AsyncExitStack() as stack:
            turn.waiting += 1
            try:
                async with asyncio.timeout(self._timeout):
                    await stack.enter_async_context(turn.lock)
                    apart = await self._idle.get()
                    stack.callback(self._idle.put_nowait, apart)
            except TimeoutError:
                raise Crowded from None
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
