"""What a grant that waits for a user's consent takes for its answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from caracal import clock
from caracal.errors import BadInput, NotFound
from caracal.events.base import Fall
from caracal.events.catalogue import export_of
from caracal.events.grant import Credential, Grant, RefreshedMeanwhile
from caracal.events.provider_authorization import LIFE, state_sha256
from caracal.events.store.appender import VersionConflict
from caracal.events.store.memory import MemoryLog
from tests.making import (
    in_zone,
    new_application,
    new_grant,
    new_provider,
    new_resource,
    sealed,
    store_with,
    told,
)

STATE, NOW = "state-of-32-bytes", clock.now()


async def waiting(state: str = STATE, *, saved: bool = True) -> tuple[MemoryLog, Grant, str]:
    """A grant that waits, and the provider it waits for."""
    app, resource, provider = new_application(), new_resource(), new_provider()
    grant = new_grant(app.aggregate_id, resource.aggregate_id, user_id="ada")
    store = await store_with(app, resource, provider, grant)
    with in_zone():
        start(grant, provider.aggregate_id, state)
    if saved:
        await store.save(grant)
    return store, grant, provider.aggregate_id


def start(grant: Grant, provider_id: str, state: str = STATE, ref: str = "verifier") -> None:
    grant.start_authorization(
        provider_id=provider_id,
        state=state,
        verifier=sealed(ref),
        initiated_by="token-1",
        return_to=None,
        now=NOW,
    )


def tokens(name: str) -> Credential:
    return Credential(sealed(f"{name}/access"), sealed(f"{name}/refresh"))


def status(grant: Grant) -> tuple[str, str | None]:
    assert grant.authorization is not None
    return grant.authorization.status, grant.authorization.error


async def test_a_consent_becomes_a_credential() -> None:
    store, grant, provider = await waiting()
    assert told(store)[-1] == (
        "grant.authorization_started",
        {
            "provider_id": provider,
            "state_sha256": state_sha256(STATE),
            "verifier_ref": "verifier",
            "initiated_by": "token-1",
            "return_to": None,
            "expires_at": clock.rfc3339(NOW + LIFE),
        },
    )
    assert set(store.held.vault) == {"verifier"}
    with in_zone():
        grant.answer_authorization(STATE, provider, NOW)
        await store.save(grant)
        assert set(store.held.vault) == set()  # the verifier was read before
        grant.connect(STATE, tokens("a"))
        await store.save(grant)
    assert [name for name, _ in told(store)[-2:]] == [
        "grant.authorization_answered",
        "grant.credential_stored",
    ]
    assert status(grant) == ("connected", None)
    found = await store.find(Grant, grant.aggregate_id)
    assert found is not None
    assert found.authorization == grant.authorization


async def test_neither_state_nor_verifier_is_exported() -> None:
    store, _, _ = await waiting()
    exported = export_of(*told(store)[-1])
    assert not {"state_sha256", "verifier_ref"} & exported.keys()
    assert STATE not in str(told(store))


@pytest.mark.parametrize(
    ("state", "provider", "late"),
    [
        ("", None, 0),
        ("another", None, 0),
        (STATE, "another", 0),
        (STATE, None, 600),
        ("\ud800", None, 0),
    ],
    ids=["empty", "wrong state", "another provider", "too late", "no text"],
)
async def test_what_is_no_answer(state: str, provider: str | None, late: int) -> None:
    store, grant, own = await waiting()
    before = told(store)
    with in_zone(), pytest.raises(BadInput, match="authorization_state_invalid"):
        grant.answer_authorization(state, provider or own, NOW + timedelta(seconds=late))
    await store.save(grant)
    assert told(store) == before


async def test_a_state_is_good_for_one_answer() -> None:
    store, grant, provider = await waiting()
    one, other = [await store.find(Grant, grant.aggregate_id) for _ in range(2)]
    assert one is not None
    assert other is not None
    with in_zone():
        one.answer_authorization(STATE, provider, NOW)
        await store.save(one)
        other.answer_authorization(STATE, provider, NOW)
        with pytest.raises(VersionConflict):
            await store.save(other)
        with pytest.raises(BadInput):
            one.answer_authorization(STATE, provider, NOW)


async def test_a_grant_that_waits_for_nothing() -> None:
    grant = new_grant("app", "resource", user_id="ada")
    with in_zone():
        with pytest.raises(BadInput):
            grant.answer_authorization(STATE, "p", NOW)
        with pytest.raises(BadInput):
            grant.connect(STATE, tokens("a"))
        grant.fail_authorization(STATE, "late")
    assert grant.authorization is None


async def test_a_new_request_takes_the_place_of_the_old_one() -> None:
    store, grant, provider = await waiting()
    with in_zone():
        start(grant, provider, "second", "verifier-2")
        await store.save(grant)
        assert set(store.held.vault) == {"verifier-2"}
        with pytest.raises(BadInput):
            grant.answer_authorization(STATE, provider, NOW)
        grant.answer_authorization("second", provider, NOW)


async def test_tokens_of_an_answer_that_was_overtaken_are_not_kept() -> None:
    store, grant, provider = await waiting()
    with in_zone():
        grant.answer_authorization(STATE, provider, NOW)
        start(grant, provider, "second", "verifier-2")
        with pytest.raises(BadInput):
            grant.connect(STATE, tokens("a"))
        grant.fail_authorization(STATE, "late")
    await store.save(grant)
    assert status(grant) == ("pending", None)
    assert set(store.held.vault) == {"verifier-2"}


@pytest.mark.parametrize("at_once", [True, False], ids=["with the answer", "afterwards"])
async def test_what_failed_is_noted(at_once: bool) -> None:
    store, grant, provider = await waiting()
    with in_zone():
        grant.answer_authorization(
            STATE, provider, NOW, "authorization_denied" if at_once else None
        )
        grant.fail_authorization(STATE, "authorization_denied")
        grant.fail_authorization(STATE, "again")
    await store.save(grant)
    assert told(store)[-1] == ("grant.authorization_failed", {"error": "authorization_denied"})
    assert status(grant) == ("failed", "authorization_denied")
    with in_zone(), pytest.raises(BadInput):
        grant.connect(STATE, tokens("a"))


async def test_a_refresh_meanwhile_is_no_answer() -> None:
    store, grant, provider = await waiting()
    with in_zone():
        grant.store_credential(tokens("old"))
        assert status(grant) == ("pending", None)
        grant.answer_authorization(STATE, provider, NOW)
        grant.refresh_credential(tokens("refreshed"), token_version=1)
        assert status(grant) == ("answered", None)
        grant.connect(STATE, tokens("new"))
    await store.save(grant)
    assert set(store.held.vault) == {"new/access", "new/refresh"}
    assert status(grant) == ("connected", None)


@pytest.mark.parametrize("end", [lambda grant: grant.revoke(Fall()), Grant.expire])
async def test_nobody_waits_for_a_grant_that_has_ended(end: Callable[[Grant], None]) -> None:
    store, grant, provider = await waiting()
    with in_zone():
        end(grant)
        await store.save(grant)
        assert set(store.held.vault) == set()
        with pytest.raises(BadInput):
            grant.answer_authorization(STATE, provider, NOW)
        for command in (lambda: start(grant, provider), lambda: grant.connect(STATE, tokens("a"))):
            with pytest.raises(NotFound, match="grant_not_found"):
                command()


async def test_nobody_waits_for_a_provider_that_is_archived() -> None:
    store, grant, _ = await waiting(saved=False)
    grant.collect_guards()
    grant.collect_events()
    with in_zone():
        start(grant, "nowhere")
        with pytest.raises(NotFound, match="provider_not_found"):
            await store.save(grant)


async def test_tokens_that_the_provider_has_ended_are_erased() -> None:
    store, grant, _ = await waiting(saved=False)
    with in_zone():
        with pytest.raises(RefreshedMeanwhile):
            grant.expire_credential(token_version=0)
        grant.store_credential(tokens("a"))
        with pytest.raises(RefreshedMeanwhile):
            grant.expire_credential(token_version=2)
        grant.expire_credential(token_version=1)
        await store.save(grant)
        assert told(store)[-1] == ("grant.credential_expired", {"token_version": 1})
        assert set(store.held.vault) == {"verifier"}
        for command in (
            lambda: grant.expire_credential(token_version=1),
            lambda: grant.refresh_credential(tokens("b"), token_version=1),
        ):
            with pytest.raises(RefreshedMeanwhile):
                command()
        grant.store_credential(tokens("c"))
        assert (grant.token_version, grant.credential_expired) == (2, False)
        grant.revoke(Fall())
        with pytest.raises(NotFound):
            grant.expire_credential(token_version=2)


async def test_refreshed_tokens_are_of_the_same_provider() -> None:
    _, grant, _ = await waiting(saved=False)
    with in_zone():
        grant.store_credential(Credential(sealed("a"), sealed("r"), provider_id="p"))
        grant.refresh_credential(tokens("b"), token_version=1)
    assert (grant.token_version, grant.token_provider_id) == (2, "p")


async def test_what_nobody_answers_expires_once_and_its_verifier_is_erased() -> None:
    store, grant, provider = await waiting()
    with in_zone():
        grant.expire_authorization(NOW + LIFE - timedelta(seconds=1))
        assert not grant.pending_events
        grant.expire_authorization(NOW + LIFE)
        grant.expire_authorization(NOW + 2 * LIFE)
        await store.save(grant)
    assert told(store)[-1] == ("grant.authorization_expired", {})
    assert [name for name, _ in told(store)].count("grant.authorization_expired") == 1
    assert not store.held.vault
    assert status(grant) == ("expired", None)
    with in_zone(), pytest.raises(BadInput):
        grant.answer_authorization(STATE, provider, NOW)
    with in_zone():  # the next one begins anew
        start(grant, provider, "another", "second")
        await store.save(grant)
        grant.answer_authorization("another", provider, NOW)
        await store.save(grant)
    assert status(grant) == ("answered", None)
    with in_zone():  # an answer is no longer waited for
        grant.expire_authorization(NOW + 2 * LIFE)
    assert not grant.pending_events


@pytest.mark.parametrize("end", ["revoke", "expire", "never began"])
async def test_without_a_wait_nothing_expires(end: str) -> None:
    _, grant, _ = await waiting()
    with in_zone():
        if end == "never began":
            grant = new_grant("app", "resource")
        else:
            grant.revoke(Fall()) if end == "revoke" else grant.expire()
        known = len(grant.pending_events)
        grant.expire_authorization(NOW + 2 * LIFE)
    assert len(grant.pending_events) == known


async def test_an_answer_and_the_end_of_its_time_meet_once() -> None:
    """Whoever saves first wins: the other has an old version."""
    store, grant, provider = await waiting()
    late = await store.find(Grant, grant.aggregate_id)
    assert late is not None
    with in_zone():
        grant.answer_authorization(STATE, provider, NOW)
        late.expire_authorization(NOW + LIFE)
    await store.save(grant)
    with pytest.raises(VersionConflict):
        await store.save(late)
