"""``caracal challenge``: what waits for a person's approval."""

from __future__ import annotations

from typing import Annotated

import typer

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

CHALLENGES = Things(
    noun="challenge",
    namespace="step_up_challenges",
    columns=("id", "challenge_type", "session_id", "created_at", "expires_at", "satisfied_at"),
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
