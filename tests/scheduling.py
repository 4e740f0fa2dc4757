"""Which process runs which tests, and in which order: servers are started once, the end is even."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

FIRST = ("api", "coordinator", "flow", "embedded", "sts", "torture", "projections")
LAST = ("gateway", "cli", "client", "policy", "events", "golden")


def package_of(file: str) -> str:
    """The folder of a test file: its tests share servers (fixtures of scope ``package``)."""
    return PurePosixPath(file).parent.name


def rank(package: str) -> int:
    """What takes long comes first, what is over at once comes last; the rest between them."""
    if package in FIRST:
        return FIRST.index(package) - len(FIRST)
    return LAST.index(package) + 1 if package in LAST else 0


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Items by package, those of a package as they were: the same in every process."""
    return sorted(items, key=lambda item: rank(package_of(item.nodeid.partition("::")[0])))


class PackageScheduling(LoadFileScheduling):
    """Give a process files of the package that it has servers for, while there are any.

    After that a package that nobody is at, after that any: what the others have not begun.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        mine = self._package(node)
        taken = {self._package(other) for other in self.nodes if other is not node}
        self.workqueue.move_to_end(chosen(self.workqueue, mine, taken), last=False)
        super()._assign_work_unit(node)

    def _package(self, node: WorkerController) -> str:
        given = list(self.assigned_work.get(node, ()))
        return package_of(given[-1]) if given else ""


def chosen(files: Iterable[str], mine: str, taken: set[str]) -> str:
    """The next file for a process that is at package ``mine``, the others at ``taken``."""

    def distance(file: str) -> int:
        package = package_of(file)
        return 0 if package == mine else 1 if package not in taken else 2

    return min(files, key=distance)
