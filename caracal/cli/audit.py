"""``caracal audit``: what was decided, why, and whether it would be decided so again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from caracal.cli.audit_follow import Follower
from caracal.cli.collection import BETWEEN, Field, Things
from caracal.cli.command import Yes, command, group, sure
from caracal.cli.connection import Cli
from caracal.cli.outcome import REFUSED, UNREACHABLE, Failure, exit_code_of, line_of
from caracal.cli.show import coloured
from caracal.cli.text import cell, clock_time, json_bytes, printable
from caracal.errors import CaracalError

Decision = Literal["allow", "deny", "partial"]


def _with_reason(event: dict[str, Any]) -> dict[str, Any]:
    """Return a decision with what its metadata says of it beside the other members."""
    more = event.get("metadata_json")
    told = more if isinstance(more, dict) else {}
    asked = " ".join(str(told[name]) for name in ("method", "path") if told.get(name))
    what, why = told.get("resource") or asked or None, told.get("reason") or told.get("error")
    return {**event, "resource": what, "reason": why}


AUDIT = Things(
    noun="decision",
    namespace="audit",
    row=_with_reason,
    columns=("occurred_at", "decision", "event_type", "resource", "reason", "request_id"),
    filters=(
        *BETWEEN,
        Field("decision", Decision, "Decided so."),
        Field("event_type", str, "Of this type."),
        Field("request_id", str, "Of this request."),
    ),
)
_OF_TRAIL = (
    *("policy_set_id", "policy_set_version_id", "manifest_sha"),
    *("determining_policies_json", "diagnostics_json"),
)
_OF_REFUSAL = (
    *("resource", "check", "explanation", "evaluation_status"),
    *("policy_set_version_id", "determining_policies", "diagnostics", "log_position"),
)
_OF_REPLAY = (
    *("event_id", "resource", "recorded", "replayed", "identical", "differences"),
    *("event_type", "reason", "explanation"),
)

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="Id of the request.")]

audit = group()
AUDIT.add(audit, "list")


@AUDIT.command(audit, "tail")
def tail(
    cli: Cli,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="So many old ones first.")
    ] = 10,
    decision: Annotated[
        Decision | None, typer.Option(help="Decided so.", show_default=False)
    ] = None,
    event_type: Annotated[
        str | None, typer.Option(help="Of this type.", show_default=False)
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
) -> None:
    """Follow the decisions as they come, a line each, until Ctrl-C. As JSON one object a line."""
    given = {"decision": decision, "event_type": event_type}
    filters = {name: value for name, value in given.items() if value is not None}
    follower = Follower(lambda **more: AUDIT.call(cli, "iter", **filters, **more))
    try:
        for event in _followed(cli, follower, lines, interval):
            _tell(cli, event)
    except KeyboardInterrupt:
        pass  # the way to end it


def _followed(
    cli: Cli, follower: Follower, lines: int, interval: float
) -> Iterator[dict[str, Any]]:
    """Give old decisions, then new ones; outlast a server that is away for a while."""
    yield from follower.first(lines)
    away = False
    while True:
        time.sleep(interval)
        try:
            fresh = follower.fresh()
        except CaracalError as error:
            if exit_code_of(error) != UNREACHABLE:
                raise
            if not away:
                cli.out.note(f"caracal: {line_of(error)}; trying again")
            away = True
            continue
        away = False
        yield from fresh


def _tell(cli: Cli, event: dict[str, Any]) -> None:
    if cli.as_json:
        typer.echo(json_bytes(event, indent=None))
        return
    shown = _with_reason(event)
    words = [
        clock_time(shown["occurred_at"]),
        coloured(shown.get("decision") or "-", width=7),
        printable(shown["event_type"]),
        printable(str(shown["resource"] or "")),
        printable(str(shown["reason"] or "")),
        printable(str(shown.get("request_id") or "")),
    ]
    typer.echo("  ".join(word for word in words if word))


@AUDIT.command(audit, "show")
def show(cli: Cli, request_id: RequestId) -> None:
    """Show what a request led to, oldest first, and why it was decided so."""
    trail = AUDIT.call(cli, "by_request", request_id)
    explanation = _explanation(cli, request_id)
    if cli.as_json:
        cli.out.document({"request_id": request_id, "trail": trail, "explanation": explanation})
        return
    for entry in trail:
        _show_entry(cli, entry)
    if explanation is not None:
        _show_end(explanation)


def _explanation(cli: Cli, request_id: str) -> dict[str, Any] | None:
    """Return the explanation; None where there is no decision, or the server has none to give."""
    try:
        return dict(AUDIT.call(cli, "explain", request_id))
    except CaracalError as error:
        if error.code not in ("not_found", "method_not_allowed", "request_not_found"):
            raise
        return None


def _show_entry(cli: Cli, entry: dict[str, Any]) -> None:
    moment = cell("occurred_at", entry["occurred_at"], relative=False)
    told = coloured(entry.get("decision") or "fact")
    status = entry.get("evaluation_status") or ""
    typer.echo(f"{moment}  {told}  {printable(entry['event_type'])}  {printable(status)}".rstrip())
    details = {name: entry[name] for name in _OF_TRAIL if entry.get(name)}
    metadata = entry.get("metadata_json")
    more = metadata if isinstance(metadata, dict) else {}
    for name, value in {**details, **more}.items():
        if name == "policy_input":
            continue  # long, and here it is redacted; explain has it
        label = name.removesuffix("_json").replace("_", " ")
        typer.echo(f"    {printable(label)}: {cell(name, value, relative=False)}")
    typer.echo()


def _show_end(explanation: dict[str, Any]) -> None:
    if final := explanation.get("final_decision"):
        typer.echo(f"final decision: {coloured(str(final))}")
    if explanation.get("explanation"):
        typer.echo(printable(str(explanation["explanation"])))


@AUDIT.command(audit, "explain")
def explain(
    cli: Cli,
    request_id: RequestId,
    policy_input: Annotated[
        bool,
        typer.Option("--input", help="Print the refused policy input alone, for policy test."),
    ] = False,
) -> None:
    """Show why a request was refused; as JSON with the policy input of each refusal."""
    found = AUDIT.call(cli, "explain", request_id)
    if policy_input:
        cli.out.document(_refused_input(found))
    elif cli.as_json:
        cli.out.document(found)
    else:
        _show_end(found)
        for denied in found.get("denied") or ():
            typer.echo()
            cli.out.record({name: denied[name] for name in _OF_REFUSAL if denied.get(name)})


def _refused_input(explanation: dict[str, Any]) -> Any:
    for denied in explanation.get("denied") or ():
        if denied.get("policy_input") is not None:
            return denied["policy_input"]
    raise Failure("no_policy_input", "no policy refused anything in this request", "")


@AUDIT.command(audit, "replay")
def replay(
    cli: Cli,
    request_id: RequestId,
    version: Annotated[
        str | None,
        typer.Option("--policy-set-version", help="By this version instead.", show_default=False),
    ] = None,
) -> None:
    """Decide again as recorded, or by another version. Exit code 1: not the same as recorded."""
    found = AUDIT.call(cli, "replay", request_id, policy_set_version=version)
    if cli.as_json:
        cli.out.document(found)
    else:
        _show_replay(cli, found)
    if not found.get("identical", True) and version is None:
        raise typer.Exit(REFUSED)


def _show_replay(cli: Cli, found: dict[str, Any]) -> None:
    lists = ("decisions", "not_replayed")
    cli.out.record(found, hidden=lists)
    for name in lists:
        rows = [_replayed(each) for each in found.get(name) or ()]
        if rows:
            typer.echo()
            cli.out.rows(rows, [column for column in _OF_REPLAY if column in rows[0]], "")


def _replayed(decision: dict[str, Any]) -> dict[str, Any]:
    """Return a decision with the words of what was recorded and replayed."""
    words = {
        name: decision[name].get("decision")
        for name in ("recorded", "replayed")
        if isinstance(decision.get(name), dict)
    }
    return {**decision, **words}


@command(audit, "retention", zoned=False)
def retention(
    cli: Cli,
    days: Annotated[
        int | None, typer.Option(help="Keep it so long from now on.", show_default=False)
    ] = None,
    yes: Yes = False,
) -> None:
    """Show how many days the trail is kept, of all zones; or change that."""
    if days is None:
        cli.out.record(cli.client.audit.retention())
        return
    sure(f"What is older than {days} days will be deleted.", yes)
    cli.out.record(cli.client.audit.set_retention(days))
