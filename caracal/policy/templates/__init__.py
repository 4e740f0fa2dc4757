"""Policies to begin with (control-plane.md section 11): each is whole, and one makes a set.

A template is a file of this package; its head says what it is, as OPA's annotations do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_IDS = (
    "role-based",
    "attribute-based",
    "delegation",
    "baseline-scopes",
    "baseline-resource-constraints",
    "baseline-delegation-constraints",
    "baseline-session-state",
    "baseline-step-up-triggers",
    "baseline-rate-limits",
)
_HEAD = re.compile(
    r"# METADATA\n# title: (?P<name>.+)\n# description: >-\n(?P<description>(?:#   .+\n)+)"
)


@dataclass(frozen=True, slots=True)
class Template:
    """A policy to begin with. ``description`` is a sentence or two, ``content`` its Rego."""

    id: str
    name: str
    description: str
    content: str


@cache
def templates() -> Mapping[str, Template]:
    """Return all templates by id, in the order in which they are shown."""
    return {template_id: _read(template_id) for template_id in _IDS}


def _read(template_id: str) -> Template:
    content = files(__package__).joinpath(f"{template_id}.rego").read_text("utf-8")
    head = _HEAD.match(content)
    assert head is not None, f"{template_id} does not say what it is"
    lines = head["description"].splitlines()
    description = " ".join(line.removeprefix("#").strip() for line in lines)
    return Template(template_id, head["name"], description, content)
