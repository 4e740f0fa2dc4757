"""What commands print: on a terminal, elsewhere, and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal import clock
from caracal.cli.text import cell, json_bytes, printable
from tests.cli.caracal import Caracal
from tests.cli.stand_in import StandIn

ID = "0198f3c4-0000-7000-8000-00000000000{}"
WAY_BACK = "2026-05-11T20:00:00.123456Z"
PROGRAM = (sys.executable, "-c", "from caracal.cli import main; main()")


def zone(number: int, **members: Any) -> dict[str, Any]:
    given = {
        "id": ID.format(number),
        "slug": f"zone-{number}",
        "name": f"Zone {number}",
        "dcr_enabled": False,
        "pkce_required": True,
        "created_at": WAY_BACK,
    }
    return given | members


def caracal(stand_in: StandIn, **variables: str) -> Caracal:
    return Caracal({"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t", **variables})


def on_terminal(
    stand_in: StandIn, *arguments: str, columns: int = 120, keys: bytes = b""
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all that stood there."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in
                   ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}  # fmt: skip
    environment |= {"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t", "TERM": "xterm"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=its, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    os.write(ours, keys)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(30), shown.decode().replace("\r\n", "\n")


def test_a_table_elsewhere_has_no_colours_and_exact_times(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [zone(1), zone(2, name="[red]x[/red] \x1b[31m")])
    lines = caracal(stand_in, COLUMNS="40").run("zone", "list").stdout.splitlines()
    assert lines[0].split("  ")[0] == "id"
    assert lines[1].split() == [
        *(ID.format(1), "zone-1", "Zone", "1", "no", "yes", "2026-05-11", "20:00:00Z")
    ]
    assert r"[red]x[/red] \x1b[31m" in lines[2]
    assert all(line == line.rstrip() for line in lines)


def test_a_table_on_a_terminal(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [zone(1, created_at=clock.rfc3339(clock.now()))])
    code, shown = on_terminal(stand_in, "zone", "list")
    assert code == 0
    assert "\x1b[1m" in shown  # the headings are bold
    assert ID.format(1) in shown
    assert "now" in shown or "s ago" in shown


def test_what_does_not_fit_a_terminal_is_shown_as_records(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [zone(1), zone(2)])
    _, shown = on_terminal(stand_in, "zone", "list", columns=60)
    assert [line for line in shown.splitlines() if ID.format(2) in line]
    assert len(shown.splitlines()) > 10


def test_states_have_colours_on_a_terminal_only(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (
        200,
        [zone(1)] if asked.path == "/v1/zones" else {"id": "g", "status": "revoked"},
    )
    _, shown = on_terminal(stand_in, "grant", "get", "g")
    assert "\x1b[31mrevoked" in shown
    assert "\x1b" not in caracal(stand_in).run("grant", "get", "g").stdout


@pytest.mark.parametrize(
    ("keys", "arguments", "code", "deleted"),
    [
        (b"n\n", (), 1, False),
        (b"\n", (), 1, False),
        (b"y\n", (), 0, True),
        (b"", ("--yes",), 0, True),
    ],
)
def test_an_end_asks_on_a_terminal(
    stand_in: StandIn, keys: bytes, arguments: tuple[str, ...], code: int, deleted: bool
) -> None:
    stand_in.answer = lambda asked: (204, None)
    ended, shown = on_terminal(stand_in, "zone", "delete", ID.format(1), *arguments, keys=keys)
    assert ended == code, shown
    assert ("Go on?" in shown) is not bool(arguments)
    assert bool(stand_in.asked) is deleted


def test_a_script_is_not_asked(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (204, None)
    assert caracal(stand_in).run("zone", "delete", ID.format(1)).stdout == (
        f"zone {ID.format(1)} deleted\n"
    )


def test_nothing_to_show(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [])
    assert caracal(stand_in).run("zone", "list").stdout == "No zones.\n"
    assert caracal(stand_in).json("zone", "list") == []


def test_a_reader_that_goes_away(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (200, [zone(1)] * 5000)
    environment = os.environ | {"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t"}
    process = subprocess.Popen(
        [*PROGRAM, "zone", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(30)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        ("", ""),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (["a", "b"], "a, b"),
        ([{"a": "ü", "b": 1}, {"c": None}], "a=ü, b=1; c=null"),
        ({"a": "x=1, y"}, "a=x=1, y"),
        ({"a": ["ü"]}, '{"a": ["ü"]}'),
        ([{"a": 1}, 2], '[{"a": 1}, 2]'),
        ("a\tb\nc", "a b c"),
        ("\x9b2J\u202e", r"\x9b2J\u202e"),
    ],
)
def test_a_cell(value: Any, text: str) -> None:
    assert cell("x", value, relative=False) == text


@pytest.mark.parametrize(
    ("text", "exact"),
    [(WAY_BACK, "2026-05-11 20:00:00Z"), ("2026-05-11T22:00:00+02:00", "2026-05-11 20:00:00Z"),
     ("soon", "soon"), ("2026-05-11T20:00:00", "2026-05-11T20:00:00")],
)  # fmt: skip
def test_a_time(text: str, exact: str) -> None:
    assert cell("created_at", text, relative=False) == exact


@given(st.text())
def test_nothing_that_is_shown_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters()),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_a_document_is_json(value: Any) -> None:
    assert json.loads(json_bytes(value)) == value


def test_half_a_surrogate_pair_stays_the_escape_it_came_as() -> None:
    assert json_bytes({"a": "\ud800"}, indent=None) == b'{"a": "\\ud800"}'


@pytest.mark.parametrize("mark", ["\x7f", "\x9b31m", "\u202e", "\u2066"])
def test_json_does_not_steer_a_terminal(mark: str) -> None:
    written = json_bytes({"name": mark})
    assert written.isascii()
    assert json.loads(written) == {"name": mark}
    assert printable("\ud800") == r"\ud800"


@pytest.mark.parametrize("arguments", [("list",), ("get", ID.format(1))])
def test_output_that_cannot_say_it(stand_in: StandIn, arguments: tuple[str, ...]) -> None:
    one = zone(1, name="Zürich ✓")
    stand_in.answer = lambda asked: (200, [one] if asked.path == "/v1/zones" else one)
    environment = os.environ | {
        "CARACAL_API_URL": stand_in.url,
        "CARACAL_ADMIN_TOKEN": "t",
        "PYTHONIOENCODING": "latin-1",
    }
    done = subprocess.run(
        [*PROGRAM, "zone", *arguments],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Z\xfcrich \\u2713" in done.stdout


def test_who_agrees_is_shown_to_which_call(stand_in: StandIn) -> None:
    call = {
        "http": {"method": "POST", "path": "/mcp\x1b[2J"},
        "mcp": {"method": "tools/call", "name": "refund", "arguments_sha256": "a"},
    }
    who = {"application_id": ID.format(7), "resources": ["resource://pay"]}
    asked = {"id": ID.format(1), "challenge_type": "mfa", "metadata_json": {"call": call, **who}}
    direct = asked | {"metadata_json": {"call": None}}
    stand_in.answer = lambda _: (200, [asked, direct, asked | {"metadata_json": None}])
    shell = caracal(stand_in, CARACAL_ZONE=ID.format(9))
    printed = shell.run("challenge", "list").stdout.splitlines()
    assert r"http: POST /mcp\x1b[2J, mcp: tools/call refund" in printed[1]
    assert ID.format(7) in printed[1]
    assert "resource://pay" in printed[1]
    assert not any("http" in line for line in printed[2:])
    assert shell.json("challenge", "list")[0] == asked
    stand_in.answer = lambda _: (200, asked)
    shown = shell.run("challenge", "get", "c").stdout
    assert r"http: POST /mcp\x1b[2J, mcp: tools/call refund" in shown
    assert shell.json("challenge", "get", "c") == asked
    call["http"] = {"method": "DELETE", "path": "/files/a/b", "raw_path": "/files/a%2Fb"}
    assert "http: DELETE /files/a%2Fb, mcp" in shell.run("challenge", "get", "c").stdout
