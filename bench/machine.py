"""The machine and the versions that figures belong to; no name or path that tells whose it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis

_LIBRARIES = (
    "caracal",
    "uvicorn",
    "uvloop",
    "fastapi",
    "starlette",
    "aiohttp",
    "psycopg",
    "redis",
    "gordon-to-regorus",
    "cryptography",
)


def machine(data: Path) -> dict[str, Any]:
    """Return what runs here; ``data`` is where the servers keep theirs."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "data_on": _file_system(data),
        "load_before_1_min": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds ``folder``."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(point, kind) for _, point, kind, *_ in mounts if folder.is_relative_to(point)]
    return max(holding, default=("", "unknown"), key=lambda mount: len(mount[0]))[1]


def server_versions(database_url: str, redis_url: str) -> dict[str, str]:
    """Return the versions of the servers in use."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    with Redis.from_url(redis_url) as client:
        info: dict[str, Any] = client.info("server")
    return {
        "postgresql": str(row[0]).split()[0] if row else "unknown",
        str(info.get("server_name", "redis")): str(
            info.get("valkey_version") or info["redis_version"]
        ),
    }
