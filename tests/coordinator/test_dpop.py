"""Bound tokens at the Coordinator (RFC 9449, section 7): who sends one shows its key."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from caracal import jwk
from tests.coordinator.running import Crew
from tests.coordinator.test_agents import refusal
from tests.signing import PrivateKey, ath_of, dpop_proof, ec_key

KEY, OTHER = ec_key(), ec_key()
BOUND = {"cnf": {"jkt": jwk.thumbprint(KEY.public_key())}}


async def called(
    crew: Crew,
    token: str,
    *,
    scheme: str = "DPoP",
    key: PrivateKey = KEY,
    method: str = "GET",
    sent: tuple[str, ...] | None = None,
    **claims: Any,
) -> httpx.Response:
    """List the agents, with a proof of this very request; ``claims`` change it."""
    path = f"/zones/{crew.zone}/agents"
    proof = dpop_proof(key, method, crew.url + path, **{"ath": ath_of(token)} | claims)
    headers = [("Authorization", f"{scheme} {token}")]
    headers += [("DPoP", each) for each in ((proof,) if sent is None else sent)]
    return await crew.client.get(path, headers=headers)


def unproven(answer: httpx.Response, code: str) -> bool:
    challenge = f'DPoP error="{code}", algs="ES256 RS256 PS256"'
    assert answer.headers.get("www-authenticate") == challenge, answer.text
    return refusal(answer) == (401, code)


async def test_who_holds_the_key_is_let_in(crew: Crew) -> None:
    assert (await called(crew, crew.token(**BOUND))).status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"ath": None},
        {"ath": ath_of("another")},
        {"htm": "POST"},
        {"htu": "https://elsewhere.example/zones"},
        {"iat": 1},
        {"jti": None},
    ],
)
async def test_proofs_that_do_not_fit(crew: Crew, claims: dict[str, Any]) -> None:
    assert unproven(await called(crew, crew.token(**BOUND), **claims), "invalid_dpop_proof")


async def test_no_proof_or_two(crew: Crew) -> None:
    token = crew.token(**BOUND)
    for sent in ((), ("proof",), ("one", "two")):
        assert unproven(await called(crew, token, sent=sent), "invalid_dpop_proof")


async def test_another_key_or_none(crew: Crew) -> None:
    assert unproven(await called(crew, crew.token(**BOUND), key=OTHER), "invalid_token")
    assert unproven(await called(crew, crew.token(cnf={"x5t#S256": "x"})), "invalid_token")


async def test_the_scheme_says_what_the_token_is(crew: Crew) -> None:
    assert unproven(await called(crew, crew.token(**BOUND), scheme="Bearer"), "invalid_token")
    assert unproven(await called(crew, crew.token()), "invalid_token")
    assert (await called(crew, crew.token(), scheme="Bearer")).status_code == 200
    assert refusal(await called(crew, crew.token(**BOUND), scheme="dpop")) == (401, "missing_token")


async def test_a_proof_is_good_once(crew: Crew) -> None:
    token = crew.token(**BOUND)
    url = f"{crew.url}/zones/{crew.zone}/agents"
    sent = (dpop_proof(KEY, "GET", url, ath=ath_of(token)),)
    answers = await asyncio.gather(*(called(crew, token, sent=sent) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
