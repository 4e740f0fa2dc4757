"""The Gateway's counters, by the contract's names."""

from __future__ import annotations

NAMES = (
    "requests_total",
    "requests_allowed",
    "requests_denied",
    "denials_missing_auth",
    "denials_bad_bearer",
    "denials_expiring",
    "denials_bad_routing",
    "denials_path_traversal",
    "denials_signature",
    "denials_jti_replay",
    "denials_revoked",
    "denials_binding",
    "sts_exchange_errors",
    "upstream_errors",
)

DENIALS = frozenset(name for name in NAMES if name.startswith("denials_")) | {"sts_exchange_errors"}


class Counters(dict[str, int]):
    """Flat integers that only rise."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(NAMES, 0))

    def add(self, name: str) -> None:
        """Count once more; a denial counts as a denied request too."""
        self[name] += 1
        if name in DENIALS:
            self["requests_denied"] += 1
