"""Where an admin token is looked for, and how env files are read."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.client import discover_admin_token
from caracal.client.token import MAX_ENV_FILE, NAME, parse_env

PLACES = ("explicit", "environment", "named", "docker", "own")


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.delenv("CARACAL_ENV_FILE", raising=False)


def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: dict[str, str]) -> str | None:
    """Put a token into each place named; return the explicit one."""
    if "environment" in tokens:
        monkeypatch.setenv(NAME, tokens["environment"])
    if "named" in tokens:
        monkeypatch.setenv("CARACAL_ENV_FILE", str(tmp_path / "some.env"))
        put(tmp_path / "some.env", f"{NAME}={tokens['named']}\n")
    if "docker" in tokens:
        put(tmp_path / "infra/docker/.env", f"{NAME}={tokens['docker']}\n")
    if "own" in tokens:
        put(tmp_path / ".env", f"{NAME}={tokens['own']}\n")
    return tokens.get("explicit")


@pytest.mark.parametrize(
    "present",
    [places for n in range(len(PLACES) + 1) for places in itertools.combinations(PLACES, n)],
)
def test_the_first_place_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...]
) -> None:
    explicit = lay(tmp_path, monkeypatch, {place: place for place in present})
    assert discover_admin_token(explicit) == (present[0] if present else None)


@pytest.mark.parametrize("empty", ["", "''", '""'])
def test_empty_ones_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    places = {"named": empty, "docker": empty, "own": "found"}
    lay(tmp_path, monkeypatch, {"environment": "", **places})
    assert discover_admin_token("") == "found"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARACAL_ENV_FILE", str(tmp_path))  # a directory
    put(tmp_path / "infra/docker", "a file where a directory should be")
    (tmp_path / ".env").write_bytes(b"\xff\xfe=\x00\n" + f"{NAME}=found\r\n".encode())
    assert discover_admin_token() == "found"


def test_a_file_is_not_read_for_ever(tmp_path: Path) -> None:
    put(tmp_path / ".env", f"{'#' * MAX_ENV_FILE}\n{NAME}=beyond\n")
    assert discover_admin_token() is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=v", "v"),
        ("  K  =  v w  ", "v w"),
        ("K=", ""),
        ("K='v'", "v"),
        ('K="v"', "v"),
        ("K=''v''", "'v'"),
        ("K='v\"", "'v\""),
        ("K='", "'"),
        ("K=' v '", " v "),
        ("K=a=b", "a=b"),
        ("K=v # no comment", "v # no comment"),
        ("K=v\r", "v"),
        ("K=1\nK=2", "2"),
        ("K=1\nK=", ""),
        ("\ufeffX=1\nK=v", "v"),
        *((line, None) for line in ("k=v", "1K=v", "K", "#K=v", "export K=v", "K v=1", "K-A=v")),
    ],
)
def test_lines(line: str, value: str | None) -> None:
    assert parse_env(line).get("K") == value


KEYS = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Z"), exclude_characters="'\""), min_size=1
)
REMARKS = st.sampled_from(["", "# remark", "export A=1", "lower=1", "=", "A B"])


@given(st.lists(st.tuples(KEYS, VALUES, st.sampled_from(["", "'", '"']), REMARKS), max_size=5))
def test_what_is_written_is_read(lines: list[tuple[str, str, str, str]]) -> None:
    text = "\n".join(f"{remark}\n {key} = {q}{value}{q} " for key, value, q, remark in lines)
    assert parse_env(text) == {key: value for key, value, _, _ in lines}


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    for key, value in parse_env(text).items():
        assert key
        assert "\n" not in value
