"""A program for the tests: the command line ``caracal`` with services of a few lines.

``TINY_SICK`` (JSON) says what is wrong with which service, ``TINY_DEMO`` how the demo ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from caracal.cli import main
from caracal.cli.watchdog import MAX_GROWTH
from caracal.errors import StartError
from caracal.policy.beat import label, mine
from caracal.services.run import ASGIApp
from caracal.settings import PORTS, Settings


def create_app(settings: Settings) -> ASGIApp:
    """Answer every GET with the process id; ``/exit`` ends the process.

    ``/evaluate/WAY/ZONE`` does what evaluations of policies may do (``WAYS``), ``/apart`` shows
    what must not be evaluated here.
    """
    sickness = json.loads(os.environ.get("TINY_SICK", "{}")).get(settings.service)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["path"] == "/exit":
            os._exit(7)
        if scope["path"].startswith("/evaluate/"):
            evaluate(*scope["path"].split("/")[2:])
        body = sorted(mine().apart()) if scope["path"] == "/apart" else os.getpid()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def lifespan(receive: Any, send: Any) -> None:
        await receive()
        if sickness == "refuses":
            raise StartError("AUDIT_DURABILITY=fsync needs appendfsync always")
        if sickness == "crashes":
            raise RuntimeError("out of luck")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if sickness == "lingers":
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def evaluate(way: str, zone: str) -> None:
    """Be in an evaluation of a bundle that is named after the zone."""
    beat = mine()
    beat.begin(label(zone, f"sha of {zone}"))
    WAYS[way]()
    beat.end()


def spin() -> None:
    while True:
        pass


def grow() -> None:
    grown = b"x" * (MAX_GROWTH + (1 << 26))
    time.sleep(60)
    del grown


WAYS: dict[str, Callable[[], None]] = {
    "spin": spin,
    "grow": grow,
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "wait": lambda: time.sleep(1),  # as one that gets no processor
}


def demo(stack: dict[str, str | int]) -> int:
    """Say that the demo ran on a whole stack; end as told."""
    print(f"demo of {stack['gateway_url']}", flush=True)
    return int(os.environ["TINY_DEMO"])


def replace(name: str, **members: Any) -> None:
    """Put a module of ours where ``name`` would be imported from."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


if __name__ == "__main__":
    for service in PORTS:
        replace(f"caracal.services.{service}.app", create_app=create_app)
    replace("caracal.demo", run=demo)
    main()
