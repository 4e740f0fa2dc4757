"""A program for the tests: the command line ``caracal`` with services of a few lines.

``TINY_SICK`` (JSON) says what is wrong with which service, ``TINY_DEMO`` how the demo ends.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType
from typing import Any

from caracal.cli import main
from caracal.errors import StartError
from caracal.services.run import ASGIApp
from caracal.settings import SERVICES, Settings


def create_app(settings: Settings) -> ASGIApp:
    """Answer every GET with the process id; ``/exit`` ends the process."""
    sickness = json.loads(os.environ.get("TINY_SICK", "{}")).get(settings.service)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["path"] == "/exit":
            os._exit(7)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

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
    for service in SERVICES:
        replace(f"caracal.services.{service}.app", create_app=create_app)
    replace("caracal.demo", run=demo)
    main()
