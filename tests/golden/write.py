"""``make golden``: writes the golden files anew."""

from __future__ import annotations

from pathlib import Path

from tests.golden.made import FILES

FOLDER = Path(__file__).with_name("files")

if __name__ == "__main__":
    for name, make in FILES.items():
        (FOLDER / name).write_text(make())
