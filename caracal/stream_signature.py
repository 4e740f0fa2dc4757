"""Signatures of topic entries: HMAC-SHA256 over a canonical form (spec: stream signature)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping

FIELD = "_sig"
_NAME = re.compile(r"[a-z0-9_]+")


def canonical(topic: str, fields: Mapping[str, str | None]) -> bytes:
    """Return the bytes that are signed: topic, then ``name=value`` sorted by name, a line each."""
    lines = [
        f"{name}={value}\n"
        for name in sorted(fields)  # by code point, which is the order of the bytes in UTF-8, too
        if name != FIELD and (value := fields[name]) is not None
    ]
    return f"{topic}\n{''.join(lines)}".encode()


class Keyring:
    """The keys of one kind of topic: the first signs, all verify.

    An empty ring signs nothing and accepts everything; settings allow that only in dev mode.
    """

    def __init__(self, keys: tuple[bytes, ...] = ()) -> None:
        # Keyed once: a copy of this costs half of what keying anew for each entry does.
        self._macs = [hmac.new(key, digestmod="sha256") for key in keys]

    def __bool__(self) -> bool:
        return bool(self._macs)

    def sign(self, topic: str, fields: Mapping[str, str | None]) -> str | None:
        """Return the lower-case hex signature; None without a key."""
        if not self._macs:
            return None
        return _digest(self._macs[0], topic, fields)

    def signed(self, topic: str, fields: Mapping[str, str]) -> dict[str, str]:
        """Return the entry with its signature, as it is written to ``topic``.

        Raises:
            ValueError: a field name or a value that would make the canonical form ambiguous.
        """
        for name, value in fields.items():
            if not _NAME.fullmatch(name) and name != FIELD:
                raise ValueError(f"field name not allowed: {name!r}")
            if "\n" in value:
                raise ValueError(f"newline in the value of {name!r}")
        entry = {name: value for name, value in fields.items() if name != FIELD}
        signature = self.sign(topic, entry)
        return entry if signature is None else {**entry, FIELD: signature}

    def verify(self, topic: str, fields: Mapping[str, str]) -> bool:
        """Say whether one of the keys made the entry's signature; constant time per key."""
        if not self._macs:
            return True
        signature = fields.get(FIELD)
        if not isinstance(signature, str) or not signature.isascii():
            return False
        matches = [
            hmac.compare_digest(signature, _digest(mac, topic, fields)) for mac in self._macs
        ]
        return any(matches)


def _digest(keyed: hmac.HMAC, topic: str, fields: Mapping[str, str | None]) -> str:
    mac = keyed.copy()
    mac.update(canonical(topic, fields))
    return mac.hexdigest()
