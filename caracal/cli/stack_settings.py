"""What ``caracal up`` tells its services, and what it tells the user in ``DIR/stack.json``."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from caracal.errors import StartError
from caracal.settings import Service, Settings, load_settings

HOST = "127.0.0.1"
_TOKENS = ("CARACAL_ADMIN_TOKEN", "CARACAL_COORDINATOR_TOKEN")
_KEYS = (
    "ZONE_KEK",
    "FACTS_HMAC_KEY",
    "STREAMS_HMAC_KEY",
    "AUDIT_HMAC_KEY",
    "GATEWAY_STS_HMAC_KEY",
)
_DEFAULTS = {
    "CARACAL_MODE": "dev",
    "ALLOW_PRIVATE_UPSTREAMS": "loopback",
    "SHUTDOWN_GRACE_MS": "1800",  # all of them must be down within ten seconds
}


def is_given(name: str) -> bool:
    """Say whether the environment sets variable ``name``, itself or by a file."""
    return bool(os.environ.get(name) or os.environ.get(f"{name}_FILE"))


def settings_of_stack(
    keys: Path, ports: Mapping[Service, int], servers: Mapping[str, str]
) -> dict[Service, Settings]:
    """Return the settings of each service; keys nobody gives are made in ``keys`` and kept there.

    Args:
        servers: ``DATABASE_URL``, ``REDIS_URL`` of the servers that the stack runs itself.

    Raises:
        StartError: a variable is wrong, or ``keys`` cannot be written.
    """
    sts = f"http://{HOST}:{ports['sts']}"
    api = f"http://{HOST}:{ports['api']}"
    defaults = {**_DEFAULTS, "ISSUER_URL": sts, "API_URL": api}
    common = {name: value for name, value in defaults.items() if not is_given(name)}
    common |= {"HOST": HOST, "STS_URL": sts, **servers, **_key_files(keys)}
    return {name: load_settings(name, common | {"PORT": str(port)}) for name, port in ports.items()}


def _key_files(keys: Path) -> dict[str, str]:
    missing = [name for name in (*_KEYS, *_TOKENS) if not is_given(name)]
    try:
        keys.mkdir(mode=0o700, exist_ok=True)
        return {f"{name}_FILE": str(_key_file(keys, name)) for name in missing}
    except OSError as error:
        raise StartError(f"{keys} cannot be written: {error.strerror}") from error


def _key_file(keys: Path, name: str) -> Path:
    file = keys / name.lower()
    if not file.exists():
        secret = secrets.token_urlsafe(32) if name in _TOKENS else secrets.token_hex(32)
        write_private(file, secret)
    return file


def write_private(file: Path, text: str) -> None:
    """Write ``file``, complete or not at all, so that only its owner can read it."""
    making = file.with_name(f".{file.name}.making")
    making.unlink(missing_ok=True)
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    making.replace(file)


def url(settings: Settings) -> str:
    """Return where the service with these settings listens."""
    scheme = "https" if settings.service == "gateway" and settings.tls_cert_file else "http"
    return f"{scheme}://{settings.host}:{settings.port}"


def stack_json(stack: Mapping[Service, Settings], data_dir: Path) -> dict[str, str | int]:
    """Return the content of ``stack.json``: exactly the keys that other tools rely on."""
    api, worker = stack["api"], stack["worker"]
    return {
        **{f"{name}_url": url(stack[name]) for name in ("api", "sts", "coordinator", "gateway")},
        "issuer_url": stack["sts"].issuer_url,
        "admin_token": api.caracal_admin_token,
        "coordinator_token": stack["coordinator"].caracal_coordinator_token,
        "database_url": api.database_url,
        "redis_url": api.redis_url,
        "streams_hmac_key": _hex(worker.streams_hmac_key),
        "audit_hmac_key": _hex(worker.audit_hmac_key),
        "zone_kek_file": os.environ.get("ZONE_KEK_FILE") or str(data_dir / "keys" / "zone_kek"),
        "data_dir": str(data_dir),
        "pid": os.getpid(),
    }


def _hex(ring: tuple[bytes, ...]) -> str:
    return ",".join(key.hex() for key in ring)


def write_stack_json(file: Path, stack: Mapping[str, str | int]) -> None:
    """Write ``stack.json``, 0600."""
    write_private(file, json.dumps(stack, indent=2) + "\n")
