"""What ``from_env`` reads: variables as the keywords of ``Caracal``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caracal.client.key import ClientKey

REQUIRED = {
    "zone_id": "CARACAL_ZONE_ID",
    "application_id": "CARACAL_APPLICATION_ID",
    "sts_url": "CARACAL_STS_URL",
    "coordinator_url": "CARACAL_COORDINATOR_URL",
    "resources": "CARACAL_RESOURCES",
}
_OPTIONAL = {
    "client_secret": "CARACAL_CLIENT_SECRET",
    "client_key_id": "CARACAL_CLIENT_KEY_ID",
    "scope": "CARACAL_SCOPE",
    "gateway_url": "CARACAL_GATEWAY_URL",
    "upstreams": "CARACAL_UPSTREAMS",
    "issuer": "CARACAL_ISSUER",
}
_CLIENT_KEY, _DPOP, _DPOP_KEY = "CARACAL_CLIENT_KEY_FILE", "CARACAL_DPOP", "CARACAL_DPOP_KEY_FILE"
_SAID = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def from_variables(environ: Mapping[str, str], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that are set; those of ``more`` win, and their variables are not read.

    Raises:
        ValueError: a variable, or the file that it names, cannot be read.
    """
    names = {**REQUIRED, **_OPTIONAL}
    found: dict[str, Any] = {k: environ[name] for k, name in names.items() if environ.get(name)}
    if "resources" in found:
        found["resources"] = found["resources"].split()
    if "upstreams" in found and "upstreams" not in more:
        found["upstreams"] = dict(map(_upstream, found["upstreams"].split()))
    if "client_key" in more or "client_secret" in more:  # one way to prove oneself
        found.pop("client_secret", None)
    elif environ.get(_CLIENT_KEY):
        found["client_key"] = _key(environ, _CLIENT_KEY)
    if "dpop" not in more:
        found["dpop"] = _dpop(environ)
    return found | dict(more)


def _dpop(environ: Mapping[str, str]) -> bool | ClientKey:
    file, said = environ.get(_DPOP_KEY), environ.get(_DPOP, "").strip().lower()
    if said and said not in _SAID:
        raise ValueError(f"{_DPOP} must be 1 or 0")
    wanted = _SAID[said] if said else bool(file)
    return _key(environ, _DPOP_KEY) if wanted and file else wanted


def _key(environ: Mapping[str, str], name: str) -> ClientKey:
    from caracal.client.key import ClientKey  # brings cryptography, which not everyone needs

    try:
        return ClientKey.from_file(environ[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _upstream(text: str) -> tuple[str, str]:
    prefix, equals, resource = text.partition("=")
    if not equals:
        raise ValueError("CARACAL_UPSTREAMS must be prefix=resource, space separated")
    return prefix, resource
