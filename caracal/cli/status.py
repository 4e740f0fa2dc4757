"""``caracal status``: whether each service is ready, how fresh it is, and what was set aside."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import typer

from caracal.cli.command import command, single
from caracal.cli.connection import Cli
from caracal.cli.outcome import REFUSED
from caracal.cli.ready import ready

_COLUMNS = (
    *("service", "state", "reason", "version", "position", "behind", "staleness_ms"),
    *("parked", "quarantined", "dead_letters"),
)
_READY = ("ready", "degraded")

status = single()
_url = partial(typer.Option, rich_help_panel="Where", show_default=False)


@command(status, "status", zoned=False, coordinator=True)
def run(
    cli: Cli,
    sts_url: Annotated[str | None, _url(envvar="CARACAL_STS_URL", help="STS.")] = None,
    gateway_url: Annotated[str | None, _url(envvar="CARACAL_GATEWAY_URL", help="Gateway.")] = None,
    worker_url: Annotated[str | None, _url(envvar="CARACAL_WORKER_URL", help="Worker.")] = None,
    siem_url: Annotated[str | None, _url(envvar="CARACAL_SIEM_URL", help="SIEM process.")] = None,
) -> None:
    """Show of each service whether it is ready, and how far it is behind the others.

    Exit code 1: one is not ready, or out of reach.
    """
    urls = {
        "api": cli.api_url,
        "sts": cli.url_of("sts", sts_url),
        "coordinator": cli.coordinator_url,
        "gateway": cli.url_of("gateway", gateway_url),
        "worker": cli.url_of("worker", worker_url),
        "siem": cli.url_of("siem", siem_url),
    }
    rows = states({name: url for name, url in urls.items() if url})
    for row in rows:
        if row["service"] == "worker":
            row["dead_letters"] = _dead_letters(cli.stack.get("redis_url"))
    cli.out.rows(rows, _COLUMNS, "No services.")
    if any(row["state"] not in _READY for row in rows):
        raise typer.Exit(REFUSED)


def states(urls: dict[str, str]) -> list[dict[str, Any]]:
    """Ask all services at once; return a row of each."""
    with ThreadPoolExecutor(len(urls)) as threads:
        answers = list(threads.map(_asked, urls.values()))
    newest = max((answer.get("position") or 0 for answer in answers), default=0)
    return [
        _row(service, url, answer, newest)
        for (service, url), answer in zip(urls.items(), answers, strict=True)
    ]


def _asked(url: str) -> dict[str, Any]:
    try:
        _, body = ready(url)
        answer = json.loads(body)
    except (OSError, http.client.HTTPException) as error:
        return {"reached": False, "reason": f"{type(error).__name__} at {url}"}
    except ValueError:
        answer = None
    told = answer if isinstance(answer, dict) else {"ok": False, "error": "invalid_response"}
    return {**told, "reached": True}


def _row(service: str, url: str, answer: dict[str, Any], newest: int) -> dict[str, Any]:
    position = answer.get("position")
    return {
        "service": service,
        "state": _state(answer),
        "reason": answer.get("reason") or answer.get("error"),
        "version": answer.get("version"),
        "position": position,
        "behind": None if position is None else max(0, newest - position),
        "staleness_ms": answer.get("staleness_ms"),
        "parked": answer.get("parked"),
        "quarantined": answer.get("quarantined"),
        "dead_letters": answer.get("dead_letters"),
        "url": url,
    }


def _state(answer: dict[str, Any]) -> str:
    if not answer["reached"]:
        return "out of reach"
    if answer.get("draining"):
        return "draining"
    if not answer.get("ok"):
        return "not ready"
    return "degraded" if answer.get("degraded") else "ready"


def _dead_letters(redis_url: str | None) -> int | None:
    """Return how many entries were not ours, on all topics; None when that cannot be known."""
    if redis_url is None:
        return None
    import redis

    from caracal.events.topics import AUDIT_DEAD, SIEM_DEAD, TOPICS

    try:
        with redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
            names = [*(topic.dead for topic in TOPICS.values()), AUDIT_DEAD, SIEM_DEAD]
            return sum(int(client.xlen(name)) for name in names)
    except (redis.RedisError, OSError):
        return None
