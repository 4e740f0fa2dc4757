"""Entries and hashes, byte for byte: the vectors of the contract."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from caracal.events.store.audit_entry import encode, prebuilt, sign, verify
from caracal.events.store.redaction import REDACTED, redacted
from caracal.events.topics import AUDIT
from caracal.projections.audit_row import Refused, Row, chain_hmac, read_entry
from tests.audit.trail import KEYS, decided

OTHER = (b"\x42" * 32,)
EV_1 = Row(
    *("ev-1", "zone1", "token_exchange", "req-1", "allow", "ps-1", "psv-1", "ab", "complete"),
    *('[{"policy":"p1"}]', "[]", "null"),
    datetime(2026, 5, 11, 20, tzinfo=UTC),
)
EV_2 = Row(
    *("ev-2", "zone1", "token_exchange", "req-2", "deny", "", "", "", "error"),
    *("null", '[{"step_up_required":"mfa"}]', '{"a":1,"b":"x"}'),
    datetime(2026, 5, 11, 20, 0, 1, 123456, tzinfo=UTC),
)
CONTENT_1 = "4f854e43f25c365fc98665f5c4ce7489a3b1e5e8a00504fef1d51028a83be211"
CONTENT_2 = "215f8f9aca65517face14fc3e0d6a8a8145d13d6f220743d083b57736d0ac457"


def test_signature_vector() -> None:
    expected = b"bed8ea7ad74efb1526db3821dcd5936ba6a6d4ce5e1c6b933abd4840d66077ca"
    assert sign(KEYS, b'{"id":"ev-1","zone_id":"zone1"}') == expected


def test_content_vectors() -> None:
    assert EV_1.content_sha256() == CONTENT_1
    assert EV_2.content_sha256() == CONTENT_2


def test_chain_vectors() -> None:
    first = "0d4478000111a5f2c35a3405e41e74190b7f001213455af51a816c47322bdd20"
    second = "66aaad56861f7db168f78126d05dfd84019247a005c2ffb1417de3bdc4781fff"
    assert chain_hmac(KEYS[0], CONTENT_1, None) == first
    assert chain_hmac(KEYS[0], CONTENT_2, CONTENT_1) == second
    assert chain_hmac(None, CONTENT_2, CONTENT_1) == ""


@pytest.mark.parametrize(
    ("ring", "valid"),
    [(KEYS, True), ((*OTHER, *KEYS), True), (OTHER, False), ((), True)],
    ids=["own", "ring", "other", "none"],
)
def test_each_key_of_the_ring_verifies(ring: tuple[bytes, ...], valid: bool) -> None:
    data = b"{}"
    assert verify(ring, data, sign(KEYS, data)) is valid


def test_an_entry_is_the_event_and_its_signature() -> None:
    event = decided(policy_set_id="ps-1")
    entry = encode(event, KEYS)
    members = orjson.loads(entry["data"])
    assert entry == {
        "id": event.id.encode(),
        "data": entry["data"],
        "sig": sign(KEYS, entry["data"]),
    }
    assert members == {
        "id": event.id,
        "zone_id": "zone1",
        "event_type": "token_exchange",
        "request_id": "req-1",
        "decision": "allow",
        "policy_set_id": "ps-1",
        "evaluation_status": "complete",
        "determining_policies_json": [{"policy": "p1"}],
        "diagnostics_json": None,
        "metadata_json": event.metadata_json,
        "occurred_at": event.occurred_at,
    }
    assert "sig" not in encode(event, ())
    assert "metadata_json" not in orjson.loads(encode(decided(metadata_json={}), KEYS)["data"])


def test_a_prebuilt_entry_is_what_a_script_adds() -> None:
    event = decided()
    entry = prebuilt(event, KEYS)
    fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    assert (entry.topic, entry.id) == (AUDIT, event.id)
    assert fields == {name.encode(): value for name, value in encode(event, KEYS).items()}


def test_secrets_are_not_written_and_the_policy_input_is_as_it_was() -> None:
    policy_input = {"context": {"token": "what a replay needs"}}
    metadata = {
        "session_id": "kept for the trail",
        "deep": [{"Access_Token": "gone", "fine": 1}],
        "policy_input": policy_input,
    }
    written = orjson.loads(encode(decided(metadata_json=metadata), KEYS)["data"])["metadata_json"]
    assert written == {**metadata, "deep": [{"Access_Token": REDACTED, "fine": 1}]}


def test_readers_see_no_secrets_and_no_sessions() -> None:
    shown = redacted({"a": [{"SESSION_ID": "x"}], "policy_input": {"token": "x"}, "tokens": 3})
    assert shown == {
        "a": [{"SESSION_ID": REDACTED}],
        "policy_input": {"token": REDACTED},
        "tokens": 3,
    }


def entry(**members: Any) -> dict[bytes, bytes]:
    """The entry of an event with these members, signed."""
    least = {"id": "ev-1", "zone_id": "zone1", "occurred_at": "2026-05-11T20:00:00Z"}
    data = orjson.dumps({**least, **members})
    return {b"data": data, b"sig": sign(KEYS, data)}


def test_an_entry_is_read_canonically() -> None:
    found = read_entry(
        entry(
            metadata_json={"b": "é", "a": 1},
            diagnostics_json=[],
            occurred_at="2026-05-11T22:00:00.123456789+02:00",
            unknown="member",
        ),
        KEYS,
    )
    assert found.row.metadata_json == '{"a":1,"b":"é"}'
    assert (found.row.diagnostics_json, found.row.determining_policies_json) == ("[]", "null")
    assert found.row.occurred_at == datetime(2026, 5, 11, 20, 0, 0, 123456, tzinfo=UTC)
    assert (found.row.event_type, found.row.policy_set_id) == ("", "")
    assert found.content_sha256 == found.row.content_sha256()


REFUSED: dict[str, tuple[dict[bytes, bytes], str]] = {
    "no data": ({b"id": b"ev-1"}, "missing_data_field"),
    "no signature": ({b"data": b"{}"}, "hmac_verify_failed"),
    "forged signature": ({b"data": b"{}", b"sig": sign(OTHER, b"{}")}, "hmac_verify_failed"),
    "signature of other bytes": ({**entry(), b"data": b"{}"}, "hmac_verify_failed"),
    "no JSON": ({b"data": b"{", b"sig": sign(KEYS, b"{")}, "json_parse_error:"),
    "no object": ({b"data": b"[]", b"sig": sign(KEYS, b"[]")}, "json_parse_error:"),
    "no UTF-8": ({b"data": b'"\xff"', b"sig": sign(KEYS, b'"\xff"')}, "json_parse_error:"),
    "no id": (entry(id=None), "json_parse_error:id is missing"),
    "empty zone": (entry(zone_id=""), "json_parse_error:zone_id is missing"),
    "no time": (entry(occurred_at=None), "json_parse_error:"),
    "time without offset": (entry(occurred_at="2026-05-11T20:00:00"), "json_parse_error:"),
    "time out of range": (entry(occurred_at="9999-12-31T00:00:00Z"), "json_parse_error:"),
    "time beyond UTC": (entry(occurred_at="0001-01-01T00:00:00+23:00"), "json_parse_error:"),
    "number for text": (entry(decision=5), "json_parse_error:decision is no text"),
}


@pytest.mark.parametrize(("fields", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_evidence_is_refused(fields: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        read_entry(fields, KEYS)
