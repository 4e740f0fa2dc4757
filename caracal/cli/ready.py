"""Waiting for a service's own word that it is ready."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from caracal.errors import StartError

_LIMIT = 30.0  # s
_MAX_BODY = 64 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # s; asks far less often than services allow


def await_ready(service: str, url: str, check: Callable[[], None]) -> None:
    """Return once ``GET url/ready`` answers 200.

    Args:
        check: called between the attempts; raises to give up.

    Raises:
        StartError: not ready after half a minute.
    """
    limit, pause = time.monotonic() + _LIMIT, _FIRST_PAUSE
    while (answer := _ask(url)) != "200":
        check()
        if time.monotonic() > limit:
            raise StartError(f"{service} is not ready after {_LIMIT:.0f} s: {answer}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _ask(url: str) -> str:
    """Return the status of ``/ready``, with the body unless it is 200, or why there is none."""
    try:
        status, body = ready(url)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"
    told = body[:500].decode(errors="replace").strip()
    return "200" if status == 200 else f"{status} {told}"


def ready(url: str) -> tuple[int, bytes]:
    """Return status and body of ``GET url/ready``.

    Raises:
        OSError, HTTPException: no answer.
    """
    connection = _connect(url)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        return response.status, response.read(_MAX_BODY)
    finally:
        connection.close()


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host, port, patience = parts.hostname or "", parts.port, 2.0
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=patience)
    context = ssl.create_default_context()  # its certificate names another host than loopback
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=patience, context=context)
