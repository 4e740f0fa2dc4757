"""``python -m tests.flow.nursery``: a process that has imported the product, and forks services.

A fork costs a twentieth of an interpreter, so a test may kill a service and start it again as
often as it likes. Orders and answers are JSON lines; when its standard input ends, it ends, and
all services with it.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from caracal.cli.processes import Children
from caracal.services.run import CreateApp, app_factory, bind, serve
from caracal.settings import PORTS, load_settings

HOST = "127.0.0.1"
_OWN = ("CARACAL_", "DATABASE_URL", "REDIS_URL")


class Nursery:
    """The process, as tests see it."""

    def __init__(self) -> None:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(_OWN)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.flow.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept,
            process_group=0,
        )

    def reserve(self) -> int:
        """Return a port that nobody else gets, on which nobody listens yet."""
        return int(self._ask(reserve=True))

    def fork(self, service: str, settings: Mapping[str, str], log: Path) -> int:
        """Start a service; ``settings`` by variable name. Return its process id."""
        return int(self._ask(fork=service, settings=dict(settings), log=str(log)))

    def running(self) -> set[str]:
        """Return the logs of those that run; the others have been reaped."""
        return set(self._ask(running=True))

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class _Parent:
    """What the process does."""

    def __init__(self) -> None:
        self._factories = {service: app_factory(service) for service in PORTS}
        self._children = Children()
        self._reserved: list[socket.socket] = []

    def obey(self, order: dict[str, Any]) -> Any:
        if "fork" in order:
            return self._fork(order)
        if "reserve" in order:
            self._reserved.append(bind(HOST, 0))
            return self._reserved[-1].getsockname()[1]
        return self._children.running()

    def _fork(self, order: dict[str, Any]) -> int:
        work = _work(self._factories[order["fork"]], order)
        read, write = os.pipe()

        def told() -> int:
            os.write(write, str(os.getpid()).encode())
            return work()

        with Path(order["log"]).open("ab") as log:
            self._children.fork(order["log"], told, log)
        pid = int(os.read(read, 20))
        os.close(read)
        os.close(write)
        return pid


def _work(create_app: CreateApp, order: dict[str, Any]) -> Callable[[], int]:
    def work() -> int:
        settings = load_settings(order["fork"], order["settings"])
        return serve(create_app(settings), settings, bind(settings.host, settings.port))

    return work


def main() -> None:
    parent = _Parent()
    gc.freeze()  # collecting in the children would write to, and so copy, every shared page
    for line in sys.stdin:
        print(json.dumps(parent.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
