"""The golden files are what the declarations say; ``make golden`` writes them anew."""

from __future__ import annotations

import pytest

from tests.golden.made import FILES
from tests.golden.write import FOLDER


@pytest.mark.parametrize("name", FILES)
def test_golden(name: str) -> None:
    assert FILES[name]() == (FOLDER / name).read_text(), "run `make golden`, look at the diff"


def test_no_golden_file_is_left_over() -> None:
    assert {file.name for file in FOLDER.iterdir()} == set(FILES)
