"""Read models: one file each, table, reducers, queries. A new read model is a line here."""

from caracal.projections.admin_token import admin_tokens
from caracal.projections.projection import Projection
from caracal.projections.zone import zones

PROJECTIONS: tuple[Projection, ...] = (
    zones,
    admin_tokens,
)
