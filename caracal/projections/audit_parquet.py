"""Parquet files of the ledger: OCSF 1.7 rows, and all that proves them (extra ``caracal[export]``).

The contract's columns, and four more: ``occurred_at`` with its microseconds, ``ingested_at``,
``prev_content_sha256`` and ``ingest_signature``. So who has the files and the key can verify the
chains without us: :func:`verify_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

from caracal.errors import StartError
from caracal.events.store.audit_entry import Keys
from caracal.projections.audit_chain import ChainReport, Link, Walk
from caracal.projections.audit_row import COLUMNS, Row

ROW_GROUP = 10_000
_GROUP_BYTES = 8 * 2**20
_PAGE = 1_000
_CLASS = {
    "class_uid": 6003,
    "type_uid": 600301,
    "metadata_version": "1.7.0",
    "product_name": "caracal",
}
_SAME = (
    *("zone_id", "request_id", "policy_set_version_id", "decision", "event_type"),
    *("policy_set_id", "manifest_sha", "evaluation_status"),
    *("determining_policies_json", "diagnostics_json", "metadata_json"),
    *("content_sha256", "chain_hmac", "chain_seq"),
    *("prev_content_sha256", "occurred_at", "ingested_at", "ingest_signature"),
)
_NUMBERS = ("class_uid", "type_uid", "severity_id", "activity_id")


def library() -> Any:
    """Return the library that reads and writes Parquet.

    Raises:
        StartError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise StartError('Parquet needs more: pip install "caracal[export]"') from error
    return pyarrow


def schema() -> Any:
    """Return the columns with their types."""
    pa = library()
    moment = pa.timestamp("us", tz="UTC")
    types = {name: pa.int32() for name in _NUMBERS} | {
        "time": pa.int64(),
        "chain_seq": pa.int64(),
        "occurred_at": moment,
        "ingested_at": moment,
    }
    order = (
        *("class_uid", "type_uid", "severity_id", "activity_id", "time", "zone_id", "request_id"),
        *("policy_set_version_id", "decision", "metadata_version", "product_name", "event_id"),
        *("event_type", "policy_set_id", "manifest_sha", "evaluation_status"),
        *("determining_policies_json", "diagnostics_json", "metadata_json"),
        *("content_sha256", "chain_hmac", "chain_seq", "prev_content_sha256"),
        *("occurred_at", "ingested_at", "ingest_signature"),
    )
    return pa.schema(
        pa.field(name, types.get(name, pa.string()), nullable=name == "prev_content_sha256")
        for name in order
    )


def ocsf(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the ledger as a row of a file."""
    denied = 2 if row["decision"] == "deny" else 1
    return {
        **_CLASS,
        **{name: row[name] for name in _SAME},
        "severity_id": denied,
        "activity_id": denied,
        "event_id": row["id"],
        "time": int(row["occurred_at"].timestamp() * 1000),
    }


class Writer:
    """Writes one file; in memory is one group of rows. Each call may block: use a thread."""

    def __init__(self, file: Path) -> None:
        library()
        import pyarrow.parquet as pq

        self._schema = schema()
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self.written = 0

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of the ledger."""
        for row in rows:
            self._rows.append(ocsf(row))
            self._size += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(self._rows) >= ROW_GROUP or self._size >= _GROUP_BYTES:
                self._flush()

    def close(self) -> None:
        """Write what is left, and the end, without which a file is none."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = library().Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
        self.written += len(self._rows)
        self._rows, self._size = [], 0


def verify_files(files: Sequence[Path], keys: Keys) -> list[ChainReport]:
    """Verify the chains of exported files, which follow each other in time.

    Recomputes the hash of each row, compares it with what the row before says, and its tie with
    each of the keys. A first row is taken at its word for what was before it: its own tie covers
    that. Without keys nothing is tied.

    Raises:
        ValueError: a file, which is named, cannot be read, or is none of ours.
        StartError: the library is not installed.
    """
    walks: dict[str, Walk] = {}
    for link, row in _links_in(files):
        zone_id = link.row.zone_id
        if zone_id not in walks:
            before = (link.seq - 1, link.prev_content_sha256)
            walks[zone_id] = Walk(zone_id, keys, before)
        walks[zone_id].step(link)
        for name, value in ocsf({**row, "id": row["event_id"]}).items():
            if row[name] != value:
                detail = f"number {link.seq} has {name} {row[name]}, not {value}"
                walks[zone_id].report.add(link.row.id, "column_mismatch", detail)
    return [walk.report for _, walk in sorted(walks.items())]


def _links_in(files: Sequence[Path]) -> Iterator[tuple[Link, dict[str, Any]]]:
    library()
    import pyarrow.parquet as pq

    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                missing = set(schema().names) - set(opened.schema_arrow.names)
                if missing:
                    raise ValueError(f"it lacks {', '.join(sorted(missing))}")
                for batch in opened.iter_batches(batch_size=_PAGE):
                    yield from ((_link(row), row) for row in batch.to_pylist())
        except (OSError, ValueError, TypeError, AttributeError) as error:  # null, or another type
            raise ValueError(f"{file}: {error}") from error  # Arrow does not say which


def _link(row: Mapping[str, Any]) -> Link:
    """Return a row of a file as the verification of the ledger knows it."""
    members = {name: row["event_id" if name == "id" else name] for name in COLUMNS}
    members["occurred_at"] = members["occurred_at"].astimezone(UTC)
    return Link(
        Row(**members),
        row["chain_seq"],
        row["content_sha256"],
        row["prev_content_sha256"],
        row["chain_hmac"],
    )
