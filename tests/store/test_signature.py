"""Signatures of entries: the contract's vectors, rings, refusals."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.stream_signature import FIELD, Keyring, canonical

KEY_A, KEY_B = bytes(range(32)), b"\x42" * 32

VECTORS = [
    pytest.param(
        KEY_A,
        "caracal.sessions.revoke",
        {
            "session_id": "019283aa-0000-7000-8000-000000000001",
            "zone_id": "zone1",
            "reason": "grant_revoked",
            "grant_id": "019283aa-0000-7000-8000-0000000000aa",
        },
        "caracal.sessions.revoke\ngrant_id=019283aa-0000-7000-8000-0000000000aa\n"
        "reason=grant_revoked\nsession_id=019283aa-0000-7000-8000-000000000001\nzone_id=zone1\n",
        "604570c51d6eac7f73d8955e60a12f5bb15094a61bac2f48776fade726ef1507",
        id="1-revoke",
    ),
    pytest.param(
        KEY_B,
        "caracal.policy.invalidate",
        {
            "zone_id": "zone1",
            "policy_set_id": "ps-1",
            "policy_set_version_id": "psv-2",
            "shadow_version_id": "",
        },
        "caracal.policy.invalidate\npolicy_set_id=ps-1\npolicy_set_version_id=psv-2\n"
        "shadow_version_id=\nzone_id=zone1\n",
        "125f454d12d16ed94837473b24b120f86f574e525802a48c20fb94b4d74c6c10",
        id="2-empty-value",
    ),
    pytest.param(
        KEY_B,
        "caracal.policy.invalidate",
        {
            "zone_id": "zone1",
            "policy_set_id": "ps-1",
            "policy_set_version_id": "psv-2",
            "shadow_version_id": None,
        },
        "caracal.policy.invalidate\npolicy_set_id=ps-1\npolicy_set_version_id=psv-2\n"
        "zone_id=zone1\n",
        "4b8290d70eecf07c242bfb35033407a8344704c21294ffd48485710ed0951046",
        id="3-no-value",
    ),
    pytest.param(
        KEY_A,
        "caracal.agents.lifecycle",
        {
            "a_b": "x",
            "aB": "y",
            "Zone": "é=1",
            "outbox_id": "0198",
            "dedupe_key": "k:1",
            FIELD: "stale",
        },
        "caracal.agents.lifecycle\nZone=é=1\naB=y\na_b=x\ndedupe_key=k:1\noutbox_id=0198\n",
        "09175381bfa6f3302a9e6a7ce0bee11b504bc19d2202fd69735248349cefb39d",
        id="4-order-and-utf8",
    ),
]


@pytest.mark.parametrize(("key", "topic", "fields", "form", "signature"), VECTORS)
def test_vectors(
    key: bytes, topic: str, fields: dict[str, str | None], form: str, signature: str
) -> None:
    assert canonical(topic, fields) == form.encode()
    assert Keyring((key,)).sign(topic, fields) == signature
    present = {name: value for name, value in fields.items() if value is not None}
    assert Keyring((key,)).verify(topic, {**present, FIELD: signature})


def test_the_first_key_signs_and_all_verify() -> None:
    old, both, new = Keyring((KEY_A,)), Keyring((KEY_B, KEY_A)), Keyring((KEY_B,))
    before, after = old.signed("t", {"a": "1"}), both.signed("t", {"a": "1"})
    assert after == new.signed("t", {"a": "1"}) != before
    assert both.verify("t", before)
    assert both.verify("t", after)
    assert not new.verify("t", before)
    assert not old.verify("t", after)


def test_a_signature_is_bound_to_its_topic() -> None:
    ring = Keyring((KEY_A,))
    assert not ring.verify("other", ring.signed("t", {"a": "1"}))


def test_a_stale_signature_is_replaced() -> None:
    ring = Keyring((KEY_A,))
    assert ring.signed("t", {"a": "1", FIELD: "x"}) == ring.signed("t", {"a": "1"})


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "é" * 64, "short"])
def test_what_does_not_verify(signature: str | None) -> None:
    fields = {"a": "1"} if signature is None else {"a": "1", FIELD: signature}
    assert not Keyring((KEY_A,)).verify("t", fields)


def test_an_upper_case_signature_does_not_verify() -> None:
    ring = Keyring((KEY_A,))
    signed = ring.signed("t", {"a": "1"})
    assert not ring.verify("t", {**signed, FIELD: signed[FIELD].upper()})


def test_an_empty_ring_signs_nothing_and_accepts_everything() -> None:
    ring = Keyring()
    assert not ring
    assert ring.sign("t", {"a": "1"}) is None
    assert ring.signed("t", {"a": "1", FIELD: "stale"}) == {"a": "1"}
    assert ring.verify("t", {"a": "1"})


@pytest.mark.parametrize(
    "fields", [{"A": "1"}, {"a-b": "1"}, {"": "1"}, {"a\n": "1"}, {"é": "1"}, {"a": "1\nb=2"}]
)
def test_publishers_refuse_what_would_be_ambiguous(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"field name|newline"):
        Keyring((KEY_A,)).signed("t", fields)


names = st.from_regex(r"\A[a-z0-9_]{1,12}\Z").filter(lambda name: name != FIELD)
values = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=40)
entries = st.dictionaries(names, values, max_size=8)


@given(entries)
def test_signing_is_hmac_over_the_canonical_form(fields: dict[str, str]) -> None:
    signed = Keyring((KEY_A,)).signed("caracal.t", fields)
    lines = "".join(f"{name}={fields[name]}\n" for name in sorted(fields))
    expected = hmac.new(KEY_A, f"caracal.t\n{lines}".encode(), sha256).hexdigest()
    assert signed == {**fields, FIELD: expected}


@given(entries, names, values)
def test_any_change_breaks_the_signature(fields: dict[str, str], name: str, value: str) -> None:
    ring = Keyring((KEY_A,))
    signed = ring.signed("t", fields)
    assert ring.verify("t", signed)
    changed = {**signed, name: value}
    assert ring.verify("t", changed) == (changed == signed)
    for gone in fields:
        assert not ring.verify("t", {k: v for k, v in signed.items() if k != gone})


@given(entries, entries)
def test_the_form_of_publishable_entries_is_injective(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert (canonical("t", one) == canonical("t", other)) == (one == other)
