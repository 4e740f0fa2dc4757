"""``caracal challenge``: what waits for a person's approval."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

_SAID_OF_CALLS = {"http": ("method", "path"), "mcp": ("method", "name")}


def _with_call(found: dict[str, Any]) -> dict[str, Any]:
    """Return a challenge with the call that it is for, in words, beside the other members."""
    metadata = found.get("metadata_json")
    called = metadata.get("call") if isinstance(metadata, dict) else None
    said = []
    for kind, members in _SAID_OF_CALLS.items():
        if isinstance(told := (called or {}).get(kind), dict):
            told = {**told, "path": told.get("raw_path") or told.get("path")}  # whichever binds
            words = (str(told[name]) for name in members if told.get(name))
            said.append(f"{kind}: {' '.join(words)}")
    return {**found, "call": said}


CHALLENGES = Things(
    noun="challenge",
    namespace="step_up_challenges",
    columns=(
        "id",
        "challenge_type",
        "call",
        "session_id",
        "created_at",
        "expires_at",
        "satisfied_at",
    ),
    row=_with_call,
)

challenge = group()
CHALLENGES.add(challenge, "list", "get")


@CHALLENGES.command(challenge, "satisfy")
def satisfy(
    cli: Cli,
    challenge_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the challenge.")],
    approver: Annotated[
        str | None, typer.Option(help="Who approves; never the one who asks.", show_default=False)
    ] = None,
) -> None:
    """Approve: the caller that waits may go on."""
    cli.out.record(CHALLENGES.call(cli, "satisfy", challenge_id, approver_subject_id=approver))
