"""What a picture is drawn of: lists read to a bound, and the names of what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from caracal.cli.connection import Cli
from caracal.cli.forest import Row
from caracal.cli.outcome import USAGE, Failure
from caracal.errors import CaracalError

READ_MOST = 20_000
"""Most things of a list that are read for a picture: the newest."""

PAGE = 500
"""Things that one request brings: the most that there are."""

_SHORT = re.compile("[0-9a-f]{8}|[0-9a-f]{12}")


@dataclass(frozen=True)
class Read:
    """What was read, and whether that is all there is."""

    rows: list[Row]
    complete: bool

    @classmethod
    def of(cls, *lists: Iterable[Row]) -> Read:
        """Read no more than :data:`READ_MOST` of each list; what is in two counts once."""
        found: dict[str, Row] = {}
        complete = True
        for each in lists:
            rows = list(islice(each, READ_MOST + 1))
            complete = complete and len(rows) <= READ_MOST
            found |= {row["id"]: row for row in rows[:READ_MOST]}
        return cls(list(found.values()), complete)


def names_of(cli: Cli, namespace: str, member: str) -> dict[str, str]:
    """Return the names of a zone's things by id; none where the control plane does not tell."""
    try:
        rows = cli.space(namespace).iter(cli.zone_id, limit=PAGE)
        return {row["id"]: row[member] for row in islice(rows, READ_MOST)}
    except CaracalError:
        return {}


def whole_id(text: str, ids: Iterable[str]) -> str:
    """Return the id that a picture shows as ``text``; what is no short id stays as it is.

    Raises:
        Failure: ``text`` is the end of more than one.
    """
    if not _SHORT.fullmatch(text):
        return text
    found = sorted({each for each in ids if each.endswith(text)})
    if len(found) > 1:
        raise Failure("which_id", f"{text} is the end of {len(found)} ids", "name one by its whole"
                      " id", exit_code=USAGE)  # fmt: skip
    return found[0] if found else text
