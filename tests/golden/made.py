"""What the golden files show, made from the declarations: the diff of a file is the review."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from typer.main import get_command

from caracal.cli import main
from caracal.cli.flow import rows
from caracal.events.catalogue import EVENTS, MEMBERS
from caracal.projections import PROJECTIONS
from caracal.services.api.app import routes
from caracal.services.coordinator.app import document
from caracal.services.sts.openapi import document as sts_document


def flow() -> str:
    """Aggregate, event, topics, projections: what ``make flow`` prints."""
    table = [("aggregate", "event", "topics", "projections"), *rows()]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = (
        "  ".join([*(row[column].ljust(widths[column]) for column in range(3)), row[3]])
        for row in table
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def events() -> str:
    """Every stored event: its fields with types, its allowlist (true: may be exported)."""
    shapes = {
        name: {
            "fields": {field.name: str(field.type) for field in fields(event)},
            "data": dict(MEMBERS[name]),
        }
        for name, event in sorted(EVENTS.items())
    }
    return _json(shapes)


def read_models() -> str:
    """The statements that create each read model."""
    models = {
        projection.name: [statement for table in projection.tables for statement in table.ddl()]
        for projection in PROJECTIONS
    }
    return _json(models)


def openapi() -> str:
    """The OpenAPI of the control plane."""
    return _json(routes().openapi())


def openapi_coordinator() -> str:
    """The OpenAPI of the Coordinator."""
    return _json(document())


def openapi_sts() -> str:
    """The OpenAPI of the STS."""
    return _json(sts_document())


def command_line() -> str:
    """The commands and their options; those that many share stand once, at the top."""
    root: Any = get_command(main)
    places = sorted(root.places.items())
    commands = [_help(place.load(name), f"caracal {name}") for name, place in places]
    found = [line for lines in commands for line in lines]
    shared = [line for line in dict.fromkeys(found) if found.count(line) > _MANY]
    lines = [*_help(root, "caracal", below=False), "(shared)", *shared]
    return "\n".join([*lines, *(line for line in found if line not in shared)]) + "\n"


_MANY = 10  # options of so many commands are said once


def _help(command: Any, name: str, *, below: bool = True) -> list[str]:
    options = [
        f"  {' '.join([*parameter.opts, *parameter.secondary_opts])}  {_said(parameter)}".rstrip()
        for parameter in command.params
        if parameter.name != "help"
    ]
    lines = [f"{name}: {(command.help or '').strip().splitlines()[0]}", *options]
    for child, command_below in sorted(getattr(command, "commands", {}).items()) if below else ():
        lines += _help(command_below, f"{name} {child}")
    return lines


def _said(parameter: Any) -> str:
    return getattr(parameter, "help", None) or ""


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


FILES: Mapping[str, Callable[[], str]] = {
    "flow.txt": flow,
    "events.json": events,
    "read_models.json": read_models,
    "openapi_api.json": openapi,
    "openapi_coordinator.json": openapi_coordinator,
    "openapi_sts.json": openapi_sts,
    "command_line.txt": command_line,
}
