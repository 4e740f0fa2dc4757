from __future__ import annotations

from datetime import timedelta

import pytest

from caracal import clock
from caracal.errors import Forbidden, NotFound, TooMany
from caracal.events import application
from caracal.events.application import Application, check_traits
from caracal.events.base import Fall
from caracal.events.zone import dcr_seats
from tests.making import (
    ZONE,
    in_zone,
    new_application,
    new_session,
    sealed,
    signals,
    store_with,
    told,
)


async def test_created_changed_archived() -> None:
    app = new_application(secret=sealed("s1"))
    with in_zone():
        app.change({"name": "app", "consent": "implicit"})  # nothing different
        app.change({"name": "other", "jwks_uri": "https://a.example/jwks"})
        app.archive(Fall.of_sessions(["sid-1"]))
    store = await store_with(app)
    (_, created), *rest = told(store)
    assert created["client_secret_ref"] == "s1"
    assert rest == [
        ("application.changed", {"name": "other", "jwks_uri": "https://a.example/jwks"}),
        (
            "application.archived",
            {
                "part": 1,
                "reason": "requested",
                "sessions": ["sid-1"],
                "roots": [{"anchor": "session", "id": "sid-1"}],
            },
        ),
    ]
    assert store.held.vault == {}
    assert f"live:application:{app.aggregate_id}" not in store.held.keys


async def test_a_new_secret_erases_the_old_one() -> None:
    app = new_application(secret=sealed("s1"))
    store = await store_with(app)
    with in_zone():
        app.change({}, secret=sealed("s2"))
    await store.save(app)
    assert set(store.held.vault) == {"s2"}
    assert told(store)[-1] == ("application.changed", {"client_secret_ref": "s2"})
    assert (found := await store.find(Application, app.aggregate_id)) is not None
    assert found.client_secret_ref == "s2"


async def test_what_is_archived_is_not_found() -> None:
    app = new_application()
    with in_zone():
        app.archive(Fall())
        with pytest.raises(NotFound, match="application_not_found"):
            app.change({"name": "x"})
        with pytest.raises(NotFound, match="application_not_found"):
            app.archive(Fall())


async def test_an_archived_application_frees_its_sessions_keys_and_signals_each() -> None:
    app = new_application()
    sessions = [new_session(app.aggregate_id) for _ in range(3)]
    store = await store_with(app, *sessions)
    sids = [session.aggregate_id for session in sessions]
    with in_zone():
        app.archive(Fall.of_sessions(sids[:2]))
        app.archive_late(Fall())  # nothing late, nothing stored
        app.archive_late(Fall.of_sessions(sids[2:]))
    await store.save(app)
    assert not [key for key in store.held.keys if key.startswith("live:session:")]
    assert [data["part"] for name, data in told(store) if name == "application.archived"] == [1, 2]
    sent = signals(store, "caracal.sessions.revoke")
    assert [(entry["session_id"], entry["reason"]) for entry in sent] == [
        (sid, "application_archived") for sid in sids
    ]


async def test_many_ids_make_many_parts() -> None:
    app = new_application()
    with in_zone():
        app.archive(Fall.of_sessions(f"s{n}" for n in range(2001)), reason="dcr_shutdown")
    parts = [data for name, data in told(await store_with(app)) if name == "application.archived"]
    assert [(part["part"], len(part["sessions"]), len(part["roots"])) for part in parts] == [
        (1, 1000, 1000),
        (2, 1000, 1000),
        (3, 1, 1),
    ]
    assert {part["reason"] for part in parts} == {"dcr_shutdown"}


async def test_a_dead_zone_gets_no_application() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_application(), keys=())


async def test_a_zone_has_so_many_live_clients_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(application, "MAX_DCR", 2)
    later = clock.now() + timedelta(hours=1)
    expired, live, first = (
        new_application(registration_method="dcr", expires_at=at)
        for at in (clock.now(), later, None)
    )
    store = await store_with(expired, live, first, new_application())
    with pytest.raises(TooMany, match="dcr_limit_exceeded"):
        await store.save(new_application(registration_method="dcr"))
    await store.save(new_application())
    with in_zone():
        first.archive(Fall(), "dcr_shutdown")
    await store.save(first)
    await store.save(new_application(registration_method="dcr"))
    with in_zone():
        expired.archive(Fall(), "expired")  # frees nobody else's seat
    await store.save(expired)
    with pytest.raises(TooMany, match="dcr_limit_exceeded"):
        await store.save(new_application(registration_method="dcr"))
    assert live.aggregate_id in await store.seated(dcr_seats(ZONE))


def test_expiry() -> None:
    now = clock.now()
    assert not new_application().expired(now)
    app = new_application(expires_at=now)
    assert app.expired(now)
    assert not app.expired(now - timedelta(seconds=1))
    assert app.zone_id == ZONE


@pytest.mark.parametrize(
    ("traits", "code"),
    [
        ([f"t{n}" for n in range(33)], "trait_count_exceeded"),
        (["1a"], "trait_invalid"),
        ([""], "trait_invalid"),
        (["a" * 129], "trait_invalid"),
        (["a b"], "trait_invalid"),
        (["a\n"], "trait_invalid"),
        (["a", "a"], "trait_duplicate"),
        (["control:admin"], "trait_forbidden"),
        (["Control.admin"], "trait_forbidden"),
        (["control"], "trait_forbidden"),
    ],
)
def test_traits_against_the_rules(traits: list[str], code: str) -> None:
    with pytest.raises(Forbidden, match=code):
        check_traits(traits, may_control=False)


def test_traits_within_the_rules() -> None:
    check_traits(
        ["controller", "a" * 128, "a:b._-", *(f"t{n}" for n in range(29))], may_control=False
    )
    check_traits(["control:admin"], may_control=True)
