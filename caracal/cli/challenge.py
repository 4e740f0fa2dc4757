"""``caracal challenge``: what waits for a person's approval."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

_SAID_OF_CALLS = {"http": ("method", "path"), "mcp": ("method", "name")}


_ASKED = ("application_id", "agent_session_id", "resources", "requested_scopes")


def _in_words(found: dict[str, Any]) -> dict[str, Any]:
    """Return a challenge with who asks for what, and the call in words, beside what it has."""
    metadata = found.get("metadata_json")
    metadata = metadata if isinstance(metadata, dict) else {}
    called = metadata.get("call")
    said = []
    for kind, members in _SAID_OF_CALLS.items():
        if isinstance(told := (called or {}).get(kind), dict):
            told = {**told, "path": told.get("raw_path") or told.get("path")}  # whichever binds
            words = (str(told[name]) for name in members if told.get(name))
            said.append(f"{kind}: {' '.join(words)}")
    return {**found, **{name: metadata.get(name) for name in _ASKED}, "call": said}


CHALLENGES = Things(
    noun="challenge",
    namespace="step_up_challenges",
    columns=(
        "id",
        "challenge_type",
        "application_id",
        "resources",
        "requested_scopes",
        "call",
        "created_at",
        "expires_at",
        "satisfied_at",
    ),
    row=_in_words,
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
