"""From the command line to the last service's readiness."""

from __future__ import annotations

import time

from bench.report import Row, Value, at_most
from bench.setting import Setting
from bench.stack import Stack


async def ready(setting: Setting) -> Row:
    """Start on an empty directory, stop, start again."""
    stack = Stack(setting.folder / "started")
    try:
        cold = stack.start()
        setting.say(f"cold: {cold:.2f} s")
        began = time.perf_counter()
        stack.stop()
        down = time.perf_counter() - began
        warm = stack.start()
        setting.say(f"warm: {warm:.2f} s")
    finally:
        stack.stop()
    return Row(
        "`caracal up` ready",
        "the command to stack.json written: both servers, five services",
        [
            at_most("cold", cold, "s", 6),
            at_most("warm", warm, "s", 4),
            Value("all down", down, "s"),
        ],
    )
