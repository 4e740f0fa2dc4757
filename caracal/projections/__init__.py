"""Read models: one file each, table, reducers, queries. A new read model is a line here."""

from caracal.projections.projection import Projection
from caracal.projections.zone import zones

PROJECTIONS: tuple[Projection, ...] = (zones,)
