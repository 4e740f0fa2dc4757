"""Ids in paths."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from caracal.ids import ID_PATTERN

PathId = Annotated[str, Path(pattern=ID_PATTERN.pattern)]
ZoneId = Annotated[str, Path(pattern=ID_PATTERN.pattern, description="id of the zone")]
