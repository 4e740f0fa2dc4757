"""The guide to the command line, as users follow it beside a running stack."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.flow.test_readme import LIMIT, ROOT, SHELL, environment, home

__all__ = ["home"]

pytestmark = pytest.mark.flow


def test_the_blocks_work_as_pasted(home: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs/cli.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    done = subprocess.run(
        ["sh", "-e", "-c", SHELL + "".join(blocks)],
        cwd=tmp_path,
        env=environment(home) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "docs.rego is valid" in done.stdout
    assert re.search(r"^activated +yes$", done.stdout, re.MULTILINE)
    assert re.search(r"^propagation status +(loaded|unknown)$", done.stdout, re.MULTILINE)
    for nothing in ("No live agents; --all shows those that ended.", "No delegations in force; "):
        assert nothing in done.stdout
    assert (tmp_path / "delegations.dot").read_text().startswith("digraph delegations {\n")
    status = done.stdout.splitlines()[-6:]
    assert [line.split()[:2] for line in status[1:]] == [
        [service, "ready"] for service in ("api", "sts", "coordinator", "gateway", "worker")
    ]
