"""What of a provider's configuration is secret, and how a change merges into it.

A name stands in one part only. One that is sealed stays sealed until it is removed, so nothing
that was once given as a secret is shown because it is given again in the other member.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

_SECRET = re.compile(
    r"secret|password|token|api[_-]?key|private[_-]?key|credential|passphrase", re.IGNORECASE
)
_PUBLIC_ALL_THE_SAME = frozenset(
    (
        *("token_url", "token_uri", "token_endpoint", "token_endpoint_auth_method"),
        *("token_type", "allowed_token_hosts"),
    )
)


@dataclass(frozen=True, slots=True)
class Config:
    """Both parts of a configuration; in a change, null removes a name."""

    public: dict[str, Any]
    secret: dict[str, Any]

    def changed(self, change: Config) -> Config:
        """Return the configuration after a change; what became secret leaves the public part."""
        public, secret = (
            _merge(self.public, change.public),
            _merge(self.secret, change.secret),
        )
        return Config({name: v for name, v in public.items() if name not in secret}, secret)


def is_secret(name: str) -> bool:
    """Say whether a name is one of a secret: it looks like one, and is no exemption."""
    return _SECRET.search(name) is not None and name not in _PUBLIC_ALL_THE_SAME


def public_only(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without what looks like a secret: the safeguard of answers."""
    return {name: value for name, value in config.items() if not is_secret(name)}


def split(
    config_json: Mapping[str, Any], secret_config: Mapping[str, Any], sealed: Collection[str] = ()
) -> Config:
    """Return what a caller gave as a change of both parts; on a clash ``secret_config`` wins.

    Args:
        config_json: what is public but for its secret names.
        secret_config: secret, all of it.
        sealed: names that are secret already.
    """
    moved = {name: v for name, v in config_json.items() if is_secret(name) or name in sealed}
    secret = moved | dict(secret_config)
    return Config({name: v for name, v in config_json.items() if name not in secret}, secret)


def _merge(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    # RFC 7396, but only its first level
    return {name: value for name, value in {**before, **change}.items() if value is not None}


def hidden_secret(config: Mapping[str, Any]) -> list[str] | None:
    """Return the path to a secret name below the first level of the public part, if any.

    Only the first level is split, so such a value would be stored and shown.
    """
    for name, value in public_only(config).items():
        if (below := _hidden_in(value)) is not None:
            return [name, *below]
    return None


def _hidden_in(value: Any) -> list[str] | None:
    if isinstance(value, dict):
        found = [[name] if is_secret(name) else _below(name, part) for name, part in value.items()]
    elif isinstance(value, list):
        found = [_below(str(index), part) for index, part in enumerate(value)]
    else:
        return None
    return next((path for path in found if path is not None), None)


def _below(name: str, value: Any) -> list[str] | None:
    path = _hidden_in(value)
    return None if path is None else [name, *path]
