from __future__ import annotations

import pytest

from caracal.errors import NotFound
from caracal.events.base import Fall
from caracal.events.session import Session
from tests.making import in_zone, new_application, new_session, store_with, told

ENDS = {
    "session.revoked": lambda session: session.revoke("token_revoked"),
    "session.expired": Session.expire,
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_session_ends_once(name: str) -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    with in_zone():
        ENDS[name](session)
        with pytest.raises(NotFound, match="session_not_found"):
            ENDS[name](session)
    store = await store_with(app, session)
    assert told(store)[-1][0] == name
    assert f"live:session:{session.aggregate_id}" not in store.held.keys


async def test_what_a_cascade_ended_cannot_end_again() -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    store = await store_with(app, session)
    with in_zone():
        app.archive(Fall.of_sessions([session.aggregate_id]))
    await store.save(app)
    found = await store.find(Session, session.aggregate_id)
    assert found is not None
    with in_zone():
        found.revoke("token_revoked")
    with pytest.raises(NotFound, match="session_not_found"):
        await store.save(found)


async def test_nothing_starts_in_what_is_dead() -> None:
    app = new_application()
    store = await store_with(app)
    with pytest.raises(NotFound, match="application_not_found"):
        await store.save(new_session("none"))
    store.held.keys.pop("live:zone:zone-of-tests")
    with pytest.raises(NotFound, match="zone_not_found"):
        await store.save(new_session(app.aggregate_id))
