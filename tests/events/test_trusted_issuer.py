from __future__ import annotations

import pytest

from caracal.errors import Conflict, NotFound
from caracal.events.base import CASCADE_LIMIT, Fall
from caracal.events.session import Session
from caracal.events.store.log import Saved
from caracal.events.trusted_issuer import TrustedIssuer
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_application,
    new_session,
    new_trusted_issuer,
    signals,
    store_with,
    told,
)

URL = "https://login.example"


async def test_created_changed_archived() -> None:
    made = new_trusted_issuer(issuer=URL, required_claims={"admin": True})
    with in_zone():
        made.change({"audiences": ["client"], "required_claims": {"admin": True}})
        made.change({"audiences": ["client", "b"], "required_claims": {"admin": 1}})
        made.archive(Fall())
    store = await store_with(made)
    assert told(store) == [
        (
            "trusted_issuer.created",
            {
                "name": "login",
                "issuer": URL,
                "audiences": ["client"],
                "algorithms": ["RS256", "PS256", "ES256"],
                "jwks_uri": None,
                "subject_claim": "sub",
                "required_claims": {"admin": True},
                "mapped_claims": [],
                "application_ids": [],
                "max_age_seconds": 3600,
                "session_seconds": 3600,
                "single_use": True,
            },
        ),
        ("trusted_issuer.changed", {"audiences": ["client", "b"], "required_claims": {"admin": 1}}),
        ("trusted_issuer.archived", {"part": 1}),
    ]
    with in_zone():
        for command in (lambda: made.change({"name": "x"}), lambda: made.archive(Fall())):
            with pytest.raises(NotFound, match="trusted_issuer_not_found"):
                command()


async def test_what_changes_nothing_stores_nothing() -> None:
    made = new_trusted_issuer()
    store = await store_with(made)
    with in_zone():
        made.change({"single_use": True, "audiences": ["client"]})
    assert await store.save(made) == Saved()


async def test_a_zone_trusts_an_issuer_once() -> None:
    one = new_trusted_issuer(issuer=URL)
    store = await store_with(one, keys=(f"live:zone:{ZONE}", "live:zone:other"))
    await store.save(new_trusted_issuer("other", issuer=URL))
    await store.save(new_trusted_issuer(issuer=f"{URL}/"))  # exact: another one
    with pytest.raises(Conflict, match="trusted_issuer_conflict"):
        await store.save(new_trusted_issuer(issuer=URL))
    with in_zone():
        one.archive(Fall())
    await store.save(one)
    await store.save(new_trusted_issuer(issuer=URL))


async def test_it_is_for_applications_that_live() -> None:
    app, gone = new_application(), new_application()
    store = await store_with(app, gone)
    with in_zone():
        gone.archive(Fall())
    await store.save(gone)
    made = new_trusted_issuer(application_ids=[app.aggregate_id])
    await store.save(made)
    with pytest.raises(NotFound, match="application_not_found"):
        await store.save(new_trusted_issuer(application_ids=[gone.aggregate_id]))
    with in_zone():
        made.change({"application_ids": [app.aggregate_id, gone.aggregate_id]})
    with pytest.raises(NotFound, match="application_not_found"):
        await store.save(made)


async def test_a_dead_zone_trusts_nobody() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_trusted_issuer(), keys=())


async def test_what_it_began_ends_with_it_in_one_transaction() -> None:
    made, app = new_trusted_issuer(), new_application()
    store = await store_with(made, app)
    issuer_id, app_id = made.aggregate_id, app.aggregate_id
    begun = [new_session(app_id, trusted_issuer_id=issuer_id) for _ in range(CASCADE_LIMIT + 1)]
    for session in begun:
        await store.save(session)
    with in_zone():
        made.archive(Fall.of_sessions(session.aggregate_id for session in begun))
    await store.save(made)
    parts = [fact for fact in facts(store) if fact.name == "trusted_issuer.archived"]
    assert [(fact.data["part"], len(fact.data["sessions"])) for fact in parts] == [
        (1, 1000),
        (2, 1),
    ]
    said = signals(store, "caracal.sessions.revoke")
    assert len(said) == CASCADE_LIMIT + 1
    assert {entry["reason"] for entry in said} == {"issuer_archived"}
    with in_zone():
        begun[0].revoke("token_revoked")
    with pytest.raises(NotFound, match="session_not_found"):
        await store.save(begun[0])
    with pytest.raises(NotFound, match="trusted_issuer_not_found"):
        await store.save(new_session(app_id, trusted_issuer_id=issuer_id))
    with in_zone():
        made.archive_late(Fall())
        assert await store.save(made) == Saved()
        made.archive_late(Fall.of_sessions(["late"]))
    await store.save(made)
    assert facts(store)[-1].data["part"] == 3


async def test_it_can_be_loaded_again() -> None:
    made, app = new_trusted_issuer(issuer=URL), new_application()
    with in_zone():
        made.change({"single_use": False, "jwks_uri": f"{URL}/keys"})
    store = await store_with(made, app)
    loaded = await store.find(TrustedIssuer, made.aggregate_id)
    assert loaded is not None
    assert (loaded.issuer, loaded.single_use, loaded.jwks_uri) == (URL, False, f"{URL}/keys")
    session = new_session(app.aggregate_id, trusted_issuer_id=made.aggregate_id)
    await store.save(session)
    again = await store.find(Session, session.aggregate_id)
    assert again is not None
    assert again.trusted_issuer_id == made.aggregate_id
