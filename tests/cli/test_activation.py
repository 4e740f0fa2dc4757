"""``caracal policy-set activate``: waiting until a version decides everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from tests.cli.caracal import Caracal
from tests.cli.stand_in import Answer, Asked, StandIn

ZONE = "0198f3c4-0000-7000-8000-000000000001"
COMMAND = ("policy-set", "activate", "s", "v")


def activating(stand_in: StandIn, words: Iterator[str | int]) -> Caracal:
    """Answer an activation; say ``words`` of its propagation, a number is a status."""

    def answer(asked: Asked) -> Answer:
        if asked.method == "POST":
            return 202, {"activated": True, "version_id": "v", "position": 7}
        assert asked.path.endswith("/activation-status?version_id=v&position=7")
        word = next(words)
        if isinstance(word, int):
            return word, {"error": "not_found"}
        return 200, {"active": True, "propagation_status": word, "sts": [], "topic": {}}

    stand_in.answer = answer
    return Caracal(
        {"CARACAL_API_URL": stand_in.url, "CARACAL_ADMIN_TOKEN": "t", "CARACAL_ZONE": ZONE}
    )


def test_until_it_is_loaded(stand_in: StandIn) -> None:
    words = ["waiting_for_topic", "waiting_for_sts", "waiting_for_sts", "loaded"]
    result = activating(stand_in, iter(words)).run(*COMMAND)
    assert result.stderr.splitlines() == ["waiting for topic", "waiting for sts"]
    assert "loaded" in result.stdout


def test_the_alias(stand_in: StandIn) -> None:
    document = activating(stand_in, iter(["loaded"])).json("policy", *COMMAND[1:])
    assert (document["activated"], document["propagation_status"]) == (True, "loaded")


@pytest.mark.parametrize("words", [["failed"], repeat("waiting_for_sts")])
def test_not_in_force(stand_in: StandIn, words: list[str]) -> None:
    caracal = activating(stand_in, chain(words))
    document = caracal.json(*COMMAND, "--timeout", "0.3", code=1)
    assert document["propagation_status"] in ("failed", "waiting_for_sts")


def test_a_server_that_does_not_tell(stand_in: StandIn) -> None:
    result = activating(stand_in, iter([404])).run(*COMMAND)
    assert result.stderr == "this server does not tell how far an activation has come\n"
    assert "unknown" in result.stdout


def test_no_waiting(stand_in: StandIn) -> None:
    assert activating(stand_in, iter([])).json(*COMMAND, "--no-wait")["position"] == 7
