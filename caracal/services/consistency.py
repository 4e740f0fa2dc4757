"""``Caracal-Min-Position``: what a caller may ask of a service's view."""

from __future__ import annotations

from caracal.errors import BadInput, Unavailable
from caracal.services.http import Scope, header


def min_position(scope: Scope) -> int | None:
    """Return the position that the caller wants to see; None without one.

    Raises:
        BadInput: 400 ``invalid_params``, no decimal number.
    """
    given = header(scope, b"caracal-min-position")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadInput("invalid_params", "Caracal-Min-Position is a decimal number")
    return int(given)


def lagging() -> Unavailable:
    """Return the refusal of a view that has not come that far."""
    return Unavailable("projection_lagging", "the read models have not come that far yet")
