"""``caracal audit verify``: prove that exported files are whole, without any service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from caracal.cli.audit import audit
from caracal.cli.command import AsJson
from caracal.cli.outcome import REFUSED
from caracal.cli.running import DEFAULT_DATA_DIR, DataDir, running_stack
from caracal.cli.show import Output
from caracal.errors import StartError

_COLUMNS = ("zone_id", "rows", "first_seq", "last_seq", "state")
_FOUND = ("zone_id", "event_id", "kind", "detail")
_SHOWN = 100


@audit.command("verify")
def verify(
    file: Annotated[
        list[Path],
        typer.Option("--file", "-f", help="Exported file, or a directory of them; repeatable."),
    ],
    json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Verify the chains of exported Parquet files, in the order of their names.

    The key is AUDIT_HMAC_KEY, or that of the running stack. Exit code 1: something is not as it
    was written, or is missing.
    """
    from caracal.cli.up import exit_code  # with it comes all that runs the product

    raise typer.Exit(exit_code(lambda: _verify(Output(json), file, data_dir)))


def _verify(out: Output, named: list[Path], data_dir: Path) -> int:
    from caracal.projections.audit_parquet import verify_files

    keys = _keys(data_dir)
    files = _files(named)
    try:
        reports = verify_files(files, keys)
    except (ValueError, TypeError, AttributeError) as error:  # null, or another type
        raise StartError(f"no export of ours: {error}") from error
    rows = [
        {
            "zone_id": report.zone_id,
            "rows": report.checked,
            "first_seq": report.first_seq,
            "last_seq": report.last_seq,
            "state": "whole" if report.ok else "not whole",
        }
        for report in reports
    ]
    found: list[dict[str, Any]] = [
        {name: getattr(finding, name) for name in _FOUND}
        for report in reports
        for finding in report.findings
    ]
    if out.as_json:
        out.document({"files": len(files), "keyed": bool(keys), "zones": rows, "findings": found})
    else:
        out.rows(rows, _COLUMNS, "No rows.")
        if found:
            out.rows(found[:_SHOWN], _FOUND, "")
        if not keys:
            typer.echo("caracal: without AUDIT_HMAC_KEY only hashes are verified", err=True)
        elif _is_other_key(rows, found):
            typer.echo("caracal: no row is tied by this key: is it that of the export?", err=True)
    return REFUSED if found else 0


def _is_other_key(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether all is well but every single tie: rather a wrong key than forged rows."""
    untied = all(each["kind"] == "chain_hmac_mismatch" for each in found)
    return untied and 0 < len(found) == sum(row["rows"] for row in rows)


def _files(named: list[Path]) -> list[Path]:
    found = [
        file
        for each in named
        for file in (each.rglob("[!.]*.parquet") if each.is_dir() else [each])
    ]
    if not found:
        raise StartError(f"no .parquet files in {', '.join(map(str, named))}")
    return sorted(found, key=lambda file: file.name)


def _keys(data_dir: Path) -> tuple[bytes, ...]:
    from caracal.cli.stack_settings import is_given
    from caracal.settings import load_settings

    ring = {} if is_given("AUDIT_HMAC_KEY") else _of_stack(data_dir)
    servers = {"CARACAL_MODE": "dev", "DATABASE_URL": "postgres:///x", "REDIS_URL": "unix:///x"}
    return load_settings("worker", servers | ring).audit_hmac_key


def _of_stack(data_dir: Path) -> dict[str, str]:
    stack = running_stack(data_dir) or {}
    return {"AUDIT_HMAC_KEY": stack["audit_hmac_key"]} if stack.get("audit_hmac_key") else {}
