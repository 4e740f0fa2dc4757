"""The hourly export: each hour once and whole, readable, and provable by who has the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import AsyncConnection
from typer.testing import CliRunner

from caracal.cli import main
from caracal.errors import StartError
from caracal.projections import audit_parquet
from caracal.projections.audit_cut import drop_before
from caracal.projections.audit_export import HOUR, NEVER, due_hour, exported_until, seal
from caracal.projections.audit_ingest import Ingestor
from caracal.projections.audit_ledger import LOCK
from caracal.projections.audit_parquet import verify_files
from caracal.services.worker import export, leading
from caracal.services.worker.export import Export, key_of
from caracal.services.worker.export_store import Directory
from caracal.settings import load_settings
from caracal.tasks import cancelled
from tests.audit.s3 import ACCESS, REGION, S3, SECRET, s3
from tests.audit.trail import KEYS, Trail, decided, ingest, well_within_the_hour
from tests.backbone import eventually

CONTRACT = (
    *("class_uid", "type_uid", "severity_id", "activity_id", "time", "zone_id", "request_id"),
    *("policy_set_version_id", "decision", "metadata_version", "product_name", "event_id"),
    *("event_type", "policy_set_id", "manifest_sha", "evaluation_status"),
    *("determining_policies_json", "diagnostics_json", "metadata_json"),
    *("content_sha256", "chain_hmac", "chain_seq"),
)
Made = Callable[..., Export]


@pytest.fixture
def made(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make an export that looks often."""
    for name in ("_AGAIN_SECONDS", "LEADER_SECONDS"):
        monkeypatch.setattr(leading, name, 0.02)
    monkeypatch.setattr(export, "LOOK_SECONDS", 0.02)

    def make(**more: str) -> Export:
        given = {"CARACAL_MODE": "dev", "DATABASE_URL": database_url, "REDIS_URL": redis_url}
        return Export(load_settings("worker", given | more))

    return make


@asynccontextmanager
async def exporting(*jobs: Export) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        yield
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        await cancelled(*tasks)


async def this_hour(trail: Trail) -> datetime:
    await well_within_the_hour(trail.db)
    (row,) = await trail.query("SELECT date_trunc('hour', now(), 'UTC') AS hour")
    return row["hour"].astimezone(UTC)


async def filled(trail: Trail, ingestor: Ingestor, *hours_ago: int) -> datetime:
    """Two chains: rows that came in so many hours ago, in order. Return this hour."""
    now = await this_hour(trail)
    for number, hours in enumerate(hours_ago):
        events = [
            decided("zone1", policy_set_id="ps-1"),
            decided("zone2", decision="deny", request_id=f"req-{number}"),
            decided("zone1", metadata_json={"a": {"ü": [1, 2.5, None]}}),
        ]
        await ingest(ingestor, trail, (await trail.put(*events))[-1])
        await trail.db.execute(
            "UPDATE audit_events SET ingested_at = %s WHERE id = ANY(%s)",
            (now - hours * HOUR + timedelta(minutes=7), [event.id for event in events]),
        )
    return now


async def done(trail: Trail, until: datetime) -> None:
    async def exported() -> bool:
        return await exported_until(trail.db) == until

    await eventually(exported, seconds=30, what=f"export until {until}")


def rows_in(file: Path) -> list[dict[str, Any]]:
    return pq.ParquetFile(file).read().to_pylist()


async def test_hours_that_are_over_become_files(
    trail: Trail, ingestor: Ingestor, made: Made, tmp_path: Path
) -> None:
    """The first run takes the last hour that is over, later ones catch up; none is empty."""
    now = await filled(trail, ingestor, 5, 1, 0)
    job = made(AUDIT_EXPORT_DIR=str(tmp_path))
    async with exporting(job):
        await done(trail, now)
    files = sorted(tmp_path.rglob("*"), key=str)
    assert [str(file.relative_to(tmp_path)) for file in files if file.is_file()] == [
        key_of(now - HOUR)
    ]
    assert job.events == 3
    file = tmp_path / key_of(now - HOUR)
    assert pq.ParquetFile(file).schema_arrow.names[: len(CONTRACT)] == list(CONTRACT)
    first, second, third = rows_in(file)
    assert (first["class_uid"], first["type_uid"], first["metadata_version"]) == (
        6003,
        600301,
        "1.7.0",
    )
    assert (first["severity_id"], first["activity_id"]) == (1, 1)
    assert (third["zone_id"], third["severity_id"], third["activity_id"]) == ("zone2", 2, 2)
    ledger = {row["id"]: row for row in await trail.rows()}
    for row in (first, second, third):
        stored = ledger[row["event_id"]]
        assert row["time"] == int(stored["occurred_at"].timestamp() * 1000)
        assert row["occurred_at"] == stored["occurred_at"]
        same = set(row) & set(stored) - {"occurred_at"}
        assert {name: row[name] for name in same} == {name: stored[name] for name in same}
    assert second["metadata_json"] == '{"a":{"ü":[1,2.5,null]}}'


async def test_an_export_catches_up_hour_by_hour(
    trail: Trail, ingestor: Ingestor, made: Made, tmp_path: Path
) -> None:
    now = await filled(trail, ingestor, 9, 4, 2, 1)
    await trail.db.execute(
        "INSERT INTO audit_watermarks VALUES ('parquet-hourly', %s, 0)",
        (int((now - 5 * HOUR).timestamp()),),
    )
    async with exporting(made(AUDIT_EXPORT_DIR=str(tmp_path))):
        await done(trail, now)
    found = sorted(file.name for file in tmp_path.rglob("*.parquet"))
    assert found == [f"{now - hours * HOUR:%Y-%m-%dT%H}.parquet" for hours in (4, 2, 1)]
    reports = verify_files(sorted(tmp_path.rglob("*.parquet")), KEYS)
    assert [(one.zone_id, one.first_seq, one.last_seq, one.ok) for one in reports] == [
        ("zone1", 3, 8, True),
        ("zone2", 2, 4, True),
    ]


async def test_what_is_there_already_stays_as_it_is(
    trail: Trail, ingestor: Ingestor, made: Made, tmp_path: Path
) -> None:
    now = await filled(trail, ingestor, 1)
    file = tmp_path / key_of(now - HOUR)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of another worker")
    job = made(AUDIT_EXPORT_DIR=str(tmp_path))
    async with exporting(job):
        await done(trail, now)
    assert (file.read_bytes(), job.events) == (b"of another worker", 0)
    store = Directory(tmp_path)
    part = store.place(key_of(now))
    part.write_bytes(b"x")
    file.with_name(Path(key_of(now)).name).write_bytes(b"faster")
    assert store.put(key_of(now), part) is False
    assert not part.exists()


def to_bucket(made: Made, bucket: S3) -> Export:
    return made(
        AUDIT_EXPORT_S3_BUCKET="audit-of-ours",
        AUDIT_EXPORT_S3_ENDPOINT=bucket.url,
        AUDIT_EXPORT_S3_REGION=REGION,
    )


async def test_a_bucket(
    trail: Trail,
    ingestor: Ingestor,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    now = await filled(trail, ingestor, 1)
    async with s3() as bucket:
        bucket.refusing = (503, "SlowDown")
        job = to_bucket(made, bucket)
        async with exporting(job):
            await _counted(job, "errors")
            assert job.failing
            bucket.refusing = None
            await done(trail, now)
        await _again(trail, made, bucket, now)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        await trail.db.execute("DELETE FROM audit_watermarks WHERE name = 'parquet-hourly'")
        wrong = to_bucket(made, bucket)
        async with exporting(wrong):
            await _counted(wrong, "errors")
        assert bucket.refused[-1] == "SignatureDoesNotMatch"
        ((name, body),) = bucket.objects.items()
    assert name == f"/audit-of-ours/{key_of(now - HOUR)}"
    file = tmp_path / "x.parquet"
    file.write_bytes(body)
    assert [report.ok for report in verify_files([file], KEYS)] == [True, True]


async def _counted(job: Export, name: str) -> None:
    async def counted() -> bool:
        return bool(getattr(job, name))

    await eventually(counted)


async def _again(trail: Trail, made: Made, bucket: S3, now: datetime) -> None:
    """Export an hour once more: the bucket keeps what it has."""
    await trail.db.execute("DELETE FROM audit_watermarks WHERE name = 'parquet-hourly'")
    job = to_bucket(made, bucket)
    async with exporting(job):
        await done(trail, now)
    assert (job.events, job.errors, bucket.refused[-1]) == (0, 0, "PreconditionFailed")


async def test_one_leads(trail: Trail, ingestor: Ingestor, made: Made, tmp_path: Path) -> None:
    now = await filled(trail, ingestor, 1)
    jobs = [made(AUDIT_EXPORT_DIR=str(tmp_path)) for _ in range(2)]
    async with exporting(*jobs):
        await done(trail, now)

        async def led() -> bool:
            return sorted(job.is_leader for job in jobs) == [False, True]

        await eventually(led)
    assert sum(job.events for job in jobs) == 3


async def test_an_hour_is_not_read_while_a_batch_of_it_is_being_written(
    trail: Trail, database_url: str
) -> None:
    async with await AsyncConnection.connect(database_url) as writing:
        await writing.execute(f"SELECT {LOCK}")
        waiting = asyncio.create_task(seal(trail.db))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        await writing.commit()
        await asyncio.wait_for(waiting, 15)


async def test_a_row_s_time_is_that_of_its_turn(
    trail: Trail, ingestor: Ingestor, database_url: str
) -> None:
    """Not that of the transaction's beginning, when others were writing yet."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as other:
        async with other.transaction():
            await other.execute(f"SELECT {LOCK}")
            (entry_id,) = await trail.put(decided())
            ingesting = asyncio.create_task(ingest(ingestor, trail, entry_id))

            async def waits() -> bool:
                found = await trail.query("SELECT 1 FROM pg_locks WHERE NOT granted")
                return bool(found)

            await eventually(waits)
            moment = await (await other.execute("SELECT clock_timestamp()")).fetchone()
        await ingesting
    assert moment is not None
    (row,) = await trail.rows()
    assert row["ingested_at"] > moment[0]


async def test_nothing_is_due_before_an_hour_is_over(trail: Trail) -> None:
    now = await this_hour(trail)
    assert await exported_until(trail.db) == NEVER
    assert await due_hour(trail.db) == now - HOUR
    await trail.db.execute(
        "INSERT INTO audit_watermarks VALUES ('parquet-hourly', %s, 0)", (int(now.timestamp()),)
    )
    assert await due_hour(trail.db) is None


async def test_retention_keeps_what_is_not_exported(trail: Trail, ingestor: Ingestor) -> None:
    old = datetime(2026, 1, 1, tzinfo=UTC)
    moment = "2026-01-01T10:00:00Z"
    await ingest(ingestor, trail, (await trail.put(decided(occurred_at=moment)))[-1])
    later = datetime(2026, 3, 1, tzinfo=UTC)
    assert await drop_before(trail.db, later, KEYS, exported=NEVER) == []
    assert await drop_before(trail.db, later, KEYS, exported=old) == []
    (row,) = await trail.rows()
    after = row["ingested_at"] + timedelta(seconds=1)
    assert await drop_before(trail.db, later, KEYS, exported=after) == ["audit_events_y2026m01"]


def test_without_the_libraries_it_does_not_start(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(StartError, match=r"caracal\[export\]"):
        made(AUDIT_EXPORT_DIR=str(tmp_path))
    assert not made().is_on


# --- verification ----------------------------------------------------------------------------


@pytest.fixture
async def files(trail: Trail, ingestor: Ingestor, made: Made, tmp_path: Path) -> list[Path]:
    """Three hours, a file each."""
    now = await filled(trail, ingestor, 3, 2, 1)
    await trail.db.execute(
        "INSERT INTO audit_watermarks VALUES ('parquet-hourly', %s, 0)",
        (int((now - 3 * HOUR).timestamp()),),
    )
    async with exporting(made(AUDIT_EXPORT_DIR=str(tmp_path))):
        await done(trail, now)
    return sorted(tmp_path.rglob("*.parquet"))


def rewrite(file: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    table = pq.ParquetFile(file).read()
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def kinds(files: list[Path], keys: tuple[bytes, ...] = KEYS) -> set[str]:
    return {found.kind for report in verify_files(files, keys) for found in report.findings}


Change = Callable[[list[dict[str, Any]]], Any]


def later(row: dict[str, Any]) -> None:
    """The column of milliseconds says the same; only what is hashed is finer."""
    moment = row["occurred_at"]
    by = 1 if moment.microsecond % 1000 < 999 else -1
    row["occurred_at"] = moment + timedelta(microseconds=by)


TAMPERED: list[tuple[Change, set[str]]] = [
    (lambda rows: rows[2].update(decision="allow"), {"content_mismatch", "column_mismatch"}),
    (lambda rows: later(rows[0]), {"content_mismatch"}),
    (lambda rows: rows[0].update(time=1), {"column_mismatch"}),
    (lambda rows: rows.pop(0), {"chain_gap", "chain_break"}),
    (lambda rows: rows.insert(0, rows[0]), {"chain_gap", "chain_break"}),
    (lambda rows: rows[0].update(chain_hmac="00" * 32), {"chain_hmac_mismatch"}),
    (lambda rows: rows[0].update(chain_hmac="\u00e9"), {"chain_hmac_mismatch"}),
]


def test_what_was_changed_is_found(files: list[Path]) -> None:
    assert kinds(files) == set()
    written = files[1].read_bytes()
    for change, expected in TAMPERED:
        rewrite(files[1], change)
        assert kinds(files) == expected
        files[1].write_bytes(written)


def test_a_file_that_is_missing_is_found(files: list[Path]) -> None:
    assert kinds([files[0], files[2]]) == {"chain_gap", "chain_break"}
    assert kinds(files[1:]) == set()
    assert kinds(files, (b"\x11" * 32,)) == {"chain_hmac_mismatch"}
    assert kinds(files, (b"\x11" * 32, *KEYS)) == set()


def test_the_command(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_HMAC_KEY", KEYS[0].hex())
    runner = CliRunner()
    whole = runner.invoke(main, ["audit", "verify", "--file", str(tmp_path), "--json"])
    assert whole.exit_code == 0, whole.output
    told = json.loads(whole.stdout)
    assert (told["files"], told["keyed"], told["findings"]) == (3, True, [])
    assert told["zones"][0] == {
        "zone_id": "zone1",
        "rows": 6,
        "first_seq": 1,
        "last_seq": 6,
        "state": "whole",
    }
    rewrite(files[1], lambda rows: rows.pop(0))
    broken = runner.invoke(main, ["audit", "verify", "-f", str(files[0]), "-f", str(files[1])])
    assert broken.exit_code == 1
    assert "chain_gap" in broken.stdout
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    table = pq.ParquetFile(files[0]).read()
    rows = [row | {"occurred_at": None} for row in table.to_pylist()]
    loose = pa.schema(field.with_nullable(True) for field in table.schema)
    pq.write_table(pa.Table.from_pylist(rows, schema=loose), tmp_path / "null.parquet")
    for name in ("no.parquet", "none.parquet", "null.parquet"):
        none = runner.invoke(main, ["audit", "verify", "--file", str(tmp_path / name)])
        assert none.exit_code == 2
        assert f"no export of ours: {tmp_path / name}: " in none.stderr
    (tmp_path / "empty").mkdir()
    none = runner.invoke(main, ["audit", "verify", "--file", str(tmp_path / "empty")])
    assert none.exit_code == 2
    assert none.stderr.strip().endswith(f"no .parquet files in {tmp_path / 'empty'}")


def test_another_key_is_told_from_forged_rows(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_HMAC_KEY", "11" * 32)
    runner, said = CliRunner(), "no row is tied by this key"
    other = runner.invoke(main, ["audit", "verify", "-f", str(files[0])])
    assert (other.exit_code, said in other.stderr) == (1, True)
    monkeypatch.setenv("AUDIT_HMAC_KEY", KEYS[0].hex())
    rewrite(files[0], lambda rows: rows[0].update(chain_hmac="00" * 32))
    forged = runner.invoke(main, ["audit", "verify", "-f", str(files[0])])
    assert (forged.exit_code, said in forged.stderr) == (1, False)


def test_rows_go_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many an hour has, in memory is one group."""
    monkeypatch.setattr(audit_parquet, "ROW_GROUP", 10)
    row = {
        **dict.fromkeys(audit_parquet.COLUMNS, "x"),
        **dict.fromkeys(("content_sha256", "chain_hmac", "ingest_signature"), "x"),
        "prev_content_sha256": None,
        "chain_seq": 1,
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "ingested_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    writer = audit_parquet.Writer(tmp_path / "x.parquet")
    writer.write(row for _ in range(25))
    writer.close()
    found = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert (found.num_rows, found.num_row_groups, writer.written) == (25, 3, 25)


def test_there_is_an_index_for_it(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'audit_events_ingested'"
        ).fetchone()
    assert row is not None
    assert "brin" in row[0]
