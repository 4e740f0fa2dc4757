"""``caracal policy``: write, check, try, and keep policies."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from caracal.cli.collection import Field, Things
from caracal.cli.command import command, group
from caracal.cli.connection import Cli
from caracal.cli.given import File, read_file, read_json
from caracal.cli.outcome import REFUSED, USAGE, Failure
from caracal.cli.policy_set import activate
from caracal.cli.text import printable


def _row(found: dict[str, Any]) -> dict[str, Any]:
    """Return a policy with the number and id of the version that was made with it."""
    if not isinstance(version := found.get("version"), dict):
        return dict(found)
    return {**found, "version": version["version"], "version_id": version["id"]}


POLICIES = Things(
    row=_row,
    noun="policy",
    namespace="policies",
    columns=("id", "name", "description", "created_by", "created_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("content", File, "File with the policy, in Rego.", needed=True, option="file"),
        Field("description", str, "What it is for."),
        Field("owner_type", str, "Whose it is."),
    ),
    ending="no policy set can be made or activated with it; the active one keeps it.",
)
_VERSIONS = ("version", "id", "content_sha256", "created_at")

Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Policies, in Rego.")]
FileName = Annotated[str, typer.Argument(metavar="FILE", help="Policy, in Rego; - reads it.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the policy.")]

policy = group()
POLICIES.add(policy, "list", "create", "delete")


@POLICIES.command(policy, "get")
def get(
    cli: Cli,
    policy_id: Id,
    content: Annotated[bool, typer.Option("--content", help="Print the Rego alone.")] = False,
    version: Annotated[
        int | None, typer.Option(help="Of this version; else the newest.", show_default=False)
    ] = None,
) -> None:
    """Show a policy with its versions."""
    found = POLICIES.call(cli, "get", policy_id)
    if content and not cli.as_json:
        typer.echo(_version(found, version)["content"].rstrip("\n"))
        return
    cli.out.record(found, hidden=("versions",))
    if not cli.as_json:
        typer.echo()
        cli.out.rows(found["versions"], _VERSIONS, "No versions.")


def _version(found: dict[str, Any], wanted: int | None) -> dict[str, Any]:
    for version in found["versions"]:  # the newest first
        if wanted in (None, version["version"]):
            return dict(version)
    raise Failure("version_not_found", f"this policy has no version {wanted}", "")


@POLICIES.command(policy, "add-version")
def add_version(cli: Cli, policy_id: Id, file: FileName) -> None:
    """Add the next version of a policy."""
    cli.out.record(POLICIES.call(cli, "add_version", policy_id, read_file(file)))


@command(policy, "validate", zoned=False)
def validate(
    cli: Cli,
    file: FileName,
    remote: Annotated[
        bool, typer.Option("--remote", help="Let the server check it, by its own rules.")
    ] = False,
) -> None:
    """Check a policy as an upload would, and advise; on this machine, storing nothing."""
    content = read_file(file)
    found = cli.client.policies.validate(content) if remote else _validated(content)
    if cli.as_json:
        cli.out.document(found)
        return
    typer.echo(f"{printable(file)} is valid")
    for warning in found.get("warnings", ()):
        typer.echo(f"  warning: {printable(warning)}")


def _validated(content: str) -> Any:
    from caracal.policy.check import advice_on

    return {"valid": True, "warnings": asyncio.run(advice_on(content))}


@command(policy, "test", local=True)
def try_out(
    cli: Cli,
    files: Files,
    inputs: Annotated[
        list[str],
        typer.Option("--input", "-i", metavar="FILE", help="Input, as JSON; may be repeated."),
    ],
    expect: Annotated[
        Literal["allow", "deny"] | None,
        typer.Option(help="Fail unless every input gets this decision.", show_default=False),
    ] = None,
) -> None:
    """Try policies, as one set, on inputs: on this machine, in a process that can be killed.

    Exit code 1: a policy is not valid, an input has no usable decision, or not the expected one.
    """
    modules = [(str(number), read_file(name)) for number, name in enumerate(files)]
    given = [(name, _input(name)) for name in inputs]
    results = asyncio.run(_tried(modules, given))
    for result in results:
        usable = result["evaluation_status"] == "complete"
        result["as_expected"] = usable and (
            expect is None or result["allowed"] == (expect == "allow")
        )
    if cli.as_json:
        cli.out.document({"policies": files, "expect": expect, "results": results})
    else:
        _show_results(cli, results, expect)
    if not all(result["as_expected"] for result in results):
        raise typer.Exit(REFUSED)


def _input(name: str) -> dict[str, Any]:
    try:
        value = read_json("-" if name == "-" else f"@{name}")
    except typer.BadParameter as error:
        raise Failure("invalid_input", f"{name}: {error.message}", exit_code=USAGE) from None
    if not isinstance(value, dict):
        raise Failure("invalid_input", f"{name} is no JSON object", exit_code=USAGE)
    return value


async def _tried(
    modules: list[tuple[str, str]], inputs: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    from caracal.policy.check import check_manifest
    from caracal.policy.trial import evaluate

    await check_manifest([content for _, content in modules])
    decisions = await asyncio.gather(*(evaluate(modules, value) for _, value in inputs))
    return [
        {"input": name, **asdict(decision)}
        for (name, _), decision in zip(inputs, decisions, strict=True)
    ]


def _show_results(cli: Cli, results: list[dict[str, Any]], expect: str | None) -> None:
    for number, result in enumerate(results):
        if number:
            typer.echo()
        shown = {name: result[name] for name in ("input", "decision", "evaluation_status")}
        for name in ("determining_policies", "diagnostics", "step_up"):
            if result[name]:
                shown[name] = result[name]
        if not result["as_expected"]:
            shown["expected"] = expect or "a decision that is complete"
        cli.out.record(shown)


policy.command("activate", help="The same as policy-set activate.")(activate)
