"""Files stay with the process that has their package's servers, and none is left over."""

from __future__ import annotations

import pytest

from tests.scheduling import LAST, chosen, package_of, rank

FILES = ["tests/api/test_a.py", "tests/sts/test_b.py", "tests/api/test_c.py", "tests/test_d.py"]


@pytest.mark.parametrize(
    ("mine", "taken", "file"),
    [
        ("", set(), FILES[0]),
        ("sts", {"api"}, FILES[1]),
        ("api", {"api"}, FILES[0]),
        ("tests", {"api", "sts"}, FILES[3]),
        ("flow", {"api"}, FILES[1]),
        ("flow", {"api", "sts", "tests"}, FILES[0]),
    ],
)
def test_what_comes_next(mine: str, taken: set[str], file: str) -> None:
    assert chosen(FILES, mine, taken) == file


def test_what_is_over_at_once_comes_last() -> None:
    assert rank("api") < rank("a package of tomorrow") == rank(package_of(FILES[3])) < rank(LAST[0])
