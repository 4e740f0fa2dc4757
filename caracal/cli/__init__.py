"""The command line: ``caracal``.

Exit codes: 0 done, 1 refused, 2 not asked for rightly or not startable, 3 out of reach.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from caracal import __version__
from caracal.cli.lazy import LazyGroup, Place

_RUN, _ZONE, _WHO, _LAW, _PROOF, _CARE = (
    "Run it",
    "Zones",
    "Who acts",
    "What is allowed",
    "What happened",
    "Care for it",
)


class _Commands(LazyGroup):
    places: ClassVar = {
        "up": Place("up:up", "Run everything on this machine.", _RUN),
        "serve": Place("serve:serve", "Run one service, on given servers.", _RUN),
        "status": Place("status:status", "Show whether each service is ready.", _RUN),
        "bootstrap": Place("bootstrap:bootstrap", "Make a zone to try things in.", _RUN),
        "zone": Place("zone:zone", "Zones: what everything else lives in.", _ZONE),
        "token": Place("token:token", "Admin tokens: who may call the control plane.", _ZONE),
        "app": Place("application:app", "Applications: who asks for mandates.", _WHO),
        "issuer": Place("trusted_issuer:issuer", "Who may say who a user is.", _WHO),
        "session": Place("session:session", "Sessions: who is logged in.", _WHO),
        "agent": Place("agent:agent", "Agents: what acts now, and how to stop it.", _WHO),
        "delegation": Place("delegation:delegation", "Who gave what to which agent.", _WHO),
        "resource": Place("resource:resource", "Resources: what mandates are for.", _LAW),
        "provider": Place("provider:provider", "Whose credentials resources get.", _LAW),
        "grant": Place("grant:grant", "Who may ask for what.", _LAW),
        "provider-grant": Place(
            "provider_grant:provider_grant", "Whose own tokens agents get, by consent.", _LAW
        ),
        "policy": Place("policy:policy", "Policies: write, try and keep them.", _LAW),
        "policy-set": Place("policy_set:policy_set", "Which policies are in force.", _LAW),
        "template": Place("template:template", "Policies to begin with.", _LAW),
        "challenge": Place("challenge:challenge", "What waits for a person's approval.", _LAW),
        "audit": Place("audit_verify:audit", "What was decided, why, and would be again.", _PROOF),
        "admin-audit": Place("admin_audit:admin_audit", "What administrators did.", _PROOF),
        "flow": Place("flow:flow", "Show how events flow.", _CARE),
        "topics": Place("topics:topics", "List topics, their length, lag and readers.", _CARE),
        "dead": Place("dead:dead", "Parked aggregates and dead letters.", _CARE),
        "rebuild": Place("rebuild:rebuild", "Make a read model anew from the log.", _CARE),
        "as-of": Place("rebuild:as_of", "Print a read model as it was once.", _CARE),
    }


main = typer.Typer(
    name="caracal",
    cls=_Commands,
    help="Decides what an AI agent may do, proves what it did, and ends its authority at once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"caracal {__version__}")
        raise typer.Exit


@main.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


__all__ = ["main"]
