"""``docs/adding.md`` works as written: its examples, applied to a copy of the product."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"```python\n# (into|file|listed): (\S+?)(?:, class \w+)?(?: (\w+))?\n(.*?)```", re.DOTALL
)
USE = """
from caracal.cli.flow import rows
from caracal.events.base import acting
from caracal.events.region import Region
from caracal.events.store.memory import MemoryLog
from caracal.ids import new_id
import asyncio

async def main():
    log = MemoryLog()
    with acting(zone_id=None, actor="operator"):
        saved = await log.save(Region.open(new_id(), "north"))
    assert [name for _, name in saved.events] == ["region.opened"]

asyncio.run(main())
for row in rows():
    print(" ".join(row))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the product, with its test of completeness."""
    shutil.copytree(
        ROOT / "caracal", tmp_path / "caracal", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_completeness.py", tmp_path / "tests")
    return tmp_path


def blocks() -> list[tuple[str, str, str, str]]:
    return BLOCK.findall((ROOT / "docs" / "adding.md").read_text())


def apply(copy: Path, *, listed: bool = True) -> None:
    for kind, path, tuple_name, text in blocks():
        file = copy / path
        if kind == "file":
            file.write_text(text)
        elif kind == "into":
            _insert(file, text)
        elif listed:
            name = text.rpartition(" ")[2].strip()
            source = file.read_text().replace(
                f"{tuple_name}: tuple", f"{text}\n{tuple_name}: tuple"
            )
            file.write_text(source.rstrip().removesuffix(")") + f"    {name},\n)\n")


def _insert(file: Path, text: str) -> None:
    source = file.read_text()
    if text.startswith("    "):  # into the class: before its first method
        source = source.replace("    def __init__(", f"{text}\n    def __init__(", 1)
    else:
        source += f"\n\n{text}"
    file.write_text(source)


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complete(copy: Path) -> subprocess.CompletedProcess[str]:
    return run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_completeness.py")


def test_the_examples_are_complete_and_flow(copy: Path) -> None:
    apply(copy)
    outcome = complete(copy)
    assert outcome.returncode == 0, outcome.stdout
    used = run(copy, "-c", USE)
    assert used.returncode == 0, used.stderr
    assert "zone.frozen caracal.zones.events zones" in used.stdout
    assert "Region region.opened caracal.regions.events admin_audit, regions" in used.stdout


def test_a_forgotten_line_says_what_to_add(copy: Path) -> None:
    apply(copy, listed=False)
    outcome = complete(copy)
    assert outcome.returncode == 1
    assert "add Region to AGGREGATES in caracal/events/__init__.py" in outcome.stdout
