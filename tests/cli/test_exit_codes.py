"""How commands fail: exit code, and one line that says what to do. Never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.caracal import Caracal
from tests.cli.stand_in import StandIn

PROGRAM = (sys.executable, "-c", "from caracal.cli import main; main()")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def caracal(stand_in: StandIn, **variables: str) -> Caracal:
    return Caracal({"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t", **variables})


@pytest.mark.parametrize(
    ("status", "body", "code", "line"),
    [
        (
            401,
            {"error": "invalid_admin_token", "error_description": "a valid admin token is needed"},
            1,
            "invalid_admin_token: a valid admin token is needed (request req-7);"
            " set CARACAL_ADMIN_TOKEN, or name a --token-file",
        ),
        (403, {"error": "admin_token_capability"}, 1,
         "admin_token_capability: admin token capability (request req-7);"
         " use a token of capability write"),
        (
            400,
            {
                "error": "invalid_zone",
                "error_description": "the body is not valid",
                "issues": [
                    *({"path": ["name"], "message": "too short"}, {"message": "odd"}),
                    *({"message": "the body"}, 7),
                ],
            },
            1,
            "invalid_zone: the body is not valid: name: too short; odd (request req-7)",
        ),
        (422, {"error": "invalid_rego", "error_description": "no", "detail": "syntax_error:1:2"}, 1,
         "invalid_rego: no: syntax_error:1:2 (request req-7)"),
        (409, {"error": "zone_slug_conflict", "error_description": "taken\x1b[31m\nor so"}, 1,
         "zone_slug_conflict: taken\\x1b[31m or so (request req-7)"),
        (500, {"error": "internal_error", "error_description": "internal error"}, 1,
         "internal_error: internal error (request req-7);"
         " the service's log says more under this request id"),
        (503, {"error": "state_stale", "error_description": "the view is old"}, 3,
         "state_stale: the view is old (request req-7)"),
        (504, "<html>gateway</html>", 3, "Gateway Timeout: Gateway Timeout (request req-7)"),
        (200, "no object", 1, "invalid_response: an object was expected (request req-7)"),
    ],
)  # fmt: skip
def test_a_refusal(stand_in: StandIn, status: int, body: Any, code: int, line: str) -> None:
    stand_in.answer = lambda asked: (status, body)
    assert caracal(stand_in).refused("zone", "create", "--name", "A", code=code) == line


def test_bootstrap_where_it_is_off(stand_in: StandIn) -> None:
    stand_in.answer = lambda asked: (404, {"error": "not_found"})
    assert caracal(stand_in).refused("bootstrap") == (
        "not_found: this server makes no local zone;"
        " start it in dev mode with CARACAL_LOCAL_BOOTSTRAP_ENABLED=true"
    )


def test_out_of_reach() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    line = Caracal({"CARACAL_ADMIN_TOKEN": "t"}).refused(
        "zone", "create", "--name", "A", "--api-url", url, code=3
    )
    assert line.startswith("admin_request_failed: ")
    assert line.endswith("is it running (`caracal status`), and is --api-url right?")


USAGE = [
    (("zone", "create"), "Missing option '--name'"),
    (("app", "get"), "Missing argument 'ID'"),
    (("zone", "create", "--nme", "A"), "No such option: --nme"),
    (("app", "create", "--name", "A", "--credential-type", "x"), "is not one of"),
    (("resource", "patch", "r", "--clear", "name"), "'name' is none of upstream_url"),
    (("app", "create", "--name", "A", "--jwks", "{"), "this is no JSON"),
    (("app", "create", "--name", "A", "--jwks", "NaN"), "this is no JSON"),
    (("app", "create", "--name", "A", "--client-secret", "@none"), "none cannot be read"),
    (("policy", "create", "--name", "P", "--file", "none"), "none cannot be read"),
    (("polcy", "list"), "Did you mean 'policy'"),
    (("zone",), "Usage: caracal zone"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_usage(stand_in: StandIn, arguments: tuple[str, ...], said: str) -> None:
    result = caracal(stand_in).run(*arguments, code=2)
    assert said in " ".join((result.stderr + result.stdout).split())
    assert stand_in.asked == []


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "line"),
    [
        ({}, (), 3, "no_stack: no stack runs in "),
        ({"CARACAL_API_URL": "http://127.0.0.1:9"}, (), 2, "no_token: there is no admin token;"),
        ({"CARACAL_API_URL": "localhost:3000"}, (), 2, "invalid_url: --api-url must be an address"),
        ({"CARACAL_API_URL": "http://u:secret@h"}, (), 2, "invalid_url: --api-url must be an addr"),
        ({"CARACAL_API_URL": "http://h:x"}, (), 2, "invalid_url: --api-url must be an address"),
        (
            {"CARACAL_API_URL": "http://h"},
            ("--token-file", "none"),
            2,
            "no_token: none cannot be read (FileNotFoundError)",
        ),
        (
            {"CARACAL_API_URL": "http://h", "CARACAL_ADMIN_TOKEN": "two\nsecret-lines"},
            (),
            2,
            "invalid_option: admin_token",
        ),
    ],
)
def test_nothing_says_where_or_who(
    variables: dict[str, str], arguments: tuple[str, ...], code: int, line: str
) -> None:
    said = Caracal(variables).refused("zone", "list", *arguments, code=code)
    assert said.startswith(line)
    assert "secret" not in said


def test_a_stacks_tokens_go_to_that_stack_only(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.answer = lambda asked: (200, [{"id": "z1", "slug": "z", "name": "Z"}])
    stack = {
        "api_url": stand_in.url,
        "admin_token": "admin",
        "pid": os.getpid(),
        "coordinator_url": stand_in.url,
        "coordinator_token": "operator",
    }
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    found = Caracal({"CARACAL_DATA_DIR": str(tmp_path)})
    found.run("agent", "list")
    assert [asked.token for asked in stand_in.asked] == ["admin", "operator"]
    stand_in.asked.clear()
    other = stand_in.url.replace("127.0.0.1", "localhost")
    assert found.refused("zone", "list", "--api-url", other, code=2).startswith("no_token: ")
    line = found.refused("agent", "list", "--coordinator-url", other, code=2)
    assert line.startswith("coordinator_token_not_configured: ")
    assert {asked.token for asked in stand_in.asked} == {"admin"}
    found.run("zone", "list", "--token", "mine")
    assert stand_in.asked[-1].token == "mine"
    (tmp_path / "token").write_text("from-file\n")
    found.run("zone", "list", "--token", "mine", "--token-file", str(tmp_path / "token"))
    assert stand_in.asked[-1].token == "from-file"


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": "x"}', "{}"])
def test_a_file_that_is_no_stacks(content: str, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(content)
    line = Caracal({"CARACAL_DATA_DIR": str(tmp_path)}).refused("zone", "list", code=2)
    assert line.startswith(f"{tmp_path}/stack.json cannot be read: ")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "coordinator_url_not_configured: "),
        ({"CARACAL_COORDINATOR_URL": "http://127.0.0.1:9"}, "coordinator_token_not_configured: "),
    ],
)
def test_nothing_says_where_the_coordinator_is(
    stand_in: StandIn, variables: dict[str, str], line: str
) -> None:
    stand_in.answer = lambda asked: (200, [{"id": "z1", "slug": "z", "name": "Z"}])
    assert caracal(stand_in, **variables).refused("agent", "list", code=2).startswith(line)


def test_a_bug_of_ours_shows_no_traceback(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caracal.cli.show.Output.record", lambda self, record, hidden=(): 1 / 0)
    line = caracal(stand_in).refused("zone", "get", "0198f3c4-0000-7000-8000-000000000000")
    assert line == "internal_error: ZeroDivisionError in the command itself"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("zone", "list", "--help"), 0),
        (("zone", "list", "--api-url", "http://127.0.0.1:9", "--token", "t"), 3),
        (("zone", "list", "--limit", "many"), 2),
        (("policy", "validate", "-"), 1),
    ],
)
def test_of_the_program_itself(arguments: tuple[str, ...], code: int) -> None:
    done = subprocess.run(
        [*PROGRAM, *arguments], input="package x", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
