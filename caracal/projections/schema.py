"""The tables of all read models."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import psycopg

from caracal.events.store import schema
from caracal.projections import PROJECTIONS
from caracal.projections.projection import Projection

_LOCK = 4846791580151137093


def prepare(database_url: str, projections: Iterable[Projection] = PROJECTIONS) -> list[str]:
    """Bring the database to this version: log, functions, read models.

    Returns:
        The names of read models whose tables have another shape than their declaration; they
        serve on and are to be rebuilt.

    Raises:
        psycopg.Error: the server cannot be reached or refuses.
    """
    schema.migrate(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        return [
            projection.name for projection in projections if not _is_current(connection, projection)
        ]


def _is_current(connection: psycopg.Connection, projection: Projection) -> bool:
    statement = "SELECT shape FROM read_models WHERE projection = %s"
    row = connection.execute(statement, (projection.name,)).fetchone()
    if row is not None:
        return bool(row[0] == shape(projection))
    with connection.transaction():
        for table in projection.tables:
            for ddl in table.ddl():
                connection.execute(ddl.encode())
        connection.execute(
            "INSERT INTO read_models (projection, shape) VALUES (%s, %s)",
            (projection.name, shape(projection)),
        )
    return True


def shape(projection: Projection) -> str:
    """Return a digest of the declared tables: another digest, other tables."""
    ddl = "\n".join(statement for table in projection.tables for statement in table.ddl())
    return sha256(ddl.encode()).hexdigest()
