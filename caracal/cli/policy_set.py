"""``caracal policy-set``: which policies are in force, together."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.given import read_json
from caracal.cli.outcome import REFUSED
from caracal.errors import CaracalError

POLICY_SETS = Things(
    noun="policy set",
    namespace="policy_sets",
    columns=("id", "name", "active_version_id", "shadow_version_id", "created_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("description", str, "What it is for."),
    ),
    ending="if it is the active one, the zone has no policy and denies everything.",
)
_POLL = 0.2  # s
_ENDS = ("loaded", "failed")
_UNKNOWN = "unknown"

SetId = Annotated[str, typer.Argument(metavar="SET", help="Id of the policy set.")]
VersionId = Annotated[str, typer.Argument(metavar="VERSION", help="Id of its version.")]

policy_set = group()
POLICY_SETS.add(policy_set, "list", "get", "delete")


@POLICY_SETS.command(
    policy_set, "create", parameters=[field.option_of_create() for field in POLICY_SETS.fields]
)
def create(cli: Cli, name: str, description: str | None) -> None:
    """Make a policy set, without a version as yet."""
    cli.out.record(POLICY_SETS.call(cli, "create", name, description))


@POLICY_SETS.command(policy_set, "add-version")
def add_version(
    cli: Cli,
    policy_set_id: SetId,
    policy_versions: Annotated[
        list[str],
        typer.Argument(metavar="POLICY_VERSION", help="Ids of policy versions, in order."),
    ],
) -> None:
    """Add a version: the policies that decide together."""
    manifest = [{"policy_version_id": item} for item in policy_versions]
    cli.out.record(POLICY_SETS.call(cli, "add_version", policy_set_id, manifest))


@POLICY_SETS.command(policy_set, "get-version")
def get_version(cli: Cli, policy_set_id: SetId, version_id: VersionId) -> None:
    """Show a version with its manifest."""
    cli.out.record(POLICY_SETS.call(cli, "get_version", policy_set_id, version_id))


@POLICY_SETS.command(policy_set, "simulate")
def simulate(
    cli: Cli,
    policy_set_id: SetId,
    version_id: VersionId,
    given: Annotated[
        Any,
        typer.Option(
            "--input",
            "-i",
            parser=read_json,
            metavar="JSON|@FILE|-",
            help="Input to decide on.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show whether a version could be activated, and what it decides; changes nothing."""
    found = POLICY_SETS.call(cli, "simulate", policy_set_id, version_id, given)
    if cli.as_json:
        cli.out.document(found)
        return
    explanation = found.get("explanation") or {}
    shown = {name: found.get(name) for name in ("would_activate", "warnings")}
    shown |= explanation if isinstance(explanation, dict) else {"explanation": explanation}
    cli.out.record(shown | {"result": found.get("result")})


@POLICY_SETS.command(policy_set, "activation-status")
def activation_status(
    cli: Cli,
    policy_set_id: SetId,
    version_id: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Id of its version.", show_default=False),
    ] = None,
    position: Annotated[
        int | None, typer.Option(help="Of the activation in the log.", show_default=False)
    ] = None,
) -> None:
    """Show how far an activation has come."""
    status = POLICY_SETS.call(
        cli, "activation_status", policy_set_id, version_id=version_id, position=position
    )
    cli.out.record(status)


@POLICY_SETS.command(policy_set, "activate")
def activate(
    cli: Cli,
    policy_set_id: SetId,
    version_id: VersionId,
    shadow: Annotated[
        str | None,
        typer.Option(help="Version that is evaluated beside it, for show.", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it decides everywhere.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 15.0,
) -> None:
    """Put a version in force: the only one of its zone. Without --shadow there is no shadow.

    Exit code 1: refused, or not in force everywhere in time.
    """
    answer = POLICY_SETS.call(cli, "activate", policy_set_id, version_id, shadow)
    if not wait:
        cli.out.record(answer)
        return
    status = _awaited(cli, policy_set_id, version_id, answer.get("position"), timeout)
    cli.out.record({**answer, **status}, hidden=("status_url",))
    if status["propagation_status"] not in ("loaded", _UNKNOWN):
        raise typer.Exit(REFUSED)


def _awaited(
    cli: Cli, set_id: str, version_id: str, position: int | None, timeout: float
) -> dict[str, Any]:
    """Return how far it has come, at its end or when time is up."""
    limit, said = time.monotonic() + timeout, ""
    while True:
        status = _status(cli, set_id, version_id, position)
        word = status["propagation_status"]
        if word in (*_ENDS, _UNKNOWN) or time.monotonic() > limit:
            return status
        if word != said:
            cli.out.note(word.replace("_", " "))
            said = word
        time.sleep(_POLL)


def _status(cli: Cli, set_id: str, version_id: str, position: int | None) -> dict[str, Any]:
    """Return the members of the status that matter; a server without it says nothing."""
    try:
        found = POLICY_SETS.call(
            cli, "activation_status", set_id, version_id=version_id, position=position
        )
    except CaracalError as error:
        if error.code not in ("not_found", "method_not_allowed"):
            raise
        cli.out.note("this server does not tell how far an activation has come")
        return {"propagation_status": _UNKNOWN}
    names = ("propagation_status", "active", "sts")
    return {name: found[name] for name in names if name in found}
