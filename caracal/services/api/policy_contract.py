"""What policies must hold to be stored, put into a set, or activated (control-plane.md 6, 7).

Versions never change, so what has passed the check of Rego once is not checked again here.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from caracal.errors import Unavailable, Unprocessable
from caracal.events.store.entries import LogReader
from caracal.policy.check import check_manifest
from caracal.projections.application import public_application_ids
from caracal.projections.policy import live_versions
from caracal.services.api.call import Call
from caracal.services.models import printable

SCHEMA_VERSION = "2026-03-16"
Content = Annotated[str, Field(min_length=1), AfterValidator(printable)]
Description = Annotated[str, Field(max_length=1024), AfterValidator(printable)]

_MAX_PASSED = 10_000
_passed: OrderedDict[bytes, None] = OrderedDict()
# The first hyphen of a UUID: rare in a text, so a long one is read fast.
_UUID = re.compile(r"-(?=[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_UUID_LENGTH, _BEFORE_HYPHEN = 36, 8


def check_schema_version(schema_version: str) -> None:
    """Refuse versions of the policy schema that there are not.

    Raises:
        Unprocessable: 422 ``invalid_schema_version``.
    """
    if schema_version != SCHEMA_VERSION:
        raise Unprocessable(
            "invalid_schema_version", "there is no such schema version", detail=schema_version
        )


async def check_rego(*contents: str) -> None:
    """Check policies that are evaluated together, in this order.

    Raises:
        Unprocessable: 422 ``invalid_rego``, the reason in ``detail``.
    """
    key = sha256(b"".join(sha256(content.encode()).digest() for content in contents)).digest()
    if key not in _passed:
        await check_manifest(contents)
    _passed[key] = None
    _passed.move_to_end(key)
    if len(_passed) > _MAX_PASSED:
        _passed.popitem(last=False)


async def find_versions(call: Call, zone_id: str, ids: Collection[str]) -> dict[str, Any]:
    """Return the policy versions of the zone by id; without those that are not there or archived.

    Raises:
        Unavailable: 503 ``projection_lagging``, one is unknown and the read models are behind.
    """
    async with call.database() as db:
        rows = await live_versions(db, zone_id, list(ids))
        if len(rows) < len(set(ids)):
            if not await call.api.waiter.reached(db, await LogReader(db).end()):
                raise Unavailable("projection_lagging", "the read models are behind; try again")
            rows = await live_versions(db, zone_id, list(ids))
    return {row["id"]: row for row in rows}


async def check_contract(call: Call, zone_id: str, contents: Sequence[str], code: str) -> None:
    """Check the texts of a manifest: valid Rego, also together, and no public application named.

    Raises:
        Unprocessable: 422 ``code``, the reason in ``detail``.
    """
    try:
        await check_rego(*contents)
    except Unprocessable as refusal:
        why = f"the manifest is refused: {refusal.description}"
        raise Unprocessable(code, why, detail=refusal.extras["detail"]) from None
    async with call.database() as db:
        public = await public_application_ids(db, zone_id)
    for content in contents:
        if (named := named_in(public, content)) is not None:
            raise broken(code, f"public_application:{named}")
        await asyncio.sleep(0)  # together they may be long


def broken(code: str, reason: str) -> Unprocessable:
    """Return the refusal of a manifest."""
    return Unprocessable(code, "the manifest is refused", detail=reason)


def named_in(ids: Collection[str], text: str) -> str | None:
    """Return the first of ``ids`` that ``text`` contains; quick for many ids and a long text."""
    starts = (max(0, found.start() - _BEFORE_HYPHEN) for found in _UUID.finditer(text))
    uuids = {text[start : start + _UUID_LENGTH] for start in starts} if ids else set()
    return next((one for one in ids if one in uuids or (not _is_uuid(one) and one in text)), None)


def _is_uuid(text: str) -> bool:
    return len(text) == _UUID_LENGTH and _UUID.match(text, _BEFORE_HYPHEN) is not None
