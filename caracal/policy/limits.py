"""How a process that runs policies is started and held: what it may take, what it is told."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "RUST_BACKTRACE": "0",
    "RUST_LIB_BACKTRACE": "0",
    "MIMALLOC_ARENA_RESERVE": "65536",  # KiB; else the engine reserves all the process may have
}


def command(module: str) -> tuple[str, ...]:
    """Return the command that runs ``main`` of a module of this package, in isolated mode."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"
    return (sys.executable, "-I", "-c", code, _ROOT)


def environment() -> dict[str, str]:
    """Nothing of ours but where to find shared libraries: secrets stand in the environment."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return _ENVIRONMENT | ({"LD_LIBRARY_PATH": path} if path else {})


def limit_memory(max_bytes: int) -> None:
    """Let this process have so much memory, and leave no core behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def limit_cpu(seconds: int) -> None:
    """End this process once it has used so many seconds of a processor, in its whole life."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
