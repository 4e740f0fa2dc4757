"""The schema: numbered migrations, applied once, in order, under an advisory lock.

Tables of read models are not here: a projection owns its table, and a changed one is rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import psycopg

_LOCK = 4846791580151137090


def migrate(database_url: str) -> None:
    """Bring the database to this version's schema; harmless when it is, or when others do too.

    Raises:
        psycopg.Error: the server cannot be reached or refuses.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (number int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = {row[0] for row in connection.execute("SELECT number FROM migrations")}
        for number, statements in _migrations():
            if number not in done:
                with connection.transaction():
                    connection.execute(statements)
                    connection.execute("INSERT INTO migrations (number) VALUES (%s)", (number,))
        _create_functions(connection)


def _migrations() -> Iterator[tuple[int, bytes]]:
    folder = resources.files("caracal.events.store") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            yield int(file.name.partition("_")[0]), file.read_bytes()


def _create_functions(connection: psycopg.Connection) -> None:
    folder = resources.files("caracal.events.store")
    for name in ("append.sql", "checkpoint.sql"):
        connection.execute((folder / name).read_bytes())
