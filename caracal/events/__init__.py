"""Facts, decisions, refusals: one file an aggregate, no I/O. A new aggregate is a line here."""

from caracal.events.admin_token import AdminToken
from caracal.events.base import Aggregate
from caracal.events.zone import Zone

AGGREGATES: tuple[type[Aggregate], ...] = (
    Zone,
    AdminToken,
)
